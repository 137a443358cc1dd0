"""One sweep over every metric, found by discovery: it says what it is, is a pure function, and survives what is there.

Each check is shown to reject a metric that is spoilt in its way.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, get_args

import numpy as np
import pytest

from expunge import registry
from expunge.metric import Card, High
from expunge.metrics.loss import Loss
from expunge.reporting.words import SETS
from expunge.scoring.evidence import Candidates, Evidence, OtherAnswers, SetEvidence, Tokens
from expunge.scoring.intervals import Floats, Score
from recorded import others_of, tokens_of

METRICS = registry.names("metrics")


def rows(loss: Sequence[float], kl: Floats | None = None, secrets: bool = True, generated: bool = True) -> SetEvidence:
    """Documents and answers in turn; of each second one the model gives what it should."""
    count = len(loss)
    said = [f"one {place} two" for place in range(count)]
    losses = np.array(loss, dtype=np.float64)
    targets = np.full(count, 3.0)
    return SetEvidence(
        kinds=tuple("answer" if place % 2 else "document" for place in range(count)),
        tasks=("code",) * count,
        loss=losses,
        targets=targets,
        token_loss=np.repeat(losses, 3),
        references=tuple(said) if generated else (None,) * count,
        generations=tuple(text if place % 4 < 2 else "no" for place, text in enumerate(said))
        if generated
        else (None,) * count,
        shapes=np.ones((count, 2)),
        candidates={place: Candidates(losses[place] + np.arange(8.0), 3.0) for place in range(count)}
        if secrets
        else {},
        kl=kl,
        others=others_of(losses) if generated else None,
        reference_loss=losses**2 / 2 if generated else None,
        tokens=tokens_of(losses, targets) if generated else None,
    )


RANDOM = np.random.default_rng(0)
USUAL = {name: rows(RANDOM.uniform(1, 4, size=20).tolist(), RANDOM.uniform(0, 1, size=20)) for name in SETS}
NOTHING = rows([])
FOUND: dict[str, Callable[[], SetEvidence]] = {
    "constant": lambda: rows([2.0] * 12, np.full(12, 0.5)),
    "all zero": lambda: replace(
        rows([0.0] * 12, np.zeros(12)), candidates={0: Candidates(np.zeros(8), 3.0), 1: Candidates(np.zeros(64), 40.0)}
    ),
    "one row": lambda: rows([2.0], np.array([0.5])),
    "some not asked": lambda: rows([1.0, 2.0, 3.0, 4.0], np.array([np.nan, 0.5, np.nan, 0.25])),
}
NONE: dict[str, Callable[[], SetEvidence]] = {
    "no rows": lambda: NOTHING,
    "no rows, and their KL": lambda: replace(NOTHING, kl=np.array([])),
}
BARE: dict[str, Callable[[], SetEvidence]] = {
    "nothing generated": lambda: rows([1.0, 2.0], secrets=False, generated=False),
    "no KL of any row": lambda: rows([1.0, 2.0], np.full(2, np.nan)),
}


def of(found: SetEvidence) -> Evidence:
    """The same rows in every set."""
    return Evidence(dict.fromkeys(SETS, found))


def check_described(kind: Any, name: str, others: Sequence[Any] = ()) -> None:
    """Its title is its own; the direction names a unit, then what its values mean; the sets are known ones."""
    assert kind.title and kind.title not in {other.title for other in others}
    unit, _, meaning = kind.direction.partition("; ")
    assert unit and meaning
    assert kind.high in get_args(High)
    assert kind.sets and set(kind.sets) <= set(SETS) and len(set(kind.sets)) == len(kind.sets)
    assert isinstance(kind.card, Card) and all(map(str.strip, (kind.card.original, kind.card.retrained)))
    assert len(kind.card.fooled.split()) > 5, "every metric can be fooled"
    assert (kind.__doc__ or "").strip() and not (kind.__doc__ or "").startswith(f"{kind.__name__}(")
    assert registry.summary("metrics", name).endswith(".") if name else True
    kind()


def check_sound(score: Score | None, card: Card) -> None:
    """No figure, or one with an interval that holds it, of so many rows; all within the range that the card says."""
    if score is None:
        return
    for value in (score.value, score.low, score.high):
        assert value is None or card.least is None or value >= card.least - 1e-12
        assert value is None or card.most is None or value <= card.most + 1e-12
    assert np.isfinite(score.value) and score.count > 0
    assert (score.low is None) == (score.high is None)
    if score.low is not None and score.high is not None:
        assert score.low - 1e-12 <= score.value <= score.high + 1e-12


def check_survives(metric: Any) -> None:
    """Whatever is there; of no rows there is nothing to say, which is said."""
    for name in metric.sets:
        for make in (*FOUND.values(), *BARE.values()):
            check_sound(metric(of(make()), name), metric.card)
        for make in NONE.values():
            assert metric(of(make()), name) is None
        check_sound(metric(Evidence({name: USUAL[name]}), name), metric.card)  # no other set was recorded


def with_losses(change: Callable[[Floats], Floats]) -> Evidence:
    """The usual evidence with other losses, of rows, their tokens, other answers and candidates."""
    found = {}
    for name, one in USUAL.items():
        candidates = {place: replace(other, losses=change(other.losses)) for place, other in one.candidates.items()}
        loss = change(one.loss)
        others, tokens = others_of(loss), tokens_of(loss, one.targets)
        found[name] = replace(one, loss=loss, candidates=candidates, others=others, tokens=tokens)
    return Evidence(found)


def check_says_nan(metric: Any) -> None:
    """A metric that hangs on losses gives no finite figure where one of them is not a number."""
    for name in metric.sets:
        usual, other = metric(Evidence(USUAL), name), metric(with_losses(lambda losses: losses[::-1] ** 2), name)
        score = metric(with_losses(lambda losses: np.where(np.arange(len(losses)) == 3, np.nan, losses)), name)
        assert score is None or not np.isfinite(score.value) or usual == other


def values(evidence: Evidence) -> Iterator[Any]:
    for one in evidence.sets.values():
        yield from (getattr(one, field.name) for field in fields(one) if field.name not in ("others", "tokens"))
        for part in (one.others, one.tokens):
            assert part is not None
            yield from (getattr(part, field.name) for field in fields(part))


def same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray):
        return bool(np.array_equal(left, right, equal_nan=True))
    if isinstance(left, dict):
        return all(np.array_equal(left[key].losses, right[key].losses) for key in left)
    return bool(left == right)


def check_pure(metric: Any) -> None:
    """The same figure twice, of evidence that stays as it was; the order of rows does not matter to the value."""
    evidence = Evidence({name: copy.deepcopy(one) for name, one in USUAL.items()})
    before = copy.deepcopy(evidence)
    for name in metric.sets:
        first, second = metric(evidence, name), metric(evidence, name)
        assert first is not None and first == second
        assert all(map(same, values(evidence), values(before)))
        turned = Evidence({name: reversed_(one) for name, one in USUAL.items()})
        assert metric(turned, name).value == pytest.approx(first.value, rel=1e-12)


def reversed_(one: SetEvidence) -> SetEvidence:
    """The same rows from last to first."""
    last = len(one.loss) - 1
    assert one.kl is not None and one.others is not None and one.tokens is not None
    assert one.reference_loss is not None
    others, tokens = one.others, one.tokens
    likeliest = tokens.likeliest.reshape(-1, 3)[::-1].ravel()  # rows of three tokens, which stay in their order
    return SetEvidence(
        kinds=one.kinds[::-1],
        tasks=one.tasks[::-1],
        loss=one.loss[::-1],
        targets=one.targets[::-1],
        token_loss=one.token_loss[::-1],
        references=one.references[::-1],
        generations=one.generations[::-1],
        shapes=one.shapes[::-1],
        candidates={last - place: found for place, found in one.candidates.items()},
        kl=one.kl[::-1],
        reference_loss=one.reference_loss[::-1],
        others=OtherAnswers(others.paraphrased[::-1], others.perturbed[::-1]),
        tokens=Tokens(
            tokens.counts, tokens.loss[::-1], likeliest, tokens.mean[::-1], tokens.variance[::-1], tokens.compressed
        ),
    )


@pytest.mark.parametrize("name", METRICS)
def test_it_says_what_it_is(name: str) -> None:
    others = [registry.load("metrics", other) for other in METRICS if other != name]
    check_described(registry.load("metrics", name), name, others)


@pytest.mark.parametrize("name", METRICS)
def test_it_survives_what_is_there(name: str) -> None:
    check_survives(registry.load("metrics", name)())


@pytest.mark.parametrize("name", METRICS)
def test_it_is_a_function_of_the_evidence(name: str) -> None:
    check_pure(registry.load("metrics", name)())


@pytest.mark.parametrize("name", METRICS)
def test_it_says_that_a_loss_is_not_a_number(name: str) -> None:
    check_says_nan(registry.load("metrics", name)())


def test_every_metric_finds_something_in_usual_evidence() -> None:
    """So that no check above holds for want of a figure."""
    for name in METRICS:
        metric = registry.load("metrics", name)()
        assert all(metric(Evidence(USUAL), one) is not None for one in metric.sets)


@dataclass(frozen=True)
class Spoilt:
    """A metric that is right but for what a case changes."""

    title: ClassVar[str] = "Spoilt"
    direction: ClassVar[str] = "nats; higher = less known"
    high: ClassVar[High] = "unknown"
    sets: ClassVar[tuple[str, ...]] = ("forget",)
    card: ClassVar[Card] = replace(Loss.card)

    score: Callable[[SetEvidence], Score | None] = lambda found: Loss()(of(found), "forget")

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        return self.score(evidence.sets[name])


def _mean_of_nothing(found: SetEvidence) -> Score | None:
    return Score(float(found.loss.sum() / np.float64(len(found.loss) or 0.0)), None, None, len(found.loss))


def _raises_on_one(found: SetEvidence) -> Score | None:
    return (
        Score(float(found.loss.mean()), 0.0, float(1 / found.loss.std()), len(found.loss)) if len(found.loss) else None
    )


def _outside_its_range(found: SetEvidence) -> Score | None:
    return Score(-1.0, -2.0, 0.0, len(found.loss)) if len(found.loss) else None


def _beside_its_interval(found: SetEvidence) -> Score | None:
    return Score(float(found.loss.mean()), 7.0, 8.0, len(found.loss)) if len(found.loss) else None


@pytest.mark.parametrize("broken", [_mean_of_nothing, _raises_on_one, _outside_its_range, _beside_its_interval])
def test_one_that_does_not_survive_would_be_seen(broken: Callable[[SetEvidence], Score | None]) -> None:
    check_survives(Spoilt())
    with pytest.raises(AssertionError), np.errstate(all="ignore"):
        check_survives(Spoilt(broken))


def _without_what_is_not_finite(found: SetEvidence) -> Score | None:
    return Score(float(np.nanmean(found.loss)), None, None, len(found.loss))


def _as_the_least(found: SetEvidence) -> Score | None:
    return Score(float((found.loss > 2).mean()), None, None, len(found.loss))


@pytest.mark.parametrize("broken", [_without_what_is_not_finite, _as_the_least])
def test_one_that_hides_what_is_not_a_number_would_be_seen(broken: Callable[[SetEvidence], Score | None]) -> None:
    check_says_nan(Spoilt())
    with pytest.raises(AssertionError):
        check_says_nan(Spoilt(broken))


def _by_chance(found: SetEvidence) -> Score | None:
    return Score(float(np.random.default_rng().normal()), None, None, len(found.loss))


def _sorts(found: SetEvidence) -> Score | None:
    found.loss.sort()
    return Loss()(of(found), "forget")


def _first(found: SetEvidence) -> Score | None:
    return Score(float(found.loss[0]), None, None, len(found.loss))


@pytest.mark.parametrize("broken", [_by_chance, _sorts, _first])
def test_one_that_is_no_function_of_the_evidence_would_be_seen(broken: Callable[[SetEvidence], Score | None]) -> None:
    check_pure(Spoilt())
    with pytest.raises(AssertionError):
        check_pure(Spoilt(broken))


@pytest.mark.parametrize(
    "changed",
    [
        {"title": ""},
        {"title": "Loss"},
        {"direction": "higher = less known"},
        {"high": "better"},
        {"sets": ("forget", "forgotten")},
        {"sets": ()},
        {"card": replace(Loss.card, fooled="No.")},
        {"card": replace(Loss.card, retrained=" ")},
        {"__doc__": None},
    ],
)
def test_one_that_does_not_say_what_it_is_would_be_seen(changed: dict[str, Any]) -> None:
    check_described(Spoilt, "", [Loss])
    with pytest.raises(AssertionError):
        check_described(type("Spoilt", (Spoilt,), {"__doc__": Spoilt.__doc__} | changed), "", [Loss])
