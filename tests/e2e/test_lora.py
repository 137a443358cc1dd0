"""A LoRA with settings: refused before any weights are loaded where its targets are nowhere, and priced by the plan."""

import re
from pathlib import Path
from typing import Any

import pytest

import expunge
from e2e import little
from expunge.errors import InputError
from expunge.model import load

QUICK: dict[str, Any] = {"method": "gradient_ascent"}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return little.write_all(tmp_path_factory.mktemp("lora"))


def test_targets_that_are_nowhere_are_refused_before_weights_are_loaded(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*arguments: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(load, "model_of", loaded)
    asked = given | {"subspace": expunge.Lora(targets=["q_proj", "kproj"])}
    words = r"--subspace lora:targets=q_proj\+kproj: no linear layer is called kproj\. There are down_proj, gate_proj"
    with pytest.raises(InputError, match=words):
        expunge.unlearn(**asked | QUICK, output=tmp_path / "out")
    with pytest.raises(InputError, match=words):
        expunge.plan(**asked | QUICK)
    with pytest.raises(InputError, match=r"--subspace nosuch\.\*: no parameter has such a name\. Names look like"):
        expunge.unlearn(**given | QUICK, subspace="nosuch.*", output=tmp_path / "out")
    for place, there in enumerate((expunge.Lora(targets=["q_proj"]), "model.layers.0.*")):
        with pytest.raises(AssertionError):  # those that are there are not refused
            expunge.unlearn(**given | QUICK, subspace=there, output=tmp_path / f"out{place}")


def test_the_plan_counts_what_would_move(given: dict[str, Any]) -> None:
    """One layer, 16 wide: rank 2 on q_proj is 2 x (16 + 16)."""
    made = expunge.plan(**given | QUICK, subspace=expunge.Lora(r=2, targets=["q_proj"]))
    (said,) = (line for line in made.lines if line.startswith("parameters: "))
    assert "subspace: lora:r=2,targets=q_proj (asked for), 64 would move" in said
    assert made.estimate and made.estimate.methods[0].subspace == "lora:r=2,targets=q_proj"
    wide = expunge.plan(**given | QUICK, subspace="lora:r=64")
    assert int(re.findall(r"([\d,]+) would move", str(wide))[0].replace(",", "")) > 64 * 32
    peaks = [one.estimate.methods[0].memory.stages["unlearning"] for one in (made, wide) if one.estimate]
    assert peaks[0] < peaks[1]
