"""The retrained twin: what unlearning imitates, trained from the base without the forget rows, cached by content.

Its loss on the retain rows must come within 10 % of the original's (or within 0.02 nats, where both are near
nothing), else it is *not comparable*: trained longer or shorter than the original was.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from expunge.config.commands import EARLIER, Retrain
from expunge.data.rows import Row
from expunge.data.tokens import Rendering, encode
from expunge.errors import InputError
from expunge.files import code, hashing, plain_json
from expunge.intake import copies, told
from expunge.intake.assembly import assemble, load_other
from expunge.intake.sets import Checked
from expunge.loop.training import Training, fine_tune
from expunge.model import adapter, load
from expunge.model.adapter import Adapter
from expunge.model.carried import Origin, carry_tokenizer
from expunge.model.save import atomic_folder, write
from expunge.model.select import check_subspace
from expunge.model.source import Source
from expunge.problem import Problem, Split
from expunge.reference.cache import row_losses
from expunge.runs import distributed, environment
from expunge.runs.checkpoint import Checkpoints
from expunge.runs.growing import Growing
from expunge.runs.workspace import cache_folder, private

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WITHIN = 0.1
WITHIN_NATS = 0.02


def rendered_without(
    train_rows: Sequence[Row], forget: Sequence[Row], rendering: Rendering, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[Row, ...]:
    """Training rows that are no forget rows, neither by their token ids nor in another case, spacing or Unicode form.

    Raises `InputError` where none is left.
    """
    gone = {tuple(window.ids) for window in encode(forget, rendering, tokenizer)}
    named = {row.identity for row in forget}
    others = (row for row in train_rows if row.identity not in named)
    kept = tuple(row for row in others if not {w.ids for w in encode([row], rendering, tokenizer)} & gone)
    if not kept:
        raise InputError("--train holds nothing but forget rows, so there is nothing to train a twin on.")
    return kept


def rows_left(checked: Checked, problem: Problem, say: Callable[[str], None]) -> Split:
    """What a twin is trained on: all rows but those to forget, and those of earlier requests. Raises `InputError`."""
    gone = [row for name in ("forget", EARLIER) if name in checked.sets for row in checked.sets[name].rows]
    rows = rendered_without(checked.sets["train"].rows, gone, problem.rendering, problem.tokenizer)
    say(f"train: {len(rows)} of {len(checked.sets['train'])} rows are left without the forget rows")
    return Split("kept", rows, tuple(encode(rows, problem.rendering, problem.tokenizer)))


def comparable(twin_loss: float, original_loss: float) -> bool:
    """Whether the twin knows the retain rows as well as the original does."""
    return abs(twin_loss - original_loss) <= max(WITHIN * original_loss, WITHIN_NATS)


@dataclass(frozen=True, slots=True)
class Twin:
    """A retrained twin on disk, its loss and the original's on the kept training rows, and whether they compare."""

    output: Path
    loss: float
    original_loss: float

    @property
    def comparable(self) -> bool:
        return comparable(self.loss, self.original_loss)


def make_twins(
    config: Retrain,
    checked: Checked,
    training: Training,
    output: Path,
    say: Callable[[str], None],
    checkpoints: Checkpoints,
    log: Growing,
) -> list[Twin]:
    """Trains the twins, or takes them from the cache, and writes them to `output` with a small record each.

    One twin is `output` itself; several, with seeds from `config.seed` on, are its folders seed-N.
    """
    check_start(checked, training)
    assembled = assemble(config, checked)
    problem = assembled.problem
    kept = rows_left(checked, problem, say)
    for line in (*told.outside_training(checked), *copies.told(checked.echoes)):
        say(line)
    rows = kept.rows
    original = float(row_losses(problem, problem.model, kept).mean())
    twins = []
    with atomic_folder(output, replaces=config.overwrite) as folder:
        for seed in range(config.seed, config.seed + config.twins):
            single = replace(config, seed=seed)
            cached = trained(single, checked, rows, problem, training, say, checkpoints, log)
            twin = load_other(config, str(cached), assembled, torch.float32)
            place = f"seed-{seed}" if config.twins > 1 else ""
            made = Twin(output / place, float(row_losses(twin, twin.model, kept).mean()), original)
            settings = {"training": asdict(training), "seed": seed, "rows": len(rows)}
            if distributed.main_process():
                _deliver(cached, folder / place, made, settings | {"batch_tokens": problem.portions.figures()})
            word = "comparable" if made.comparable else "NOT COMPARABLE: train it as long as the original was"
            say(f"loss on the kept rows: twin {made.loss:.3f}, original {original:.3f}: {word}")
            twins.append(made)
        log.deliver(folder)
    for made in twins:
        say(f"twin: {made.output}")
    return twins


def trained(
    config: Retrain,
    checked: Checked,
    rows: Sequence[Row],
    problem: Problem,
    training: Training,
    say: Callable[[str], None],
    checkpoints: Checkpoints,
    log: Growing,
) -> Path:
    """The folder of the twin of a seed in the cache, where it is trained unless it is there."""
    key = distributed.from_main(partial(_cache_key, config, checked, rows, problem.rendering, training))
    cached: Path = distributed.from_main(partial(private, cache_folder() / "twins")) / key
    if distributed.from_main(cached.is_dir):
        say(f"the twin of seed {config.seed} is taken from the cache")
    else:
        _train_into(cached, config, checked, rows, problem, training, checkpoints.below(key), log)
    return cached


def _deliver(cached: Path, folder: Path, made: Twin, settings: Mapping[str, object]) -> None:
    shutil.copytree(cached, folder, dirs_exist_ok=True)
    content = {"loss": made.loss, "original_loss": made.original_loss, "comparable": made.comparable}
    (folder / "expunge").mkdir()
    plain_json.write_json(folder / "expunge" / "retrain.json", content | dict(settings) | environment.environment())


def _train_into(
    folder: Path,
    config: Retrain,
    checked: Checked,
    rows: Sequence[Row],
    problem: Problem,
    training: Training,
    checkpoints: Checkpoints,
    log: Growing,
) -> None:
    assert checked.base is not None
    torch.manual_seed(config.seed)
    base = load.model_of(checked.base, torch.float32, problem.runtime.device)
    like = _adapter_to_be_like(checked.model, training)
    if like:
        base = adapter.fresh(base, like)
    model, _ = fine_tune(
        base,
        problem.tokenizer,
        rows,
        problem.rendering,
        training,
        config.seed,
        "retraining",
        problem.portions,
        config.gradient_checkpointing,
        checkpoints,
        log.part(twin=config.seed),
    )
    with atomic_folder(folder) as temporary:
        if like and distributed.main_process():
            adapter.write(model, replace(like, base=checked.base.path), temporary, None)
            carry_tokenizer(checked.model.tokenizer_at, problem.tokenizer, temporary)
        elif distributed.main_process():
            origin = Origin(checked.base.path, checked.model.tokenizer_at)
            write(model, problem.tokenizer, temporary, torch.float32, origin)
    checkpoints.clear()


def _adapter_to_be_like(original: Source, training: Training) -> Adapter | None:
    """The original's adapter, where the twin is to be an adapter of the same kind."""
    return original.adapter if training.subspace == "adapter" else None


def check_start(checked: Checked, training: Training) -> None:
    """Raises `InputError` where the twin cannot be trained from what was given as its base."""
    base = checked.base
    assert base is not None
    if base.adapter:
        raise InputError(
            f"{base.path}: a twin starts from the model before the fine-tuning, and this is an adapter. Give the "
            "whole base as --base; subspace: adapter or lora in --train-config makes the twin an adapter or a LoRA."
        )
    check_subspace(training.subspace, training.subspace == "adapter" and checked.model.adapter is not None)
    if (scheme := base.scheme) and training.subspace != "adapter":
        raise InputError(
            f"{base.path}: its weights are quantised ({scheme}), so they cannot be trained. Give the unquantised one."
        )


def _cache_key(config: Retrain, checked: Checked, rows: Sequence[Row], rendering: Rendering, training: Training) -> str:
    """Hash of all that determines a twin: base, rows (keyed), rendering, settings, seed, versions, and our code."""
    assert checked.base is not None
    contents = [part for row in rows for part in (row.kind, *row.content)]
    identity = {
        "base": load.identity(checked.base.path),
        "rows": hashing.keyed_hash(contents, hashing.key()),
        "rendering": asdict(rendering),
        "training": asdict(training),
        "seed": config.seed,
        "versions": environment.versions(),
        "code": hashing.file_hash(code.made_by("loop.training")),
    }
    if like := _adapter_to_be_like(checked.model, training):
        identity["adapter"] = dict(like.settings)
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
