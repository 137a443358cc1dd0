"""A little relearning: some rows' loss minimised for a few steps, on the way of which the model is looked at.

AdamW without decay at a constant 3e-4, 16 windows a step, the mean over their targets (our choice; durable rounds have
steps of their own, `influence.durable`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from expunge.attack import Trained
from expunge.data.batches import Batch, Stream
from expunge.data.passes import Passes, drawing
from expunge.loop.minimise import Minimiser
from expunge.method import Terms
from expunge.model.losses import target_nll
from expunge.optim.stepper import Plain
from expunge.problem import Problem, Split
from expunge.runs.progress import bar

RATE, ROWS = 3e-4, 16


def relearn(problem: Problem, split: Split, steps: Sequence[int], seed: int) -> Iterator[Trained]:
    """The problem, whose movable weights move, after each of those counts of steps down the loss of a split's rows."""
    problem = replace(problem, seed=seed)
    stream = Stream(split.name, split.windows, seed, by_tokens=True)

    def loss(batch: Batch) -> Terms:
        value = target_nll(problem.model, batch).mean()
        return Terms({}, value)

    stepper = Plain().begin(problem, {}, seed, lambda name, figures: None)
    minimiser = Minimiser(
        problem, stepper, {split.name: stream}, {split.name: ROWS}, loss, lambda trial: RATE, max(steps)
    )
    problem.model.eval()
    with bar("relearning", max(steps)) as report:
        for count in steps:
            if count:
                minimiser.run(lambda step, losses, end=count: step == end, report)  # type: ignore[misc]
            yield Trained(count, problem)


def cost(split: Split, steps: int, seed: int) -> Passes:
    """What so many steps take."""
    windows = {split.name: split.windows}
    return Passes(trained=drawing(windows, {split.name: ROWS}, seed, steps), updates=steps)
