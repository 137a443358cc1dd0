"""One sweep over every benchmark, found by discovery: it says what it is, is a pure function, and survives what is
there; what could not be measured says why.

Each check is shown to reject a benchmark that is spoilt in its way.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from expunge import registry
from expunge.benchmark import Circumstances, Generating, Missing, Official, Scored
from expunge.data.rows import MakeRow
from expunge.evaluation.official import scores as scores_of
from expunge.files import plain_json, typed
from expunge.scoring.evidence import Candidates, Evidence, SetEvidence
from expunge.scoring.intervals import Floats, Score, mean_score
from recorded import others_of, tokens_of

BENCHMARKS = registry.names("benchmarks")
OWN = tuple(own for name in BENCHMARKS for own in registry.load("benchmarks", name).own_sets)
SETS = ("forget", "judging", "retain", "guard", "collateral", "samples", *OWN)
TASKS = ("Task1", "Task2", "Task3", "code x1", "email x4", "")


def rows(count: int, seed: int = 0, level: float | None = None, bare: bool = False) -> SetEvidence:
    """Documents and answers of every task, with secrets; half of what is generated is right. `level`: all of one
    loss. `bare`: nothing was generated, and no candidates were scored."""
    random = np.random.default_rng(seed)
    targets = random.integers(2, 5, size=count).astype(float)
    tokens = random.uniform(1, 4, size=int(targets.sum())) if level is None else np.full(int(targets.sum()), level)
    loss = np.array([part.mean() for part in np.split(tokens, np.cumsum(targets).astype(int)[:-1]) if len(part)])
    said = [f"one {place} two" for place in range(count)]
    given = [text if random.uniform() < 0.5 else "no" for text in said]
    secrets = {
        place: Candidates(random.uniform(10, 20, size=8) if level is None else np.full(8, 3 * level), 3.0)
        for place in range(0, count, 3)
    }
    return SetEvidence(
        kinds=tuple("answer" if place % 2 else "document" for place in range(count)),
        tasks=tuple(TASKS[place // 2 % len(TASKS)] for place in range(count)),
        loss=loss,
        targets=targets,
        token_loss=tokens,
        references=(None,) * count if bare else tuple(said),
        generations=(None,) * count if bare else tuple(given),
        shapes=np.ones((count, 2)),
        candidates={} if bare else secrets,
        others=None if bare else others_of(loss),
        tokens=None if bare else tokens_of(loss, targets),
    )


def evidence(make: Callable[[int], SetEvidence], sets: Sequence[str] = SETS) -> Evidence:
    return Evidence({name: make(seed) for seed, name in enumerate(sets)})


USUAL = evidence(lambda seed: rows(48, seed))
AROUND = [
    Circumstances(),
    Circumstances(holdout=False, ended=True),
    Circumstances(mmlu=Score(0.4, 0.35, 0.45, 100), retrained=evidence(lambda seed: rows(48, 100 + seed))),
]
FOUND: dict[str, Evidence] = {
    "usual": USUAL,
    "constant": evidence(lambda seed: rows(48, 0, level=2.0)),
    "all zero": evidence(lambda seed: rows(48, 0, level=0.0)),
    "one row": evidence(lambda seed: rows(1)),
    "nothing generated": evidence(lambda seed: rows(12, bare=True)),
    "no rows": evidence(lambda seed: rows(0)),
    "the forget rows alone": evidence(lambda seed: rows(24), ("forget",)),
    "losses that are no number": evidence(lambda seed: rows(48, seed, level=float("nan"))),
}


def outcomes(official: Official) -> dict[str, Scored]:
    return {**official.parts, **official.terms, **official.beside}


def check_described(kind: Any, name: str, others: Sequence[Any] = ()) -> None:
    assert kind.title and kind.title not in {other.title for other in others}
    assert isinstance(kind.generating, Generating)
    made = kind()
    assert made.make_row is None or callable(made.make_row)
    assert all(made.own_sets.values())
    assert (kind.__doc__ or "").strip() and not (kind.__doc__ or "").startswith(f"{kind.__name__}(")
    assert registry.summary("benchmarks", name).endswith(".") if name else True


def check_outcome(outcome: Scored) -> None:
    """A reason, or a figure with an interval that holds it."""
    if isinstance(outcome, Missing):
        assert outcome.reason
        return
    assert np.isfinite(outcome.value) and outcome.count > 0
    if outcome.low is not None and outcome.high is not None:
        assert outcome.low - 1e-9 <= outcome.value <= outcome.high + 1e-9


def check_survives(benchmark: Any) -> None:
    for one in FOUND.values():
        for around in AROUND:
            official = benchmark.official(one, around)
            behind = benchmark.behind(one, around)
            if official is None:
                assert not behind
                continue
            scores = outcomes(official)
            for outcome in scores.values():
                check_outcome(outcome)
            json.dumps(plain_scores(official), allow_nan=False)
            json.dumps(plain_json.plain(dict(benchmark.exports(one, around))), allow_nan=False)
            for other in (None, official):
                for twins in ([], [official]):
                    assert all(flag for flag in benchmark.flags(official, other, twins))
            for name, values in behind.items():
                check_behind(scores[name], values)


def check_behind(outcome: Scored, values: Floats) -> None:
    """The rows behind a score have its mean; where it is missing there are none."""
    if isinstance(outcome, Missing):
        assert not len(values)
    else:
        assert len(values) == outcome.count and float(values.mean()) == pytest.approx(outcome.value)


def plain_scores(official: Official) -> dict[str, object]:
    """As a record has them."""
    return typed.plain(scores_of(official))


def plain(benchmark: Any, one: Evidence) -> Iterator[Any]:
    """What it makes of the evidence, as can be compared."""
    for around in AROUND:
        official = benchmark.official(one, around)
        yield plain_scores(official) if official else None
        yield {name: values.tolist() for name, values in benchmark.behind(one, around).items()}
        yield dict(benchmark.exports(one, around))
        yield benchmark.flags(official, official, [official]) if official else []


def check_pure(benchmark: Any) -> None:
    """The same figures twice, of evidence that stays as it was."""
    one = copy.deepcopy(USUAL)
    first, second = list(plain(benchmark, one)), list(plain(benchmark, one))
    assert first == second
    for name, found in one.sets.items():
        assert np.array_equal(found.loss, USUAL.sets[name].loss)
        assert np.array_equal(found.token_loss, USUAL.sets[name].token_loss)
        assert found.generations == USUAL.sets[name].generations


@pytest.mark.parametrize("name", BENCHMARKS)
def test_it_says_what_it_is(name: str) -> None:
    others = [registry.load("benchmarks", other) for other in BENCHMARKS if other != name]
    check_described(registry.load("benchmarks", name), name, others)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_it_survives_what_is_there(name: str) -> None:
    check_survives(registry.load("benchmarks", name)())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_it_is_a_function_of_the_evidence(name: str) -> None:
    check_pure(registry.load("benchmarks", name)())


def test_the_usual_evidence_has_something_for_all_of_them() -> None:
    """So that no check above holds for want of a figure."""
    found = {name: registry.load("benchmarks", name)().official(USUAL, AROUND[2]) for name in BENCHMARKS}
    scores = {name: list(outcomes(one).values()) for name, one in found.items() if one}
    assert scores and {name for name, one in found.items() if one is None} == {"rows"}
    assert all(all(isinstance(outcome, Score) for outcome in one) for one in scores.values())


@dataclass(frozen=True)
class Spoilt:
    """The mean loss of the forget rows, but for what a case changes."""

    title: ClassVar[str] = "Spoilt"
    generating: ClassVar[Generating] = Generating()
    make_row: ClassVar[MakeRow | None] = None
    own_sets: ClassVar[Mapping[str, str]] = {}

    score: Callable[[SetEvidence], Scored] = lambda found: mean_of(found)
    values: Callable[[SetEvidence], Floats] = lambda found: finite(found)

    def official(self, evidence: Evidence, circumstances: Circumstances) -> Official:
        return Official({"loss": self.score(evidence.sets["forget"])}, {}, {})

    def behind(self, evidence: Evidence, circumstances: Circumstances) -> Mapping[str, Floats]:
        return {"loss": self.values(evidence.sets["forget"])}

    def flags(self, unlearned: Official, original: Official | None, retrained: Sequence[Official]) -> list[str]:
        return []

    def exports(self, evidence: Evidence, circumstances: Circumstances) -> Mapping[str, Any]:
        return {}


def finite(found: SetEvidence) -> Floats:
    return found.loss if np.isfinite(found.loss).all() else np.array([])


def mean_of(found: SetEvidence) -> Scored:
    return mean_score(finite(found)) or Missing("no row, or a loss that is not a number")


def _zero_where_missing(found: SetEvidence) -> Scored:
    return mean_score(finite(found)) or Score(0.0, None, None, 0)


def _no_reason(found: SetEvidence) -> Scored:
    return mean_score(finite(found)) or Missing("")


def _nan(found: SetEvidence) -> Scored:
    return mean_score(found.loss) or Missing("no row")


@pytest.mark.parametrize("broken", [_zero_where_missing, _no_reason, _nan])
def test_one_that_does_not_survive_would_be_seen(broken: Callable[[SetEvidence], Scored]) -> None:
    check_survives(Spoilt())
    with pytest.raises(AssertionError):
        check_survives(Spoilt(broken))


def test_rows_that_are_not_behind_the_score_would_be_seen() -> None:
    with pytest.raises(AssertionError):
        check_survives(Spoilt(values=lambda found: finite(found)[:-1]))


def _by_chance(found: SetEvidence) -> Scored:
    return Score(float(np.random.default_rng().normal()), None, None, len(found.loss))


def _sorts(found: SetEvidence) -> Scored:
    found.loss.sort()
    return mean_of(found)


@pytest.mark.parametrize("broken", [_by_chance, _sorts])
def test_one_that_is_no_function_of_the_evidence_would_be_seen(broken: Callable[[SetEvidence], Scored]) -> None:
    check_pure(Spoilt())
    with pytest.raises(AssertionError):
        check_pure(Spoilt(broken))


@pytest.mark.parametrize(
    "changed", [{"title": ""}, {"title": "The same"}, {"generating": None}, {"make_row": "rows"}, {"__doc__": None}]
)
def test_one_that_does_not_say_what_it_is_would_be_seen(changed: dict[str, Any]) -> None:
    other = type("Other", (), {"title": "The same"})
    check_described(Spoilt, "", [other])
    with pytest.raises(AssertionError):
        check_described(type("Spoilt", (Spoilt,), {"__doc__": Spoilt.__doc__} | changed), "", [other])
