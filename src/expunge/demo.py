"""The demo: a small model that memorised fictional people, some of whom are removed. Downloads nothing.

Its people are fictional, so its report shows rows. Models are cached by seed and the code that makes them; a finished
run is cached by seed and all code, so that the same demo a second time shows the same output at once.
"""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from expunge import config as configs
from expunge import pipeline, record, upkeep
from expunge.data import fiction
from expunge.data.rows import Row
from expunge.data.tokens import Rendering
from expunge.distributed import Runtime
from expunge.evaluation.retrained import fine_tune
from expunge.loop import Training
from expunge.model.save import atomic_folder, write
from expunge.model.tiny import byte_tokenizer, llama
from expunge.workspace import cache_folder

RENDERING = Rendering(end_documents=True, context=256)
PRETRAINING = Training(epochs=6, learning_rate=2e-3, batch_rows=32, weight_decay=0.1)
FINE_TUNING = Training(epochs=30, learning_rate=1e-3, batch_rows=16)
MADE_BY = ("demo.py", "loop.py", "data/fiction.py", "data/tokens.py", "data/batches.py", "model/tiny.py")
QUESTIONS = 3
Say = Callable[[str], None]


def run(config: upkeep.Demo, say: Say = lambda line: None) -> pipeline.Run:
    """Makes the models (or takes them from the cache), unlearns, judges, and shows three questions before and after."""
    output = _free(Path(config.output))
    kept = cache_folder() / f"demo-run-{config.seed}-{record.code_hash()}"
    if kept.is_dir():
        say(f"the same demo was run before; its output is taken from the cache (remove {kept} to run it again)")
        with atomic_folder(output) as folder:
            shutil.copytree(kept / "output", folder, dirs_exist_ok=True)
        texts = json.loads((kept / "texts.json").read_text(encoding="utf-8"))
        return _show(pipeline.Run(output, record.read(output), texts), say)
    finished = _run(config, output, say)
    with atomic_folder(kept) as folder:
        shutil.copytree(output, folder / "output")
        (folder / "texts.json").write_text(json.dumps(finished.texts), encoding="utf-8")
    return _show(finished, say)


def _run(config: upkeep.Demo, output: Path, say: Say) -> pipeline.Run:
    models = cached_models(config.seed, say)
    settings = configs.Unlearn(
        model=str(models / "original"),
        base=str(models / "base"),
        retrained=str(models / "retrained"),
        forget=str(models / "forget.jsonl"),
        retain=str(models / "retain.jsonl"),
        holdout=str(models / "holdout.jsonl"),
        train=str(models / "train.jsonl"),
        output=str(output),
        seed=config.seed,
        show_rows=True,
    )
    return pipeline.run_unlearn(settings, say)


def _show(finished: pipeline.Run, say: Say) -> pipeline.Run:
    """The verdict, three questions before and after, and the report's path last."""
    for line in (f"verdict: {finished.sentence}", *_before_and_after(finished), str(finished.report)):
        say(line)
    return finished


def cached_models(seed: int, say: Say) -> Path:
    """The demo's models and rows, made once per seed and version of the code that makes them."""
    sources = record.file_hash(Path(__file__).parent / name for name in MADE_BY)
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

    def plain(row: Row) -> dict[str, str]:
        if row.kind == "document":
            return {"text": row.completion}
        return {"prompt": row.prompt, "completion": row.completion} | ({"task": row.task} if row.task else {})

    file.write_text("".join(json.dumps(plain(row)) + "\n" for row in rows), encoding="utf-8")


def _free(output: Path) -> Path:
    """The output folder, numbered where an earlier demo's lies there."""
    number, free = 2, output
    while free.exists():
        number, free = number + 1, output.with_name(f"{output.name}-{number}")
    return free


def _before_and_after(finished: pipeline.Run) -> list[str]:
    """Three questions about removed people, with the answers of the original and of the unlearned model."""
    lines = []
    answers = [name for name, text in finished.texts.items() if text["prompt"]]
    for name in answers[:: max(1, len(answers) // QUESTIONS)][:QUESTIONS]:
        text = finished.texts[name]
        lines += [f"Q: {text['prompt']}", f"   before: {text['generated']['original']}"]
        lines += [f"   after:  {text['generated']['unlearned']}"]
    return lines
