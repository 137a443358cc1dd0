"""The list of phases: when cycles end, what follows them, and how a budget of tokens is shared out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from expunge.data.batches import Batch
from expunge.loop import phases
from expunge.loop.phases import apply, steps_within
from expunge.loop.unlearning import Ground
from expunge.loop.watch import Outcome
from expunge.method import (
    Descend,
    Method,
    Needs,
    Phase,
    Proposal,
    Propose,
    Repeat,
    State,
    Step,
    Terms,
    Transform,
    Trial,
    flattened,
)
from expunge.model.losses import target_nll, window_means
from expunge.optim.step_size import Fixed
from expunge.problem import Problem, divided
from problems import METHODS, mixed, problem_for, short

PARTS = {"retain": 2, "acceptance": 1}


def loss(problem: Problem, state: State, batch: Batch) -> Terms:
    value = window_means(target_nll(problem.model, batch), batch).mean()
    return Terms({batch.split: value}, -value if batch.split == "forget" else value)


def down(steps: int = 3, name: str = "down", **draws: int) -> Descend:
    return Descend(loss=loss, draws=draws or {"forget": 4}, steps=steps, rate=1e-4, name=name)


def note(word: str) -> Transform:
    """Leaves a word, in the order of the run."""

    def apply(problem: Problem, state: State) -> None:
        state.carried.setdefault("words", []).append(word)

    return Transform(apply=apply, name=word)


@dataclass(frozen=True)
class Listed(Method):
    """The phases that it is given."""

    given: tuple[Phase, ...]
    parts: tuple[tuple[str, int], ...] = ()

    @property
    def needs(self) -> Needs:
        return Needs(parts=dict(self.parts), fewest_retain=len(self.parts))

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        return self.given


def words(*given: Phase) -> list[str]:
    """What the notes of a run say."""
    found: list[str] = []

    def last(problem: Problem, state: State) -> None:
        found.extend(state.carried.get("words", []))

    propose = any(isinstance(step, Propose) for step in flattened(given))
    method = Listed((*given, Transform(apply=last)), tuple(PARTS.items()) if propose else ())
    apply(method, mixed(), lambda entry: None)
    return found


# Cycles


def check_until(run: Callable[..., list[str]]) -> None:
    """Asked after each whole cycle, never within one; what stands after the cycles is run in any case."""
    asked: list[list[str]] = []

    def twice(state: State) -> bool:
        asked.append(list(state.carried["words"]))
        return bool(state.carried["words"].count("b") == 2)

    assert run(Repeat((note("a"), note("b")), 5, until=twice), note("c")) == ["a", "b", "a", "b", "c"]
    assert asked == [["a", "b"], ["a", "b", "a", "b"]]
    assert run(Repeat((note("a"),), 3, until=lambda state: False), note("c")) == ["a", "a", "a", "c"]
    assert run(Repeat((note("a"),), 3, until=lambda state: True), note("c")) == ["a", "c"]
    one, two = (Repeat((note(word),), 3, until=lambda state: True) for word in "ab")
    assert run(one, two) == ["a", "b"]  # the end of the first is not that of the second
    inner = Repeat((note("a"), Repeat((note("b"),), 2)), 2, until=lambda state: state.carried["words"].count("b") == 2)
    assert run(inner) == ["a", "b", "b"]


def test_cycles_end_when_a_condition_holds() -> None:
    check_until(words)


def _after_each_phase(given: Sequence[Phase]) -> list[phases._Due]:
    return [
        phases._Due(step, place if isinstance(phase, Repeat) else None, getattr(phase, "until", None))
        for place, phase in enumerate(given)
        for step in flattened([phase])
    ]


def _never(given: Sequence[Phase]) -> list[phases._Due]:
    return [replace(due, until=None) for due in LISTED(given)]


def _all_cycles_are_one(given: Sequence[Phase]) -> list[phases._Due]:
    return [replace(due, cycle=None if due.cycle is None else 0) for due in LISTED(given)]


LISTED = phases._listed


@pytest.mark.parametrize("broken", [_after_each_phase, _never, _all_cycles_are_one])
def test_another_end_would_be_seen(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "_listed", broken)
    with pytest.raises(AssertionError):
        check_until(words)


def test_a_refused_proposal_ends_its_cycles_and_no_others() -> None:
    def propose(problem: Problem, state: State) -> Proposal:
        """Zero, which is refused, from the second on."""
        here = note("p")
        here.apply(problem, state)
        scale = 1e-3 if state.carried["words"].count("p") == 1 else 0.0
        return Proposal(direction={name: scale * torch.ones_like(part) for name, part in problem.movable.items()})

    asked = Propose(propose=propose, step=Fixed(step=1e-3), passes={})
    assert words(Repeat((note("a"), asked, note("b")), 4), Repeat((note("c"),), 2)) == "a p b a p c c".split()
    assert words(note("a"), asked, asked, note("b")) == "a p p b".split()  # without cycles nothing ends


def test_only_the_outermost_cycles_can_have_an_end() -> None:
    with pytest.raises(ValueError, match="outermost"):
        Repeat((Repeat((note("a"),), 2, until=lambda state: True),), 2)


# Budgets


def budgeted(tokens: int, *given: Phase) -> Outcome:
    return apply(Listed(given), mixed(), lambda entry: None, tokens)


def measuring(trial: Trial) -> float:
    """Looks at what the step drew once for each third."""
    return 1e-4 + 0.0 * trial.loss_at(1e-4, "forget")


def check_budget(run: Callable[..., Outcome]) -> None:
    small, large = down(30, "small", forget=2), down(10, "large", forget=8, retain=8)
    for tokens in (1500, 6000):
        assert run(tokens, small).tokens == pytest.approx(tokens, rel=0.1)
        assert run(tokens, small, note("a"), large).tokens == pytest.approx(tokens, rel=0.1)
        looking = replace(large, rate=measuring, trials={"forget": 1.0})
        assert run(tokens, small, looking).tokens == pytest.approx(tokens, rel=0.1)


def test_a_budget_is_what_descents_take_together() -> None:
    check_budget(budgeted)


def _first_takes_all(rest: Sequence[Step], ground: Ground, tokens: float) -> int:
    return steps_within(rest[:1], ground, tokens)


def _without_looks(rest: Sequence[Step], ground: Ground, tokens: float) -> int:
    return steps_within([replace(one, trials={}) if isinstance(one, Descend) else one for one in rest], ground, tokens)


@pytest.mark.parametrize("broken", [_first_takes_all, _without_looks])
def test_another_share_would_be_seen(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "steps_within", broken)
    with pytest.raises(AssertionError):
        check_budget(budgeted)


def check_shares(within: Callable[[Sequence[Step], Ground, float], int]) -> None:
    """By hand: of steps of 2 and of 8 rows of equal length, 30 and 10, the first takes 60 of 140 parts."""
    problem = mixed()
    rows = problem.splits["forget"].of(range(8), "forget")
    rows = replace(rows, windows=tuple(replace(one, ids=one.ids[:6], counted=one.counted[:6]) for one in rows.windows))
    ground = Ground(pool={"forget": rows}, shapes={})
    small, large = down(30, forget=2), down(10, forget=8)
    assert {len(window.ids) for window in rows.windows} == {6}
    tokens = 2 * 6 * 70  # 70 steps of the first
    assert within([small], ground, tokens) == 70
    assert within([small, large], ground, tokens) == round(70 * 60 / 140)
    assert within([small, note("a"), large], ground, tokens) == round(70 * 60 / 140)
    assert within([large], ground, tokens) == round(70 / 4)
    assert within([small], ground, 1) == 1  # one step in any case
    by_passes = replace(small, steps=None, passes=2.5)  # of 8 windows by 2, so 10 steps
    assert within([by_passes, large], ground, tokens) == round(70 * 20 / 100)


def test_descents_share_in_proportion_to_their_own_tokens() -> None:
    check_shares(steps_within)


def _by_steps(rest: Sequence[Step], ground: Ground, tokens: float) -> int:
    """As if all steps cost alike: what those of the first do."""
    descents = [step for step in rest if isinstance(step, Descend)]
    counts = [step.steps or 1 for step in descents]
    return max(1, round(steps_within(rest[:1], ground, tokens) * counts[0] / sum(counts)))


@pytest.mark.parametrize("broken", [_first_takes_all, _by_steps])
def test_shares_that_are_not_in_proportion_would_be_seen(broken: Any) -> None:
    with pytest.raises(AssertionError):
        check_shares(broken)


def test_proposals_take_what_they_need_and_descents_the_rest() -> None:
    problem = divided(mixed(), PARTS)
    ground = Ground.of(problem, State())
    propose = Propose(propose=lambda *_: Proposal(direction={}), step=Fixed(step=1.0), passes={"forget": 3})
    need = phases.RUNNERS[Propose].work(propose, ground).tokens
    assert need > 3 * problem.splits["forget"].tokens
    rest = down(30)
    assert steps_within([rest, propose], ground, 8000) == steps_within([rest], ground, 8000 - need)
    assert steps_within([rest, propose], ground, need / 2) == 1


PROPOSING = ("fisher_removal", "fisher_forgetting", "margin_newton")  # nothing but proposals, which no budget cuts


@pytest.mark.parametrize("name", [name for name in METHODS if name not in PROPOSING])
def test_every_method_that_trains_keeps_to_a_budget(name: str) -> None:
    """Within a tenth, and below that where the course of an attempt ends by itself."""
    problem = problem_for(name, "full")
    torch.manual_seed(0)
    outcome = apply(short(name), problem, lambda entry: None, 12000)
    assert (0.5 if outcome.attempts else 0.9) * 12000 <= outcome.tokens <= 1.1 * 12000
    assert math.isfinite(outcome.learning_rate)
