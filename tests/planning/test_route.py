"""Which way `--method auto` takes, by sizes alone, and that retraining delivers the twin that `retrain` makes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import expunge
from e2e import little
from expunge.cli import command_line
from expunge.config.commands import Unlearn
from expunge.config.flags import AUTO, METHOD
from expunge.errors import InputError
from expunge.intake.sets import check
from expunge.loop.training import Training
from expunge.planning import route
from expunge.planning.route import decided
from expunge.records.record import read
from expunge.runs import memory

SHORT = "epochs: 1\nlearning_rate: 0.001\n"
TRAINING = Training()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return little.write_world(tmp_path_factory.mktemp("little"))


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("unlearning", "anew", "share", "retrains"),
    [
        (1000.0, 1500.0, 0.05, True),  # 1.5 times, and exact
        (1000.0, 1501.0, 0.05, False),
        (1000.0, 9000.0, 0.26, True),  # more than a quarter, whatever it takes
        (1000.0, 9000.0, 0.25, False),
        (None, 10.0, 0.05, False),  # nothing to compare with
        (1000.0, 9000.0, None, False),
    ],
)
def test_the_rule(unlearning: float | None, anew: float, share: float | None, retrains: bool) -> None:
    assert (decided(TRAINING, unlearning, anew, share).training is not None) == retrains


def settings(world: Path, tmp_path: Path, **given: Any) -> dict[str, Any]:
    (tmp_path / "training.yaml").write_text(SHORT)
    rows = {name: str(world / f"{name}.jsonl") for name in ("forget", "retain", "holdout", "train")}
    models = {"model": str(world / "original"), "base": str(world / "base")}
    own = rows | models | {"train_config": str(tmp_path / "training.yaml"), "output": str(tmp_path / "out")}
    return own | {"force": True} | given


def test_the_command_line_takes_it_too(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its configuration has options, those of margin_newton, also where none was given."""
    given = settings(world, tmp_path)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if name != "force"]
    assert command_line.main(["unlearn", *flags, "--force"]) in (0, 3)
    assert "method: retraining" in capsys.readouterr().out
    assert read(given["output"]).config.get("options") is None


def test_what_is_trained_anew_is_the_twin(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit the model of `expunge retrain`, judged and recorded as any other; and a plan says so before."""
    monkeypatch.setattr(route, "LARGE", 1.0)  # so few rows are trained in
    given, said = settings(world, tmp_path), list[str]()
    assert any(line.startswith("method: retraining (it is exact") for line in planned(given))
    run = expunge.unlearn(**given, say=said.append)
    assert any(line.startswith("method: retraining (it is exact") for line in said)
    assert run.record.method.name == "retraining" and run.record.method.options["epochs"] == 1
    assert run.record.method.notes["comparable"] in (True, False)  # with the original, by the loss on the kept rows
    assert run.record.config["method"] == AUTO and len(run.rows) == run.record.audit.rows
    kept = {name: given[name] for name in ("model", "base", "forget", "train", "train_config")}
    [twin] = expunge.retrain(**kept, output=str(tmp_path / "twin"))
    weights, own = (load_file(folder / "model.safetensors") for folder in (twin.output, run.output))
    original = load_file(world / "original" / "model.safetensors")
    assert all(torch.equal(weights[name], own[name]) for name in weights)
    assert not all(torch.equal(weights[name], original[name]) for name in weights)
    assert "retraining" in run.report.read_text(encoding="utf-8")


def planned(given: dict[str, Any], **more: Any) -> tuple[str, ...]:
    return expunge.plan(
        **{name: value for name, value in given.items() if name not in ("force", "output")} | {"method": AUTO} | more
    ).lines


def told(given: dict[str, Any], **more: Any) -> list[str]:
    """What is said of the way, without the rest of a plan."""
    said: list[str] = []
    config = Unlearn(**given | {"method": AUTO, "force": True} | more)
    route.settled(config, check(config), said.append)
    return said


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"options": {"iterations": 2}}, "--options was given"),
        ({"subspace": "lora"}, "--subspace lora was given"),
        ({"save_as": "adapter"}, "--save-as adapter was given"),
        ({"train_config": None}, "retraining is weighed where"),
        ({"base": None}, "retraining is weighed where"),
    ],
)
def test_what_settles_it(more: dict[str, Any], reason: str, world: Path, tmp_path: Path) -> None:
    found, *_ = told(settings(world, tmp_path), **more)
    assert found.startswith(f"method: {METHOD} ({reason}")


def test_a_long_training_is_not_chosen(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever memory is free, since the same command must give the same model."""
    monkeypatch.setattr(route, "LARGE", 1.0)
    given = settings(world, tmp_path)
    (tmp_path / "training.yaml").write_text("epochs: 1000\n")
    for free in (2**20, 2**40):
        monkeypatch.setattr(memory, "free", lambda device, free=free: free)
        assert any(line.startswith(f"method: {METHOD} (retraining would take") for line in told(given))


def test_too_large_a_request_is_told(world: Path, tmp_path: Path) -> None:
    """More than a quarter of what is known to have been trained in, and no way to train anew."""
    given = settings(world, tmp_path) | {"train": None, "train_config": None, "retain": str(world / "forget.jsonl")}
    given |= {"forget": str(world / "retain.jsonl")}
    assert any(line.startswith("warning: ") and "Retraining would" in line for line in told(given))


def test_settings_of_a_training_that_cannot_be(world: Path, tmp_path: Path) -> None:
    given = settings(world, tmp_path)
    (tmp_path / "training.yaml").write_text("epoch: 1\n")
    with pytest.raises(InputError, match="epoch"):
        expunge.unlearn(**given)
    assert not Path(given["output"]).exists()


def test_a_named_method_is_left_alone(world: Path) -> None:
    config = Unlearn(method="npo")
    assert route.settled(config, None, pytest.fail) == (config, None)  # type: ignore[arg-type]
