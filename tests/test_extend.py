"""docs/extend.md: the files that it shows are run as they stand there, by path and as entries of a package."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from expunge import registry
from expunge.cli.command_line import main
from expunge.curvature import damping_for
from expunge.errors import InputError
from expunge.evaluation import suite
from expunge.loop.phases import apply
from expunge.methods.fisher_removal import FisherRemoval
from expunge.reference.cache import row_losses
from expunge.scoring.evidence import Evidence, SetEvidence
from oracles import same
from problems import mixed, write_model

PAGE = (Path(__file__).parent.parent / "docs" / "extend.md").read_text(encoding="utf-8")
GROUPS = {"uniform": "methods", "layer_mean": "curvatures", "confident": "metrics"}


def shown() -> dict[str, str]:
    """Files of the page by name: a block of Python after the text that names it."""
    return dict(re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, source in shown().items():
        (tmp_path / name).write_text(source, encoding="utf-8")
    return tmp_path


@pytest.fixture
def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's files as an installed package, with the entry points that the page shows."""
    inside = folder / "my_package"
    inside.mkdir()
    for name in shown():
        (folder / name).rename(inside / name)
    points = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert points
    lines = re.sub(r"\[project\.entry-points\.\"(.*?)\"\]", r"[\1]", points[1]).replace('"', "")
    info = folder / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(lines, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


def test_the_page_shows_three_files() -> None:
    assert set(shown()) == {f"{name}.py" for name in GROUPS}


def test_the_method_makes_forget_rows_guesses(folder: Path) -> None:
    kind = registry.load("methods", str(folder / "uniform.py"))
    problem = mixed()
    before = row_losses(problem, problem.model, problem.splits["retain"]).mean()
    apply(kind(learning_rate=3e-3, epochs=30), problem, lambda entry: None)
    after = {name: row_losses(problem, problem.model, problem.splits[name]) for name in ("forget", "retain")}
    assert float((after["forget"] - np.log(258)).abs().mean()) < 0.3  # the loss of a guess among 258 tokens
    assert float(after["retain"].mean()) < float(before) - 1


def test_the_curvature_solves(folder: Path) -> None:
    curvature = registry.load("curvatures", str(folder / "layer_mean.py"))()
    problem = mixed()
    state = curvature.init(problem, problem.splits["retain"])
    vector = {name: torch.randn_like(tensor) for name, tensor in problem.movable.items()}
    damping = damping_for(state, 0.1)
    solved = curvature.solve(problem, state, vector, damping).value
    product = curvature.matvec(problem, state, solved)
    assert same({name: part + damping.value * solved[name] for name, part in product.items()}, vector, 1e-5)
    whole = FisherRemoval(curvature=str(folder / "layer_mean.py"), budget=1e-3, cycles=1)
    taken = mixed(rows=20)
    assert apply(whole, taken, lambda entry: None).proposals[0]["notes"]["curvature"] == "layer_mean"


def evidence(*rows: list[float]) -> Evidence:
    losses = [np.array(row) for row in rows]
    nothing = (None,) * len(rows)
    one = SetEvidence(
        kinds=("answer",) * len(rows),
        tasks=("",) * len(rows),
        loss=np.array([row.mean() for row in losses]),
        targets=np.array([float(len(row)) for row in losses]),
        token_loss=np.concatenate(losses) if losses else np.array([]),
        references=nothing,
        generations=nothing,
        shapes=np.zeros((len(rows), 2)),
    )
    return Evidence({"forget": one})


def test_the_metric_counts(folder: Path) -> None:
    # one half is log 2 = 0.693 nats: 2 of 3 tokens, and none of 1, make a mean of 1/3
    metric = registry.load("metrics", str(folder / "confident.py"))()
    assert metric(evidence([0.1, 0.69, 0.70], [5.0]), "forget").value == pytest.approx(1 / 3)
    assert metric(evidence(), "forget") is None


@pytest.mark.parametrize("name", GROUPS)
def test_entries_of_a_package_stand_beside_ours(package: Path, name: str) -> None:
    catalogue = GROUPS[name]
    assert name in registry.names(catalogue)
    kind = registry.load(catalogue, name)
    assert kind.__module__ == f"my_package.{name}"
    assert (
        registry.summary(catalogue, name).endswith(".") and registry.source(catalogue, name).parent.name == "my_package"
    )


def test_a_metric_of_a_package_is_in_every_report(package: Path) -> None:
    found = suite.scores({"original": evidence([0.1, 5.0])})
    assert [one.value for one in found if one.metric == "confident"] == [0.5]
    assert suite.metrics()["confident"].title == "Confident tokens"


def test_a_name_of_ours_stays_ours(package: Path) -> None:
    info = package / "my_package-1.0.dist-info" / "entry_points.txt"
    info.write_text("[expunge.methods]\nnpo = my_package.uniform\n", encoding="utf-8")
    assert registry.load("methods", "npo").__module__ == "expunge.methods.npo"
    assert registry.names("methods").count("npo") == 1


def test_broken_files_are_explained(tmp_path: Path) -> None:
    cases: dict[str, tuple[str, str]] = {
        "other.py": ("class Another: ...", "holds no class Other"),
        "syntax.py": ("class Syntax(", "running the file failed"),
        "fails.py": ("1 / 0", "ZeroDivisionError"),
    }
    for name, (source, said) in cases.items():
        (tmp_path / name).write_text(source, encoding="utf-8")
        with pytest.raises(InputError, match=said):
            registry.load("methods", str(tmp_path / name))
    with pytest.raises(InputError, match="there is no such file"):
        registry.load("methods", str(tmp_path / "missing.py"))


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """Flags of a model that learnt nothing and a few rows."""
    write_model(tmp_path / "tuned", width=16, layers=1)
    for name, count in (("forget", 6), ("retain", 24), ("holdout", 6)):
        rows = [{"prompt": f"{name} {n}?", "completion": f"Item {n} of {name}"} for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    flags = [
        flag for name in ("forget", "retain", "holdout") for flag in (f"--{name}", str(tmp_path / f"{name}.jsonl"))
    ]
    return ["unlearn", "--force", "--model", str(tmp_path / "tuned"), *flags]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--method", "uniform.py", "--options.epochs", "1"], "uniform"),
        (["--method", "fisher_removal", "--options.curvature", "layer_mean.py"], "fisher_removal"),
    ],
)
def test_the_commands_of_the_page(folder: Path, inputs: list[str], flags: list[str], expected: str) -> None:
    """As a user gives them; the record has a hash of the file, which is none of the package's."""
    output = folder / "out"
    given = [str(folder / flag) if flag.endswith(".py") else flag for flag in flags]
    assert main([*inputs, *given, "--output", str(output)]) in (0, 3)
    record = json.loads((output / "expunge" / "record.json").read_text(encoding="utf-8"))
    assert record["method"]["name"] == expected
    assert "method" in record["hashes"]


def test_a_recipe_cannot_run_code(folder: Path, inputs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = folder / "recipe.yaml"
    for content in ({"method": "./uniform.py"}, {"options": {"curvature": "./layer_mean.py"}, "method": "libu"}):
        recipe.write_text(json.dumps(content), encoding="utf-8")
        assert main([*inputs, "--recipe", str(recipe), "--output", str(folder / "out")]) == 2
        assert ".py" in capsys.readouterr().err
    assert not (folder / "out").exists()
