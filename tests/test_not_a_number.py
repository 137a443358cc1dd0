"""What is not a number is never good news: nan and inf in every figure, of every metric, verdict and guard there is.

All are found by discovery: metrics by the registry, figures by the fields of what holds them, step rules by their
union. Each check is shown to reject a part that is spoilt in its way.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, get_args

import numpy as np
import pytest

from expunge import registry
from expunge.evaluation import rest, verdict
from expunge.influence.drift import Drift
from expunge.loop.attempts import Attempts
from expunge.loop.guard import Guard
from expunge.metrics.loss import Loss
from expunge.optim.search import Found, Measured, Refused
from expunge.optim.step_size import Fixed, Planned, RetainBudget, StepRule
from expunge.optim.stopping import Check
from expunge.reporting.words import MEANINGS, SETS, VERDICT_TONES
from expunge.scoring import band
from expunge.scoring.band import Measured as Cell
from expunge.scoring.evidence import Candidates, Evidence, SetEvidence
from expunge.scoring.intervals import Floats, Score, area_draws, mean_score
from recorded import others_of, tokens_of

BAD = (math.nan, math.inf)
COUNT = 40


def rows(place: int, low: float, said: str) -> SetEvidence:
    """Answers and documents whose losses rise evenly from `low`; of the third one, a secret with its candidates."""
    losses = low + np.linspace(0.0, 1.0, COUNT) + 0.01 * place
    return SetEvidence(
        kinds=("answer", "document") * (COUNT // 2),
        tasks=("code",) * COUNT,
        loss=losses,
        targets=np.full(COUNT, 3.0),
        token_loss=np.repeat(losses, 3),
        references=("secret 1234",) * COUNT,
        generations=tuple(f"{said} {row}" for row in range(COUNT)),
        shapes=np.ones((COUNT, 2)),
        candidates={3: Candidates(3.0 + np.arange(8.0), 3.0)},
        kl=np.linspace(0.0, 0.1, COUNT),
        others=others_of(losses),
        tokens=tokens_of(losses, np.full(COUNT, 3.0)),
        reference_loss=losses[::-1].copy(),
    )


def evidence(forget: float) -> Evidence:
    """Every set that there is; rows to keep cost 1 to 2 nats, never-seen ones 3 to 4, forget rows from `forget` on."""
    low = {"forget": forget, "earlier": forget, "judging": 3.0}
    return Evidence({name: rows(place, low.get(name, 1.0), "no") for place, name in enumerate(SETS)})


MODELS = {"original": evidence(0.1), "unlearned": evidence(3.0), "retrained": evidence(3.1)}
FIGURES = tuple(one.name for one in fields(SetEvidence) if one.name in ("loss", "targets", "token_loss", "kl"))


def spoilt(found: Evidence, name: str, figure: str, bad: float) -> Evidence:
    """With one bad value in one figure of one set; a KL that is nan was not measured, so that one is inf."""
    one = found.sets[name]
    if figure == "candidates":
        losses = np.where(np.arange(8) == 2, bad, one.candidates[3].losses)
        return Evidence({**found.sets, name: replace(one, candidates={3: Candidates(losses, 3.0)})})
    if figure == "tokens":
        assert one.tokens is not None
        losses, likeliest = one.tokens.loss.copy(), one.tokens.likeliest.copy()
        losses[15], likeliest[15] = bad, math.nan
        return Evidence(
            {**found.sets, name: replace(one, tokens=replace(one.tokens, loss=losses, likeliest=likeliest))}
        )
    if figure == "others":  # nan stands for an answer that a row has not, as nan for a KL that was not measured
        assert one.others is not None
        wrong = one.others.perturbed.copy()
        wrong[5, 0] = math.inf
        return Evidence({**found.sets, name: replace(one, others=replace(one.others, perturbed=wrong))})
    values: Floats = getattr(one, figure).copy()
    values[5] = math.inf if figure == "kl" else bad
    return Evidence({**found.sets, name: replace(one, **{figure: values})})


# Metrics


def check_metric(metric: Any, bad: float) -> None:
    """A figure that hangs on what is bad is no finite figure; where it does not hang on it, it stays."""
    for name in metric.sets:
        usual = metric(MODELS["unlearned"], name)
        hangs = 0
        for figure in (*FIGURES, "reference_loss", "candidates", "tokens", "others"):
            found = metric(spoilt(MODELS["unlearned"], name, figure, bad), name)
            assert found == usual or (found is not None and not math.isfinite(found.value))
            hangs += found != usual
        assert hangs or metric(replaced(MODELS["unlearned"], name), name) != usual


def replaced(found: Evidence, name: str) -> Evidence:
    """With other generations: what metrics hang on that hang on no losses."""
    return Evidence({**found.sets, name: replace(found.sets[name], generations=("secret 1234",) * COUNT)})


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", registry.names("metrics"))
def test_no_metric_makes_a_figure_of_it(name: str, bad: float) -> None:
    metric = registry.load("metrics", name)()
    texts = [other for other in metric.sets if metric(MODELS["unlearned"], other) is not None]
    assert texts
    check_metric(metric, bad)


@dataclass(frozen=True)
class LeavesOut:
    """Leaves out what is not a number."""

    sets: ClassVar[tuple[str, ...]] = Loss.sets

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        losses = evidence.sets[name].loss
        return mean_score(losses[np.isfinite(losses)])


def test_a_metric_that_leaves_it_out_would_be_seen() -> None:
    with pytest.raises(AssertionError):
        check_metric(LeavesOut(), math.nan)


@pytest.mark.parametrize("bad", BAD)
def test_an_attack_does_not_take_it_for_a_strange_row(bad: float) -> None:
    draws = area_draws([(np.array([0.1, bad]), np.array([3.0, 4.0]))])
    assert draws is not None and math.isnan(draws.value) and np.isnan(draws.resampled).all()
    assert draws.score() == Score(pytest.approx(math.nan, nan_ok=True), None, None, 2)


# Verdicts


def judged(models: Mapping[str, Evidence]) -> verdict.Verdict:
    return verdict.judge(models["original"], models["unlearned"], models["retrained"])


def check_verdict(judge: Callable[[Mapping[str, Evidence]], verdict.Verdict], bad: float) -> None:
    """*failed*, of the half that hangs on it, for every figure of every set of every model."""
    assert judge(MODELS).passes
    for model in MODELS:
        for name in ("forget", *rest.REST):
            for figure in (*FIGURES, "candidates", "tokens", "others"):
                found = judge({**MODELS, model: spoilt(MODELS[model], name, figure, bad)})
                assert (found.forget if name == "forget" else found.rest) == "failed" and not found.passes
    one = judge({**MODELS, "unlearned": spoilt(MODELS["unlearned"], "forget", "loss", bad)})
    assert [row.verdict for row in one.rows].count("failed") == 1 and one.rows[5].verdict == "failed"


@pytest.mark.parametrize("bad", BAD)
def test_every_verdict_on_it_is_failed(bad: float) -> None:
    check_verdict(judged, bad)
    assert VERDICT_TONES["failed"] == "bad" and MEANINGS["failed"]


def test_a_verdict_that_compares_without_looking_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rest, verdict):
        monkeypatch.setattr(module, "not_finite", lambda models, names: "")
    with pytest.raises(AssertionError):
        check_verdict(judged, math.nan)


@pytest.mark.parametrize("bad", BAD)
def test_a_comparison_says_not_finite(bad: float) -> None:
    twins = [Cell(1.0, 0.9, 1.1), Cell(1.1, 1.0, 1.2)]
    reference = band.band(twins)
    found = band.difference([Cell(bad, bad, bad), Cell(1.0, 0.9, 1.1)], twins)
    assert band.stand(found, 0.5, reference, "retain", 1.0).word == band.NOT_FINITE
    assert band.stand(band.difference(twins, twins), 0.5, reference, "retain", 1.0).word == band.AS_RETRAINED
    assert math.isnan(band.pool([Cell(bad), Cell(1.0)]).value)


# What guards a run


def check_of(**others: Any) -> Check:
    """Forget rows at their targets, others where they were."""
    usual = dict.fromkeys(("retain", "retain_start", "guard", "guard_start", "acceptance", "acceptance_start"), 1.0)
    three = {"forget": np.full(4, 3.0), "start": np.zeros(4), "targets": np.full(4, 3.0)}
    return Check(**{"step": 1, **three, **usual, **others})


NOW = ("forget", "retain", "guard", "acceptance")
CHECKED = [one.name for one in fields(Check) if one.name != "step"]


def bad_check(name: str, bad: float) -> Check:
    usual = getattr(check_of(), name)
    return check_of(**{name: np.where(np.arange(4) == 1, bad, usual) if isinstance(usual, np.ndarray) else bad})


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", CHECKED)
def test_no_check_with_it_is_the_best_attempt(name: str, bad: float) -> None:
    check = bad_check(name, bad)
    scored = name not in ("guard", "guard_start")  # where acceptance rows steer, those only report
    assert (check.score() == math.inf) == scored
    assert name not in NOW or not check.finite
    attempts = Attempts({}, 1e-3, repairs=False)
    attempts.add(check, 3, "", {})
    attempts.add(check_of(), 3, "", {})
    assert attempts.best is not None and attempts.best["score"] == 0.0
    if name in ("acceptance", "acceptance_start"):
        assert check.hurts() and not check_of().hurts()


def test_an_attempt_by_the_largest_of_zero_and_it_would_be_seen() -> None:
    """As it was written before: max(0, nan) is 0, and nan is not above a bar."""
    check = bad_check("acceptance", math.nan)
    assert check.acceptance is not None and check.acceptance_start is not None
    rise = check.acceptance - check.acceptance_start
    assert max(0.0, rise) == 0.0 != check.score()
    assert not rise > 0.1 and check.hurts()


@dataclass
class Still:
    """Weights that stay."""

    def snapshot(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", NOW)
def test_weights_at_it_are_not_good_ones(name: str, bad: float) -> None:
    guard = Guard.here(Still(), 0)  # type: ignore[arg-type]
    assert guard.see(check_of())
    assert not guard.see(bad_check(name, bad))


MEASURED = [one.name for one in fields(Measured)]
RULES = {kind: kind for kind in get_args(StepRule)} | {
    Fixed: lambda: Fixed(step=1.0),
    RetainBudget: lambda: RetainBudget(budget=0.1),
}


def good(step: float) -> Measured:
    """The nearer to a step of 1, the better."""
    return Measured(retain_kl=0.05 * abs(1 - step), retain_rise=0.0, distance=abs(1 - step), way=step, forget=3 * step)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
def test_no_rule_takes_a_step_that_measures_it(kind: Any, bad: float) -> None:
    for name in MEASURED:
        rule: Any = RULES[kind]()
        found = rule.find(lambda step, name=name: replace(good(step), **{name: bad}) if step else good(0.0), 1.0, 3.0)
        assert isinstance(found, Refused), name
    assert isinstance(Planned().find(good, 1.0, 3.0), Found)


def test_a_drift_that_is_none_is_large() -> None:
    usual: dict[str, Any] = {one.name: 1.0 for one in fields(Drift)}
    assert not Drift(**usual).large
    for name in ("cosine", "size"):
        assert Drift(**{**usual, name: math.nan}).large
