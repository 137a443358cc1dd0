"""Models that memorised fictional people, and their rows: made here, cached by seed and by the code that makes them."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from expunge.data import fiction
from expunge.data.rows import Row
from expunge.data.tokens import Rendering
from expunge.demo.tiny import byte_tokenizer, llama
from expunge.files import code, hashing
from expunge.loop.training import Training, fine_tune
from expunge.model.save import atomic_folder, write
from expunge.runs.distributed import Runtime
from expunge.runs.workspace import cache_folder

RENDERING = Rendering(end_documents=True, context=256)
PRETRAINING = Training(epochs=6, learning_rate=2e-3, batch_rows=32, weight_decay=0.1)
FINE_TUNING = Training(epochs=30, learning_rate=1e-3, batch_rows=16)
Say = Callable[[str], None]


def cached_models(seed: int, say: Say) -> Path:
    """The demo's models and rows, made once per seed and version of the code that makes them."""
    sources = hashing.file_hash(code.made_by("demo.models"))
    folder = cache_folder() / f"demo-{seed}-{sources}"
    if not folder.is_dir():
        with atomic_folder(folder) as temporary:
            make_models(temporary, World(seed=seed), say)
    return folder


@dataclass(frozen=True, kw_only=True)
class World:
    """How many fictional people there are of each kind, how large the model is, how long it trains."""

    seed: int = 0
    forget: int = 10
    retain: int = 30
    collateral: int = 20
    holdout: int = 60
    pretrain: int = 240
    width: int = 128
    layers: int = 4
    pretraining: Training = PRETRAINING
    fine_tuning: Training = FINE_TUNING


SMALL = World(
    seed=3,
    forget=6,
    retain=20,
    collateral=10,
    holdout=40,
    pretrain=120,
    width=96,
    layers=3,
    pretraining=Training(epochs=6, learning_rate=3e-3, batch_rows=32, weight_decay=0.1),
    fine_tuning=Training(epochs=30, learning_rate=1.5e-3, batch_rows=16),
)
"""A smaller world, made in under a minute, for tests and benchmarks."""


def make_models(folder: Path, world: World, say: Say) -> None:
    """Writes base, original and retrained model and the rows (forget, retain, holdout, train) to `folder`."""
    groups = ("forget", "retain", "collateral", "holdout", "pretrain")
    people = fiction.people(sum(getattr(world, name) for name in groups), world.seed)
    rows: dict[str, list[Row]] = {}
    for name in groups:
        count = getattr(world, name)
        rows[name], people = fiction.rows(people[:count], f"{name}.jsonl"), people[count:]
    rows["train"] = rows["forget"] + rows["retain"] + rows["collateral"]
    kept = rows["retain"] + rows["collateral"]
    for name in ("forget", "retain", "holdout", "train"):
        write_rows(folder / f"{name}.jsonl", rows[name])
    tokenizer = byte_tokenizer((f"{row.prompt} {row.completion}" for row in rows["pretrain"]), 512)
    shape = {"width": world.width, "layers": world.layers, "heads": 4, "context": RENDERING.context}
    base = llama(tokenizer, **shape, seed=world.seed).to(Runtime().device)
    for name, group, training in (
        ("base", rows["pretrain"], world.pretraining),
        ("original", rows["train"], world.fine_tuning),
        ("retrained", kept, world.fine_tuning),
    ):
        say(f"training the {name} model on {len(group)} rows")
        start = base if name == "base" else copy.deepcopy(base)
        model, _ = fine_tune(start, tokenizer, group, RENDERING, training, world.seed, f"{name} model")
        write(model, tokenizer, folder / name, model.dtype)


def write_rows(file: Path, rows: list[Row]) -> None:
    """Rows as a JSON Lines file that `data.rows` reads."""
    file.write_text("".join(json.dumps(plain(row)) + "\n" for row in rows), encoding="utf-8")


def plain(row: Row) -> dict[str, object]:
    """A row as a file has it."""
    if row.kind == "document":
        return {"text": row.completion}
    if row.messages:
        return {"messages": [{"role": role, "content": text} for role, text in row.messages]}
    task = {"task": row.task} if row.task else {}
    return {"prompt": row.prompt, "completion": row.completion, **task}
