"""Models that a benchmark trains once and keeps."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel

from expunge.data.rows import Row
from expunge.data.tokens import Rendering
from expunge.loop.training import Training, fine_tune
from expunge.model.save import atomic_folder, write, write_adapter
from expunge.runs.checkpoint import Checkpoints


def keep(
    folder: Path,
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    rendering: Rendering,
    training: Training,
    seed: int,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Fine-tunes `model` in place and writes it to `folder`, whole or not at all; nothing where that exists. With
    `checkpoints` an interrupted fine-tune goes on."""
    if folder.exists():
        return
    start = time.perf_counter()
    model, loss = fine_tune(
        model, tokenizer, rows, rendering, training, seed, f"{folder.name} model", checkpoints=checkpoints
    )
    with atomic_folder(folder) as temporary:
        if isinstance(model, PeftModel):
            write_adapter(model, temporary)
            tokenizer.save_pretrained(temporary)
        else:
            write(model, tokenizer, temporary, model.dtype)
    print(f"{folder.name}: {time.perf_counter() - start:.0f} s, last epoch's loss {loss:.3f}", flush=True)
