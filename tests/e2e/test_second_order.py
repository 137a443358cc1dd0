"""The second-order methods through the public functions, on the small world: what they propose stands in the record."""

from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge.errors import InputError
from expunge.records.run import Run


def run(world: Path, output: Path, method: str, **options: Any) -> Run:
    rows = {role: str(world / f"{role}.jsonl") for role in ("forget", "retain", "holdout", "train")}
    models = {"model": str(world / "original"), "retrained": str(world / "retrained")}
    return expunge.unlearn(**rows, **models, output=str(output), method=method, options=options)


def scores(run: Run) -> dict[tuple[str, str, str], float]:
    return {(one.metric, one.set, one.model): one.value for one in run.record.scores}


def test_removal_stays_within_its_budget_and_says_what_it_did(world: Path, tmp_path: Path) -> None:
    done = run(world, tmp_path / "out", "fisher_removal", budget=0.2, cycles=2)
    proposals = done.record.method.proposals
    assert [one.phase for one in proposals] == ["removal", "removal"]
    assert all(one.refused is None and one.step > 0 for one in proposals)
    assert 0.08 < proposals[0].retain_kl.after <= 0.1 and 0.16 < proposals[1].retain_kl.after <= 0.2
    assert proposals[0].measured.forget > 0.1 and proposals[0].predicted.forget > 0
    assert proposals[0].notes["damping"] == pytest.approx(0.1 * proposals[0].notes["mean_curvature"])
    found = scores(done)
    assert found["loss", "forget", "unlearned"] > found["loss", "forget", "original"] + 0.2
    assert found["retain_kl", "retain", "original"] == pytest.approx(0, abs=1e-6)
    assert found["retain_kl", "collateral", "unlearned"] > 0
    page = done.report.read_text(encoding="utf-8")
    assert "removal" in page and "curvature" in page.lower()


def test_a_curvature_that_drowns_is_said(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = expunge.unlearn(
        say=print,
        **{role: str(world / f"{role}.jsonl") for role in ("forget", "retain", "holdout")},
        model=str(world / "original"),
        output=str(tmp_path / "out"),
        method="fisher_removal",
        options={"absolute_damping": 1e6, "budget": 0.05},
    )
    assert "drowns the curvature" in capsys.readouterr().out
    assert "drowns the curvature" in done.record.method.proposals[0].notes["warning"]


def test_wrong_options_are_refused_before_anything_is_written(world: Path, tmp_path: Path) -> None:
    for options, expected in (
        ({"curvature": "diagnal"}, "did you mean 'diagonal'"),
        ({"curvature_options": {"label": "data"}}, "unknown key 'label'"),
        ({"damping": 0.0}, "damping"),
        ({"budget": -1.0}, "budget"),
        ({"step": "fixed"}, "step_size"),
    ):
        with pytest.raises(InputError, match=expected):
            run(world, tmp_path / "out", "fisher_removal", **options)
        assert not (tmp_path / "out").exists()
