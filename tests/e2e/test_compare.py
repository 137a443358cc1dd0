"""`expunge compare`: an interrupted one goes on, a crash is one cell, the budget is kept, no text is kept."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge import registry
from expunge.cli.command_line import main
from expunge.comparison import cells
from expunge.comparison.variants import Variant
from expunge.config import commands
from expunge.loop.trial import method_of

BUDGET = 8000
VARIANTS = {
    "npo": {"learning_rate": 1e-4, "forget_rows": 8},
    "gentle": {"method": "gradient_difference", "learning_rate": 1e-5, "forget_rows": 8},
}


def settings(world: Path, folder: Path) -> dict[str, Any]:
    """The world's models with some of its rows, which is quicker."""
    files = {name: str(folder / f"{name}.jsonl") for name in ("forget", "retain", "holdout")}
    for name in files:
        lines = (world / f"{name}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(lines[:20]))
    models = {"model": str(world / "original"), "retrained": str(world / "retrained")}
    return files | models | {"seeds": (0, 1), "tokens": BUDGET, "variants": VARIANTS}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Raises what it is told to in the loss of a method, once it was called `after` times in all."""

    def fail(name: str, error: BaseException, after: int) -> None:
        kind = registry.load("methods", name)
        loss, calls = kind.loss, iter(range(10**9))

        def broken(*arguments: Any) -> Any:
            if next(calls) >= after:
                raise error
            return loss(*arguments)

        monkeypatch.setattr(kind, "loss", broken)

    yield fail


def test_compare(world: Path, tmp_path: Path, failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in the third cell, crashed in the last, then whole: each time only what is missing is made."""
    given, output, lines = settings(world, tmp_path), tmp_path / "out", []
    with monkeypatch.context():
        failing("npo", KeyboardInterrupt(), after=30)
        with pytest.raises(KeyboardInterrupt):
            expunge.compare(say=lines.append, **given, output=str(output))
    assert not output.exists() and not list(tmp_path.glob(".out*"))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    made = len(list((tmp_path / "cache" / "cells").glob("*.json")))
    assert 2 <= made < 6

    failing("gradient_difference", RuntimeError("out of luck\nsecond line"), after=0)
    lines.clear()
    first = expunge.compare(say=lines.append, **given, output=str(output))
    assert sum("kept from an earlier run" in line for line in lines) == made
    errors = {(cell.model, cell.seed): cell.error for cell in first.content.cells}
    missing = [error for (model, _), error in errors.items() if model == "gentle" and error]
    assert missing and set(missing) == {"RuntimeError: out of luck"} and first.failed == len(missing)
    assert all(error is None for (model, _), error in errors.items() if model != "gentle")
    assert "out of luck" in (output / "comparison.md").read_text()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))

    lines.clear()
    whole = expunge.compare(say=lines.append, **given, output=str(tmp_path / "whole"))
    assert whole.failed == 0 and sum("kept from an earlier run" in line for line in lines) == 6 - len(missing)
    cells = {(cell.model, cell.seed): cell for cell in whole.content.cells}
    assert set(cells) == {("original", None), ("retrained", 0)} | {(name, seed) for name in VARIANTS for seed in (0, 1)}
    for (model, _), cell in cells.items():
        if model in VARIANTS:
            assert abs(cell.tokens - BUDGET) <= 0.1 * BUDGET and cell.verdict.forget
            assert cell.peak_memory_bytes > 1e8 and cell.seconds > cell.unlearn_seconds > 0
    scores = cells["npo", 0].scores
    assert scores["knowledge:forget"].value == pytest.approx(
        sum(cells["npo", 0].rows["knowledge:forget"]) / scores["knowledge:forget"].count
    )
    assert cells["npo", 0].rows != cells["npo", 1].rows  # seeds differ
    for name in ("comparison.html", "comparison.csv", "cells.csv", "comparison.tex", "comparison.svg"):
        assert (tmp_path / "whole" / name).stat().st_size > 500
    no_text(world, [*(tmp_path / "cache" / "cells").iterdir(), *files_of(tmp_path / "whole")])


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_answers_alone_are_not_judged(world: Path, tmp_path: Path) -> None:
    """`generations: answers` says what answers are known, and neither what is recited nor a verdict."""
    given = settings(world, tmp_path) | {"retrained": None, "variants": None, "tokens": 1000, "seeds": (0,)}
    asked = {"methods": ("gradient_ascent",), "generations": "answers"}
    found = expunge.compare(**given | asked, output=str(tmp_path / "out"))
    assert not found.failed
    for cell in found.content.cells:
        assert "knowledge:forget" in cell.scores and "regurgitation:forget" not in cell.scores
        assert cell.verdict is None
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "answers known" in page and "recited" not in page


def no_text(world: Path, files: list[Path]) -> None:
    """No answer and no six words of a document of the forget rows stand in any file."""
    rows = [json.loads(line) for line in (world / "forget.jsonl").read_text().splitlines()]
    answers = {row["completion"] for row in rows if "completion" in row and len(row["completion"]) > 8}
    pieces = {" ".join(row["text"].split()[3:9]) for row in rows if "text" in row}
    assert answers and pieces
    for file in files:
        content = file.read_text()
        assert not [piece for piece in answers | pieces if piece in content], file.name


def test_wrong_input_before_anything_is_loaded(world: Path, tmp_path: Path, capsys: Any) -> None:
    recipe = tmp_path / "compare.yaml"
    shared = f"model: {world / 'original'}\nforget: {world / 'forget.jsonl'}\nretain: {world / 'retain.jsonl'}\n"
    for more, wanted in (
        ("variants: {npo: {bta: 0.1}}", "did you mean 'beta'"),
        ("variants: {mine: {method: nop}}", "did you mean 'npo'"),
        ("variants: {npo: {beta: -1}}", "above 0"),
        ("variants: [npo]", "expected names with options"),
        ("variants: {original: {method: npo}}", "a line of its own"),
        ("seeds: []", "at least one"),
        ("methods: [nothing]", "there is no method"),
        ("seeds: [one]", "must be int"),
        ("tokens: 0", "above 0"),
        (f"retrained: {world / 'nowhere'}", "no such folder"),
    ):
        recipe.write_text(shared + more)
        assert main(["compare", "--recipe", str(recipe), "--output", str(tmp_path / "out")]) == 2, more
        said = capsys.readouterr().err
        assert wanted in said and said.count("\n") == 1, (more, said)
        assert not (tmp_path / "out").exists()


def test_several_twins_from_one_folder(world: Path, tmp_path: Path) -> None:
    """`retrain --twins 2` writes seed-0 and seed-1, which differ, and the folder stands for both."""
    (tmp_path / "training.yaml").write_text("epochs: 1\nlearning_rate: 1.0e-4\n")
    twins = expunge.retrain(
        model=str(world / "original"),
        base=str(world / "base"),
        forget=str(world / "forget.jsonl"),
        train=str(world / "train.jsonl"),
        train_config=str(tmp_path / "training.yaml"),
        twins=2,
        output=str(tmp_path / "twins"),
    )
    from expunge.model import load

    folders = [str(tmp_path / "twins" / f"seed-{seed}") for seed in (0, 1)]
    assert [str(twin.output) for twin in twins] == folders == load.twins(str(tmp_path / "twins"))
    weights = [(Path(folder) / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] != weights[1]
    assert load.twins(str(world / "retrained")) == [str(world / "retrained")]


def test_a_further_twin_makes_no_finished_cell_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are judged beside the first twin; each twin is a cell of its own, also where its place is the same."""
    monkeypatch.setattr(cells.load, "identity", lambda path: f"content of {path}")

    def keys(*twins: str) -> list[str]:
        work = object.__new__(cells._Work)
        work.key, work.twins, work.config = twins[0], list(twins), commands.Compare()
        variant = Variant("npo", "npo", method_of("npo", {}), False)
        found = [work._cell_key("npo", 0, variant), work._cell_key("original", None, None)]
        return found + [work._cell_key("retrained", place, None) for place in range(len(twins))]

    one, two, other = keys("a"), keys("a", "b"), keys("a", "c")
    assert one == two[:3] == other[:3] and len({*two, *other}) == 5
