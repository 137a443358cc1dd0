"""Where memory runs out the work is cut, and what comes of it stays what it was: weights, sums, losses, generations."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.data.batches import Batch, Stream, collate
from expunge.errors import DoesNotFit
from expunge.evaluation import evidence
from expunge.gradients import summed
from expunge.gradients.estimates import SAMPLED, estimate
from expunge.gradients.per_example import Squares, Stacked, measure
from expunge.gradients.summed import Summed, gradients, mean_gradient
from expunge.loop.minimise import Minimiser
from expunge.loop.phases import apply
from expunge.method import Terms
from expunge.methods.gradient_difference import GradientDifference
from expunge.methods.kl_minimisation import KLMinimisation
from expunge.methods.libu_as_published import squared_batch_means
from expunge.methods.loss_matching import LossMatching
from expunge.methods.ng_diff import NGDiff
from expunge.methods.rmu import RMU
from expunge.model.recompute import allow
from expunge.optim.stepper import Plain
from expunge.problem import Problem
from expunge.reference.cache import keep_distributions, log_likelihoods, row_losses, window_divergences
from oracles import token_nll
from problems import uneven
from scarce import SAYS, scarce

MOST = 60  # places: less than most batches of these rows, more than the longest of them
METHODS = [
    GradientDifference(epochs=2, forget_rows=8, learning_rate=1e-3),
    KLMinimisation(epochs=1, forget_rows=8, learning_rate=1e-3),
    LossMatching(steps=3, forget_rows=8, learning_rate=1e-3, replay_texts=0),
    NGDiff(epochs=2, forget_rows=8, first_rate=0.3, refresh_every=1),
    RMU(steps=3, rows=8, learning_rate=1e-3),
]


def weights_after(method: Any, most: int | None = None, backward: bool = False) -> dict[str, Tensor]:
    problem = uneven()
    if most is None:
        apply(method, problem, lambda entry: None)
        return problem.snapshot()
    with scarce(problem, most, backward):
        apply(method, problem, lambda entry: None)
    assert problem.portions.halvings and problem.portions.tokens and problem.portions.tokens <= most
    return problem.snapshot()


@cache
def undisturbed(method: Any) -> dict[str, Tensor]:
    return weights_after(method)


def check_weights(method: Any, backward: bool) -> None:
    whole, cut = undisturbed(method), weights_after(method, MOST, backward)
    assert max(float((whole[name] - cut[name]).abs().max()) for name in whole) <= 1e-12


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=lambda one: type(one).__name__)
def test_weights_are_those_of_an_undisturbed_run(method: Any, backward: bool) -> None:
    check_weights(method, backward)


def _own_gradients(problem: Problem) -> Summed:
    """Those that backward passes left, taken away."""
    found = {name: tensor.grad for name, tensor in problem.movable.items() if tensor.grad is not None}
    problem.model.zero_grad(set_to_none=True)
    return Summed(found, {})


def _drops_what_failed(problem: Problem, batches: Iterable[Batch], value: Any) -> Summed:
    for part in [part for batch in batches for part in batch.parts(problem.portions.tokens)]:
        problem.portions.fits(part, lambda one: problem.runtime.backward(value(one).total))
    return _own_gradients(problem)


def _counts_what_failed_twice(problem: Problem, batches: Iterable[Batch], value: Any) -> Summed:
    """What a backward pass had accumulated before it failed stays."""
    for batch in batches:
        problem.portions.each(batch, lambda one: problem.runtime.backward(value(one).total))
    return _own_gradients(problem)


def _takes_means_of_means(problem: Problem, batches: Iterable[Batch], value: Any) -> Summed:
    batches = list(batches)
    while True:
        parts = [part for batch in batches for part in batch.parts(problem.portions.tokens)]

        def even(one: Batch, count: int = len(parts)) -> None:
            problem.runtime.backward(value(replace(one, weight=1.0)).total / count)

        if all(problem.portions.fits(part, even) for part in parts):
            return _own_gradients(problem)
        problem.model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("broken", [_drops_what_failed, _counts_what_failed_twice, _takes_means_of_means])
def test_check_rejects(broken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In backward passes, which the loop is the first to meet."""
    undisturbed(METHODS[0])
    monkeypatch.setattr(summed, "accumulate", broken)
    with pytest.raises(AssertionError):
        check_weights(METHODS[0], backward=True)


def same(first: Any, second: Any) -> None:
    if isinstance(first, Tensor):
        assert torch.allclose(first.double(), second.double(), rtol=1e-10, atol=1e-13)
    elif isinstance(first, dict):
        for name, part in first.items():
            same(part, second[name])
    else:
        for one, other in zip(first, second, strict=True):
            same(one, other)


def _divergences(problem: Problem) -> Any:
    split = problem.splits["retain"]
    kept = keep_distributions(problem, split)
    with torch.no_grad():
        next(iter(problem.movable.values())).add_(0.01)
    found = window_divergences(problem, split, kept)
    return [found.kl, found.loss, *kept.log_probs]


def _per_example(problem: Problem) -> Any:
    split = problem.splits["forget"]
    return [measure(problem, split, gather, "noise", passes=2).tensors for gather in (Squares, Stacked)]


def _of_the_data(logits: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
    """Without chance, which hangs on how batches are cut."""
    return token_nll(logits, batch).sum()


LABELS = replace(SAMPLED, surrogate=_of_the_data)


def _sophia(problem: Problem) -> Any:
    windows = problem.splits["retain"].windows
    batches = [collate("retain", windows, range(6)), collate("retain", windows, range(6, len(windows)))]
    return estimate(problem, batches, torch.Generator(), LABELS).diagonal


def _gradients(problem: Problem) -> Any:
    split = problem.splits["forget"]
    return [mean_gradient(problem, split, "row"), squared_batch_means(problem, split, 4)]


MEASURED: dict[str, Callable[[Problem], Any]] = {
    "row losses": lambda problem: row_losses(problem, problem.model, problem.splits["forget"]),
    "likelihoods": lambda problem: log_likelihoods(problem, problem.splits["forget"]),
    "divergences": _divergences,
    "per example": _per_example,
    "sophia": _sophia,
    "gradients": _gradients,
}


@pytest.mark.parametrize("name", MEASURED)
def test_what_is_measured_stays(name: str) -> None:
    whole = MEASURED[name](uneven())
    problem = uneven()
    with scarce(problem, MOST):
        cut = MEASURED[name](problem)
    assert problem.portions.halvings
    same(whole, cut)


def test_evidence_and_generations_stay() -> None:
    whole = uneven()
    expected = evidence.record(whole, whole.splits).sets["forget"]
    problem = uneven()
    with scarce(problem, MOST):
        found = evidence.record(problem, problem.splits).sets["forget"]
    assert problem.portions.texts and problem.portions.halvings
    assert found.generations == expected.generations
    assert found.token_loss == pytest.approx(expected.token_loss, rel=1e-10)


def steps(problem: Problem) -> None:
    """Two plain steps on one window."""

    def loss(batch: Batch) -> Terms:
        value = problem.model(input_ids=batch.ids, use_cache=False).logits.square().mean()
        return Terms({"loss": value}, value)

    Minimiser(
        problem,
        Plain().begin(problem, {}, 0, lambda *_: None),
        {"forget": Stream("forget", problem.splits["forget"].windows[:1], 0)},
        {"forget": 1},
        loss,
        lambda trial: 1e-3,
        steps=2,
    ).run(lambda *_: False, lambda *_: None)


def test_a_window_that_does_not_fit_ends_the_run_with_remedies() -> None:
    problem = uneven()
    with scarce(problem, 3), pytest.raises(DoesNotFit, match=r"single window of \d+ tokens.*--gradient-checkpointing"):
        steps(problem)
    problem.portions.adapts = False
    with scarce(problem, 3), pytest.raises(DoesNotFit, match="smaller --batch-tokens"):
        steps(problem)


def test_layers_are_recomputed_before_a_run_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One window does not fit until layers are recomputed; the weights are those of a run with memory enough."""
    expected = uneven()
    steps(expected)
    problem, recomputed = uneven(), []
    allow(problem.portions, problem.model, asked=False)
    lighter = problem.portions.lighter
    assert lighter is not None
    monkeypatch.setattr(problem.portions, "lighter", lambda: recomputed.append(lighter()) or recomputed[-1])

    def refuse(module: Any, arguments: Any, named: Any) -> None:
        if not recomputed:
            raise RuntimeError(SAYS)

    with_hook = problem.model.register_forward_pre_hook(refuse, with_kwargs=True)
    steps(problem)
    with_hook.remove()
    assert recomputed == [True]
    same(expected.snapshot(), problem.snapshot())


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    problem = uneven()

    def breaks(batch: Batch) -> Terms:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        gradients(problem, [collate("forget", problem.splits["forget"].windows, [0, 1])], breaks)
    assert problem.portions.halvings == 0
