"""Task vector: train a little on the forget rows, and a little on the retain rows, and subtract the difference.

    theta' = theta - forget_scale (theta_f - theta) + retain_scale (theta_r - theta)

Ilharco et al., *Editing models with task arithmetic* (2212.04089), who negate the vector of one training; adding the
vector of a second training on rows to keep takes out what both have in common, such as the form of the answers. A
baseline of MUSE (Shi et al., 2407.06460), which overfits on the forget rows, and of SemEval-2025 Task 4.

On an adapter theta is the effective weight W = W0 + s B A, and the sums are sums of products B A, written back at the
adapter's rank (`model.effective`): adding up B and A apart would make products of one training's B with another's A.
What the rank does not hold is noted as `lost`, as a share of the norm.

Departures: the trainings are short (`epochs`) and at AdamW's usual rate, where MUSE trains for 10 epochs and searches
the scale; numbers are our choice. Without retain rows there is no second vector. The scale is not searched: nothing
here says when to stop, so it over-forgets or hardly forgets as the scale is chosen.

When to use it: as a baseline, and where many requests are to be taken back and forth by arithmetic alone.
"""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from expunge.config.bounds import Count, Positive, Weight
from expunge.data.batches import Batch
from expunge.method import Descend, Method, Phase, State, Terms, Transform
from expunge.model import effective
from expunge.model.losses import target_nll, window_means
from expunge.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskVector(Method):
    """Options of task_vector."""

    forget_scale: Positive = 1.0
    """How often the vector of the forget rows is subtracted (1: the paper's, as it is written; searched there)."""
    retain_scale: Weight = 1.0
    """How often the vector of the retain rows is added; 0: there is no second training (our choice)."""
    learning_rate: Positive = 1e-4
    """Peak learning rate of AdamW in both trainings (our choice)."""
    epochs: Count = 5
    """Passes over the forget rows, of both trainings (our choice)."""
    rows: Count = 16
    """Rows a step (our choice)."""

    def init(self, problem: Problem) -> State:
        return State(caches={"original": effective.read(problem.model, problem.movable)})

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        phases: list[Phase] = []
        for split in ("forget", "retain"):
            if split in problem.splits and (split == "forget" or self.retain_scale):
                phases.append(self._training(split, problem))
                phases.append(Transform(apply=partial(self._take, split), name=f"vector of {split} rows"))
        return (*phases, Transform(apply=self._subtract, name="subtraction"))

    def _training(self, split: str, problem: Problem) -> Descend:
        """As many steps on either split as `epochs` passes over the forget rows take."""
        steps = self.epochs * -(-len(problem.splits["forget"].windows) // self.rows)
        name = f"training on {split} rows"
        return Descend(loss=self.loss, draws={split: self.rows}, steps=steps, rate=self.learning_rate, name=name)

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        loss = window_means(target_nll(problem.model, batch), batch).mean()
        return Terms({batch.split: loss}, loss)

    def _take(self, split: str, problem: Problem, state: State) -> None:
        """Keeps what the training made, and goes back to the original."""
        state.carried[split] = effective.read(problem.model, problem.movable)
        effective.write(problem.model, problem.movable, state.caches["original"])

    def _subtract(self, problem: Problem, state: State) -> None:
        trained: dict[str, dict[str, tuple[Tensor, ...]]] = state.carried
        scales = {"forget": -self.forget_scale, "retain": self.retain_scale}
        used = {split: scale for split, scale in scales.items() if split in trained}
        parts = [(1 - sum(used.values()), state.caches["original"])]
        parts += [(scale, trained[split]) for split, scale in used.items()]
        state.notes["lost"] = effective.write(problem.model, problem.movable, effective.mixed(parts))
        for split in used:
            del trained[split]
