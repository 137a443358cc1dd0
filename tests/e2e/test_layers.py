"""Which linear layers margin_newton moves: those that were asked for, or that memory held when the run began."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import expunge
from e2e.newton import OPTIONS, settings
from expunge.errors import InputError
from expunge.loop import trial
from expunge.runs import memory


def moved(world: Path, output: Path) -> set[str]:
    one, other = (load_file(folder / "model.safetensors") for folder in (world / "original", output))
    return {name for name in one if not torch.equal(one[name], other[name])}


def test_only_what_was_asked_for_moves(little_world: Path, tmp_path: Path) -> None:
    run = expunge.unlearn(output=str(tmp_path / "out"), **settings(little_world, options=OPTIONS | {"layers": "down"}))
    found = moved(little_world, run.output)
    assert len(found) == 2 and all("mlp.down_proj" in name for name in found)
    assert run.record.method.notes["layers"]["which"] == "down"
    assert run.record.subspace.parameters < 0.3 * run.record.subspace.of


@pytest.mark.parametrize("broken", [False, True])
def test_an_interrupted_run_goes_on_with_the_layers_that_it_began_with(
    broken: bool, little_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever memory is free then; and where they were chosen anew, it would be seen."""
    given = settings(little_world, output=str(tmp_path / "out"))
    apply = trial.apply

    def stop(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "usable", lambda device: 0)
        patch.setattr(trial, "apply", stop)
        with pytest.raises(KeyboardInterrupt):
            expunge.unlearn(**given)
    if broken:
        choose = trial.choose
        monkeypatch.setattr(
            trial,
            "choose",
            lambda problem, needs, asked, linear, say, *more: choose(problem, needs, asked, None, say, *more),
        )
    assert trial.apply is apply
    run = expunge.unlearn(**given)
    assert run.record.interruptions == 1
    which = run.record.method.notes["layers"]["which"]
    assert (which == "down 0-0") != broken and len(moved(little_world, run.output)) == (14 if broken else 1)


def test_a_curvature_brings_its_layers(little_world: Path, tmp_path: Path) -> None:
    """Where they are left to us; others are refused."""
    given = {key: value for key, value in settings(little_world).items() if key not in ("forget", "force")}
    given["options"] = OPTIONS | {"layers": "mlp"}
    folder = str(expunge.fit_curvature(output=str(tmp_path / "factors"), **given))
    run = expunge.unlearn(output=str(tmp_path / "out"), curvature=folder, **settings(little_world))
    assert run.record.method.notes["layers"]["which"] == "mlp" and len(moved(little_world, run.output)) == 6
    with pytest.raises(InputError, match=r"other layers: it lacks model\.layers\.0\.self_attn"):
        asked = settings(little_world, options=OPTIONS | {"layers": "all"})
        expunge.unlearn(output=str(tmp_path / "other"), curvature=folder, **asked)
