"""The demo: a model that memorised fictional people, some of whom are removed. A small one of our own, made on the spot
without any download; or a real one (`demo.real`).

Its people are fictional, so its report shows rows. A finished run is cached by seed and all code, so that the same demo
a second time shows the same output at once.
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from expunge.config import commands, housekeeping
from expunge.demo import real
from expunge.demo.models import cached_models
from expunge.files import hashing
from expunge.model.save import atomic_folder
from expunge.reporting.record import Texts
from expunge.runs.workspace import cache_folder

QUESTIONS = 3
Say = Callable[[str], None]


class Shown(Protocol):
    """What the demo shows of a finished run."""

    @property
    def output(self) -> Path: ...
    @property
    def texts(self) -> Texts: ...
    @property
    def sentence(self) -> str: ...
    @property
    def report(self) -> Path: ...


Finished = TypeVar("Finished", bound=Shown)
Unlearn = Callable[[commands.Unlearn, Say], Finished]
Reopen = Callable[[Path, Texts], Finished]


def run(
    config: housekeeping.Demo,
    unlearn: Unlearn[Finished],
    reopen: Reopen[Finished],
    say: Say = lambda line: None,
) -> Finished:
    """Makes the models (or takes them from the cache), unlearns, judges, and shows three questions before and after.

    `reopen(output, texts)`: a run that was finished earlier, from its folder and its texts.
    """
    output, name = _free(Path(config.output)), "real" if config.real else "demo"
    kept = cache_folder() / f"{name}-run-{config.seed}-{hashing.code_hash()}"
    if kept.is_dir():
        say(f"the same demo was run before; its output is taken from the cache (remove {kept} to run it again)")
        with atomic_folder(output) as folder:
            shutil.copytree(kept / "output", folder, dirs_exist_ok=True)
        shown = json.loads((kept / "shown.json").read_text(encoding="utf-8"))
        return _show(reopen(output, shown["texts"]), shown["lines"], say)
    finished, lines = (_run_real if config.real else _run)(config, unlearn, output, say)
    with atomic_folder(kept) as folder:
        shutil.copytree(output, folder / "output")
        (folder / "shown.json").write_text(json.dumps({"texts": finished.texts, "lines": lines}), encoding="utf-8")
    return _show(finished, lines, say)


def _run(config: housekeeping.Demo, unlearn: Unlearn[Finished], output: Path, say: Say) -> tuple[Finished, list[str]]:
    models = cached_models(config.seed, say)
    settings = _settings(config, models, output, base=str(models / "base"), retrained=str(models / "retrained"))
    return unlearn(settings, say), []


def _run_real(
    config: housekeeping.Demo, unlearn: Unlearn[Finished], output: Path, say: Say
) -> tuple[Finished, list[str]]:
    models = real.cached_models(config.seed, say)
    made = real.made(models)
    before = real.answered(models / "original")
    begun = time.monotonic()
    finished = unlearn(_settings(config, models, output, base=made.base, retrained=None), say)
    took = time.monotonic() - begun
    cost = (
        f"unlearning and measuring took {took / 60:.1f} min, the fine-tune {made.seconds / 60:.1f} min, as leaving the "
        f"rows out of it would: a ratio of {took / made.seconds:.2f}"
    )
    return finished, [*real.compared(before, real.answered(output)), cost]


def _settings(
    config: housekeeping.Demo, models: Path, output: Path, base: str, retrained: str | None
) -> commands.Unlearn:
    return commands.Unlearn(
        model=str(models / "original"),
        base=base,
        retrained=retrained,
        forget=str(models / "forget.jsonl"),
        retain=str(models / "retain.jsonl"),
        holdout=str(models / "holdout.jsonl"),
        train=str(models / "train.jsonl"),
        output=str(output),
        seed=config.seed,
        show_rows=True,
    )


def _show(finished: Finished, lines: list[str], say: Say) -> Finished:
    """The verdict, three questions before and after, what else there is to say, and the report's path last."""
    for line in (f"verdict: {finished.sentence}", *_before_and_after(finished), *lines, str(finished.report)):
        say(line)
    return finished


def _free(output: Path) -> Path:
    """The output folder, numbered where an earlier demo's lies there."""
    number, free = 2, output
    while free.exists():
        number, free = number + 1, output.with_name(f"{output.name}-{number}")
    return free


def _before_and_after(finished: Shown) -> list[str]:
    """Three questions about removed people, with the answers of the original and of the unlearned model."""
    lines = []
    answers = [name for name, text in finished.texts.items() if text["prompt"]]
    for name in answers[:: max(1, len(answers) // QUESTIONS)][:QUESTIONS]:
        text = finished.texts[name]
        lines += [f"Q: {text['prompt']}", f"   before: {text['generated']['original']}"]
        lines += [f"   after:  {text['generated']['unlearned']}"]
    return lines
