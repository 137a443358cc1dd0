"""Attacks on weights, samples and states, on made models: each brings rows back in one that only hides them, and
nothing in a retrained one. What each must be told is written in the table, before any is asked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

import made_models as made
from expunge import registry
from expunge.attack import Reading
from expunge.attacks import merge_back, probe, relearning, rounding, sampling
from expunge.evaluation import attacked, under_attack
from expunge.problem import Split
from expunge.reporting.finding import Attack
from expunge.scoring.seen import Seen
from problems import rows_of

NAMES = [row.name for row in made.ROWS["forget"]]
ATTACKS = ("rounding", "merge_back", "relearning", "sampling", "prefix")
TABLE = {
    ("rounding", "lost_in_four_bits"): "comes back",
    ("merge_back", "refusing"): "comes back",
    ("relearning", "refusing"): "comes back",
    ("prefix", "refusing"): "comes back",
    ("sampling", "once_in_ten"): "comes back",
    **{(name, "retrained"): "forgotten" for name in ATTACKS},
}
MODELS: dict[str, Callable[[], Any]] = {
    "refusing": made.refusing,
    "lost_in_four_bits": made.lost_in_four_bits,
    "once_in_ten": made.once_in_ten,
    "retrained": lambda: made.retrained(1),
    "twin": lambda: made.retrained(0),
    "original": made.original,
}


@pytest.fixture(scope="module", autouse=True)
def few() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relearning, "STEPS", (5,))
        patch.setattr(sampling, "NUCLEI", {"temperature 1": 1.0})
        yield


@cache
def readings(name: str, model: str) -> list[Reading]:
    chosen = {name: registry.load("attacks", name)()}
    return attacked.run_some(
        chosen, made.problem_of(MODELS[model]()), made.SPLITS, lambda: made.problem_of(made.original())
    )[name]


@cache
def written() -> dict[str, Seen]:
    judged = {name: made.SPLITS[name] for name in ("forget", "judging")}
    return attacked.look(made.problem_of(made.original()), judged)


def told(name: str, model: str, twin: bool) -> Attack:
    """The record's entry of an attack on a made model."""
    entry = registry.load("attacks", name)()
    models = {"unlearned": model} | ({"retrained": "twin"} if twin else {})
    models |= {"original": "original"} if entry.beside_original else {}
    found = {role: {name: readings(name, one)} for role, one in models.items()}
    return under_attack.result(name, entry, found, written(), NAMES)


@pytest.mark.parametrize("twin", [True, False], ids=["beside a twin", "beside never-seen rows"])
@pytest.mark.parametrize(("name", "model"), TABLE)
def test_verdicts(name: str, model: str, twin: bool) -> None:
    assert told(name, model, twin).verdict == TABLE[name, model]


def test_rounding_brings_back_what_eight_bits_do_not() -> None:
    eight, four, _ = told("rounding", "lost_in_four_bits", True).settings
    assert eight.verdict != "comes back" and four.given_back == tuple(NAMES)


def test_rounding_by_hand() -> None:
    """4 bits, levels -7 to 7: of the group (0.7, -0.34, 0.06) the scale is 0.1; the 65th input is alone in its own."""
    weight = torch.zeros(1, 65)
    weight[0, :3], weight[0, 64] = torch.tensor([0.7, -0.34, 0.06]), 0.01
    found = rounding.rounded(weight, rounding.even(4))
    assert torch.allclose(found[0, :3], torch.tensor([0.7, -0.3, 0.1]), atol=1e-6)
    assert torch.allclose(found[0, 64:], torch.tensor([0.01]))


def test_levels_of_a_normal_are_its_quantiles() -> None:
    """QLoRA's: seven quantiles below 0 and eight above, over the largest. By hand: in a group with most 1 the weight
    0.75 goes to the level 0.72296, and in even levels to 5 sevenths."""
    below, above = (norm.ppf(np.linspace(0.9677083, 0.5, count)[:-1]) for count in (8, 9))
    levels = np.concatenate([-below, [0.0], above]) / above[0]
    assert np.allclose(np.sort(levels), rounding.NORMAL, atol=1e-6)
    weight = torch.tensor([[1.0, 0.75]])
    assert rounding.rounded(weight, rounding.NORMAL)[0, 1].item() == pytest.approx(0.7229568)
    assert rounding.rounded(weight, rounding.even(4))[0, 1].item() == pytest.approx(5 / 7)


def test_merging_by_hand() -> None:
    """A tenth of the way from 1 to 3 is 1.2; a model of other shapes is not alike."""
    mine, theirs = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    for model, value in ((mine, 1.0), (theirs, 3.0)):
        torch.nn.init.constant_(model.weight, value)
    merge_back.merge(mine, theirs, 0.1)
    assert torch.allclose(mine.weight, torch.full((1, 2), 1.2))
    assert merge_back.alike(mine, theirs) and not merge_back.alike(mine, torch.nn.Linear(3, 1))


class States(torch.nn.Module):
    """In place of a model, the states that are read of it: forget rows apart from others, or not."""

    def __init__(self, apart: float, seed: int) -> None:
        super().__init__()
        draw = np.random.default_rng(seed)
        self.states = {name: draw.normal(size=(len(split), 16)) for name, split in made.SPLITS.items()}
        self.states["forget"] += apart


def test_a_probe_tells_what_is_hidden_from_what_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made models of the other tests have so few rows that the probe cannot tell; without a twin it never does."""
    monkeypatch.setattr(probe, "hidden", lambda problem, split: problem.model.states[split.name])
    models = {"original": States(2.0, 0), "hiding": States(1.5, 1), "retrained": States(0.0, 2), "gone": States(0.0, 3)}
    read = {name: next(iter(probe.Probe().run(_subject(model)))).seen for name, model in models.items()}
    assert read["hiding"]["forget"].known.mean() > 0.9

    def word(name: str, beside: str) -> str:
        side = under_attack.Side(read[name]["forget"], read["original"]["forget"], read[beside]["forget"], "retrained")
        return under_attack.compared(side, "known", probe.Probe()).word

    assert word("hiding", "retrained") == "comes back" and word("gone", "retrained") in ("forgotten", "cannot tell")
    assert word("gone", "gone") == "forgotten"
    alone = {"unlearned": {"probe": list(probe.Probe().run(_subject(models["hiding"])))}}
    entry = under_attack.result("probe", probe.Probe(), alone, read["original"], NAMES)
    assert entry.verdict == "cannot tell" and entry.settings[0].compared_with is None


def _subject(model: torch.nn.Module) -> Any:
    found: list[Any] = []

    @dataclass(frozen=True)
    class Caught:
        def run(self, subject: Any) -> Any:
            found.append(subject)
            return iter(())

    attacked.run_some({"caught": Caught()}, made.problem_of(model), made.SPLITS, lambda: made.problem_of(model))
    return found[0]


def test_a_probe_is_ridge_regression_without_its_fold() -> None:
    """Against the normal equations of the primal; a probe that saw its row would score it otherwise."""
    draw = np.random.default_rng(0)
    features, labels = draw.normal(size=(20, 3)), np.repeat([1.0, -1.0], 10)
    found, own = probe.scores(features, labels), np.arange(20) % 10 % probe.FOLDS != 2
    scaled = (features - features[own].mean(axis=0)) / features[own].std(axis=0)

    def fitted(rows: Any) -> Any:
        normal = scaled[rows].T @ scaled[rows] + 3 * np.eye(3)
        return scaled[~own] @ np.linalg.solve(normal, scaled[rows].T @ (labels[rows] - labels[rows].mean()))

    assert np.allclose(found[~own], fitted(own))
    assert not np.allclose(found[~own], fitted(np.ones(20, dtype=bool)))


def test_places_are_the_area() -> None:
    """Of 2 and 0 against 1 and 0: above both; half of a tie. The mean, 0.625, is the area."""
    assert probe.placed(np.array([2.0, 0.0]), np.array([1.0, 0.0])).tolist() == [1.0, 0.25]


def test_the_area_is_the_mean_along_the_curve() -> None:
    """At 5, 15 and 30 steps 1, 3 and 2 nats: ten steps at 2 on average and fifteen at 2.5 are 2.3."""
    steps = {5: 1.0, 15: 3.0, 30: 2.0}
    seen = {at: {"forget": Seen(("answer",), np.array([loss]), np.array([np.nan]))} for at, loss in steps.items()}
    *points, area = relearning._along("the other half", seen)
    assert [one.point.at for one in points if one.point] == [5, 15, 30] and area.point is None
    assert area.seen["forget"].loss[0] == pytest.approx(2.3) and np.isnan(area.seen["forget"].known[0])
    assert sum(relearning.widths((5, 15, 30))) == pytest.approx(1) and relearning.widths((0, 2)) == [0.5, 0.5]
    assert len(list(relearning._along("the other half", {5: seen[5]}))) == 1


def test_halves_are_each_relearned_once() -> None:
    rows = rows_of("forget", [str(n) for n in range(5)], ["a text"])
    one, other = relearning.exchanges(Split("forget", rows, ()))
    assert sorted([*one.others, *other.others]) == list(range(6))
    assert [row.name for row in one.relearned.rows] == [rows[place].name for place in other.others]


def test_unrelated_text_is_a_setting_of_its_own() -> None:
    found = {one.setting: one for one in readings("relearning", "retrained")}
    assert {"the other half, 5 steps", "unrelated text, 5 steps"} <= found.keys()
    assert len(found["unrelated text, 5 steps"].seen["forget"].loss) == len(made.SPLITS["forget"].rows)  # none left out
    split = relearning.unrelated(made.problem_of(made.original()))
    assert len(split.rows) == len(set(relearning.UNRELATED)) == 24
