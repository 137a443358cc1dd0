"""Margin Newton: the smallest step, in the metric of what is to be kept, that takes every row to its target.

    step = C^-1 J' (K + mu)^-1 delta,    K = J C^-1 J',    J_i = gradient of -M_i,    M_i = sum w_t m_t / sum w_t

Influence functions ask which small change of the weights would undo some rows, given how much everything else minds.
Three changes make the idea of LIBU (2506.04044) and Fisher Removal (2403.10557) work on a model that has memorised
its rows (ours; docs/decisions.md has the trials):

- *Margins, not losses.* The loss of a memorised token has hardly a gradient, and says nothing of where it goes. The
  margin m = log p - log(1 - p) has one of the same size wherever p stands, and answers steps nearly linearly.
- *Each row its own constraint, solved in the dual*: n unknowns for n rows. A row's *need* c is how far its margins must
  fall for its loss softplus(-m) to be at its target, known by bisection from margins alone (`influence.needs`);
  delta = c sum w^2 / sum w. No row runs ahead while another stays, and none is led beyond its target.
- *A curvature of two factors a layer* (K-FAC) of the rows to keep: a diagonal cannot see that text to keep and text to
  forget come in alike.

*Token weights* w are how much more the original knows a token than the base does, and than the wording of other rows
foretells (`reference.wording`): what any model knows, and the form that rows share, needs no change.
A few iterations, each of `share` of the needs and the last of all of them; a step whose loss did not go where the
margins said is scaled (`optim.step_size.Planned`). After each, *restorations*: steps down the retain KL through the
same curvature, with what would move the rows' margins taken out, as long as that lowers the KL on acceptance rows that
no gradient saw. They go by those of the rows to keep that moved farthest (`influence.farthest`). After the last
iteration there is one, shortened or refused where it would bring a row back by more than a tenth of its way. Where the
rest is not as it was even then, *repairs* follow: restorations and the last step again, in rounds.

A *durable round* (`durable_rounds`) after the iterations puts away what relearning half of the rows brings back of the
others, by constraints taken where they were relearned (`influence.durable`).

Moves the weights of linear layers alone, the output head excepted. An adapter that was given is merged in memory and
whole weights move (`--subspace adapter`: its own matrices, as over a quantised base). It is delivered as an adapter of
higher rank: the change is cut in the metric of the curvature, and a last step within what is left brings the rows to
their targets again (`influence.low_rank`). Of a fresh LoRA only B moves, until a refit: A has no curvature while B is
0. Targets are found as for loss_matching. What is to be kept are retain rows, the target half of the holdout, and,
where there are no retain rows, text sampled from the original. Our numbers follow the request (`influence.amounts`).

Of requests in sequence each is held to the *first* model, where that and the rows removed since are at hand:
restorations lead back to its distributions, and of the rows removed before those that came back farthest stand in the
system, each with the target that it would be given now.

The curvature may be one that `expunge curvature` fitted before (`--curvature`), on this model or on the one that it was
made of by earlier requests.

Departures: the papers take one gradient of the mean loss and a diagonal; duals, needs and restorations are ours.

When to use it: by default, for requests of up to about a tenth of what was fine-tuned.
"""

import math
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import torch

from expunge.config.bounds import AtLeast, Between, Count, Positive
from expunge.config.options import check_values
from expunge.data.passes import MEASURING, Passes, measuring
from expunge.errors import InputError, NumericalError
from expunge.influence import directions, dual, durable, farthest, linearised, low_rank, system
from expunge.influence.linearised import PAIRS_AT
from expunge.influence.needs import needs
from expunge.influence.request import Request
from expunge.method import Method, Needs, Phase, Proposal, Propose, Repeat, State, Transform, TwoFactors
from expunge.model import choice
from expunge.model.choice import AUTO, LinearLayers
from expunge.optim.search import Measured
from expunge.optim.step_size import Fixed, Planned, Valley
from expunge.problem import Problem, Split
from expunge.reference import objective
from expunge.reference.cache import distinct
from expunge.reference.kept import rows_to_keep, sampled

AT_TARGET = 0.02  # of the way, the mean over rows: nearer than that, there is no step to take
AT_REST = 0.002  # nats per token of retain KL: below, a restoration has nothing to do
AS_IT_WAS = 0.02  # the same: below, there is nothing to repair after the last iteration,
REACHED = 0.9  # if the forget rows, their mean, have gone so much of the way to their targets
REPAIRING = 4  # restorations of a repair, half of them before the rows go back to their targets
MOST_BACK = 0.1  # of a forget row's way, that a restoration after which no step comes may bring it back


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginNewton(Method):
    """Options of margin_newton."""

    curvature: str = "kfac"
    """Entry of the curvatures catalogue with two factors a layer (our choice)."""
    curvature_options: Any = field(default_factory=dict)
    """The curvature's own options, such as {labels: data}."""
    damping: Positive = 0.01
    """Relative to each layer's mean: a tenth of its mean for each of two factors (our choice)."""
    absolute_damping: Positive | None = None
    """Damping in the spectrum's own units, in place of the relative one; none: relative."""
    iterations: Count | None = None
    """Steps, the last of which goes all the way; none: 4 to 10, by the size of the request (our choice)."""
    share: Annotated[float | None, Between(0, 1)] = None
    """Of the needs, in all iterations but the last; none: 0.5, for large requests 0.35 (our choice)."""
    restorations: Annotated[int | None, AtLeast(0)] = None
    """After each iteration but the last, after which there is one; none: 1 for small requests, else 2 (our choice)."""
    layers: str = AUTO
    """Linear layers that move: all, mlp, attention, down (the MLPs' last), one of these in a part of the depth (down
    8-23), a regular expression of names, or auto: as many as memory holds the curvature of (our choice)."""
    fit_rows: Count | None = None
    """Most rows that the curvature is fitted on; none: 4 for each forget row, 64 to 384 (our choice)."""
    keep_rows: Count | None = None
    """Rows of a restoration, those that moved farthest of three times as many among them; none: as many as forget rows
    or twice as many, 12 to 128 (our choice)."""
    held_rows: Annotated[int | None, AtLeast(0)] = None
    """Rows to keep that stand in the same system as those to forget, to come back to where they were; none: half as
    many, for small requests none, for large ones 200 (our choice)."""
    earlier_rows: Annotated[int | None, AtLeast(0)] = None
    """Rows of earlier requests (--earlier) that stand in the same system, to stay removed while the rest is led back to
    the first model; 0: none, and the rest is held to the given model; none: twice as many as forget rows, at least 8
    (our choice)."""
    refit_every: Annotated[int | None, AtLeast(0)] = None
    """Iterations after which the curvature is fitted anew, at the weights that there are; 0: never; none: for large
    requests 2 (our choice)."""
    budget: Positive | None = None
    """Most retain KL, in nats per token of acceptance rows, that a step towards the targets may end at: rows then stop
    short of them where that would cost more; none: they go all the way (our choice)."""
    repairs: Annotated[int | None, AtLeast(0)] = None
    """Most rounds after the last iteration, each of two restorations, a step to the targets and two restorations, while
    the retain KL is above 0.02 nats or rows a tenth short of targets; none: 6, for large requests 0 (our choice)."""
    durable_rounds: Annotated[int, AtLeast(0)] = 0
    """Rounds that put away what relearning half of the rows brings back of the others, each followed by an iteration;
    three are nearly as hard to bring back as rows never seen, for twice the price (our choice)."""
    dual_damping: Positive = 0.01
    """Added to K, relative to the mean of its diagonal: rows that want opposite things give way (our choice)."""

    def __post_init__(self) -> None:
        check_values(self)
        choice.check(self.layers)
        if not directions.curvature_of(self.curvature, self.curvature_options).has_factors:
            raise InputError(
                f"curvature {self.curvature}: margin_newton steps through a product of two factors of each layer, and "
                "this is none. Use kfac."
            )

    @property
    def needs(self) -> Needs:
        whitened = directions.whitened_bytes_of(self)
        linear = LinearLayers(which=self.layers, bytes=whitened, by_token=dual.bytes_by_token)
        factors = TwoFactors(
            curvature=self.curvature,
            curvature_options=self.curvature_options,
            damping=self.damping,
            absolute_damping=self.absolute_damping,
            rows=self._rows_to_fit,
        )
        parts, earlier = {"retain": 4, "acceptance": 1}, self.earlier_rows != 0
        return Needs(
            targets=True,
            parts=parts,
            linear=linear,
            factors=factors,
            earlier=earlier,
            tokens=lambda problem: Request(self, problem).tokens,
        )

    def cost(self, problem: Problem) -> Passes:
        asked = Request(self, problem)
        looked = distinct(farthest.splits_of(asked.looked(asked.kept)))
        return Passes(
            trained=measuring(asked.fit(asked.kept).windows, 0 if problem.fitted else 1),
            plain=[*measuring(looked), *system.cost(problem, asked.kept, asked.amounts)],
            kept=Counter({"distributions": sum(window.targets for window in looked)}),
        )

    def init(self, problem: Problem) -> State:
        state = objective.with_targets(problem, needed=True)
        low_rank.begin(problem, state)
        kept = rows_to_keep(problem) or sampled(problem, state)
        asked = Request(self, problem)
        amounts, state.caches["fit rows"] = asked.amounts, asked.fit(kept)
        linearised.fit(problem, state, self, problem.fitted(problem) if problem.fitted else None)
        state.caches["looked"] = farthest.prepared(problem, asked.looked(kept), asked.chosen(kept))
        found = system.at_original(problem, kept, amounts, state.targets)
        state.caches |= {"rows": found.rows, "tokens": found.tokens, "aims": found.aims}
        state.notes["token_weights"] = {"base": problem.base_margins is not None, "mean": found.mean_weight}
        fitted = 0 if problem.fitted else len(state.caches["fit rows"])
        held = {"held": amounts.held} | ({"earlier": amounts.earlier} if problem.first else {})
        state.notes["rows"] = {"fit": fitted, **held, "looked": [len(one.known[0]) for one in state.caches["looked"]]}
        state.notes["amounts"] = asdict(amounts)
        return state

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        steps: list[Propose] = []
        asked = Request(self, problem)
        amounts = asked.amounts
        for iteration in range(amounts.iterations):
            refit = iteration if iteration and amounts.refit_every and iteration % amounts.refit_every == 0 else 0
            if iteration:
                steps += self._restorations(asked, iteration - 1, refit)
            restored = bool(iteration and amounts.restorations)
            last = iteration == amounts.iterations - 1
            steps.append(self._removal(asked, 1.0 if last else amounts.share, restored, refit))
        narrow = self._low_rank(asked) if problem.low_rank is not None else ()
        end = amounts.iterations + asked.rounds
        closing = [replace(one, most_back=MOST_BACK) for one in self._restorations(asked, end - 1)[:1]]
        return (Repeat(tuple(steps), 1), *self._rounds(asked), *closing, *self._repairs(asked, end), *narrow)

    def _repairs(self, asked: Request, place: int) -> list[Repeat]:
        """Rounds as long as the rest is not as it was, or the rows are not at their targets: restorations, the last
        step again, and restorations that must not bring rows back; each looks at rows of its own."""
        steps: list[Propose] = []
        again = replace(self._removal(asked, 1.0, restored=True, refit=0), optional=True)
        for _ in range(asked.amounts.repairs if asked.amounts.restorations else 0):
            first, free, *bound = (self._restoration(asked, place + count, 0, 0) for count in range(REPAIRING))
            steps += [replace(first, until=partial(_whole, self.budget)), free, again]
            steps += [replace(one, most_back=MOST_BACK) for one in bound]
            place += REPAIRING
        return [Repeat(tuple(steps), 1, likely=False)] if steps else []

    def _rounds(self, asked: Request) -> list[Repeat]:
        """Durable rounds, each with an ordinary iteration after it."""
        rounds = []
        for number in range(asked.rounds):
            back = self._restorations(asked, asked.amounts.iterations - 1 + number)
            last = self._removal(asked, 1.0, bool(back), refit=0)
            rounds.append(Repeat((self._durable(asked, number), *back, last), 1))
        return rounds

    def _durable(self, asked: Request, number: int) -> Propose:
        windows = len(asked.problem.splits["forget"].windows)
        times = 2.0 + durable.Relearning().passes(windows) / windows  # pairs here, and of either half elsewhere
        return Propose(
            name="durable round",
            propose=partial(self._outlast, number),
            step=Fixed(step=1.0),
            passes=asked.passes({"forget": times, "held": 1.0}),
            optional=True,
            bytes=lambda shapes: asked.bytes(shapes) + 12 * sum(map(math.prod, shapes.values())),
        )

    def _low_rank(self, asked: Request) -> tuple[Phase, ...]:
        """The change cut to few directions, a last step within them, and what there is to write."""
        cut = Transform(apply=self._narrow, name="narrowing")
        last = replace(self._removal(asked, 1.0, restored=False, refit=0), name="settling")
        return cut, last, Transform(apply=low_rank.product, name="product")

    def _narrow(self, problem: Problem, state: State) -> None:
        with torch.enable_grad():  # a run that goes on may have to fit it again
            linearised.fitted(problem, state, self, 0)
        linearised.forget_pairs(state)
        low_rank.narrow(problem, state, state.caches["whitening"])

    def _removal(self, asked: Request, share: float, restored: bool, refit: int) -> Propose:
        times = MEASURING if restored else 1.0  # pairs were taken before a restoration, and the curvature fitted
        return Propose(
            name="removal",
            propose=partial(self._remove, share, refit),
            step=Planned(budget=self.budget),
            passes=asked.passes({"forget": times, "held": times, "fit": float(bool(refit) and not restored)}),
            bytes=asked.bytes,
            products=partial(asked.products, not restored, False),
        )

    def _restorations(self, asked: Request, place: int, refit: int = 0) -> list[Propose]:
        """Those after the 0-based iteration `place`."""
        return [self._restoration(asked, place, number, refit) for number in range(asked.amounts.restorations)]

    def _restoration(self, asked: Request, place: int, number: int, refit: int) -> Propose:
        first = not number
        times = {"forget": float(first), "held": float(first), "keep": 1.0, "fit": float(bool(refit) and first)}
        times["looked"] = MEASURING * first
        return Propose(
            name="restoration",
            propose=partial(self._restore, place, number, refit),
            step=Valley(),
            passes=asked.passes(times),
            optional=True,
            unless=_at_rest,
            bytes=asked.bytes,
            products=partial(asked.products, first, True),
        )

    def _rows_to_fit(self, problem: Problem) -> Split:
        kept = rows_to_keep(problem)
        if kept is None:
            raise InputError("too few rows to keep: some measure steps, none is left to fit on. Give more --retain.")
        return Request(self, problem).fit(kept)

    def _remove(self, share: float, refit: int, problem: Problem, state: State) -> Proposal:
        """Every row by a share of its need, and every held row back to where it was."""
        fresh = linearised.fitted(problem, state, self, refit)
        kept = PAIRS_AT in state.carried  # that a restoration has taken
        pairs, tokens = linearised.pairs_at_hand(problem, state)
        aims, count = state.caches["aims"], len(problem.splits["forget"].rows)
        way = aims - state.caches["tokens"].losses()
        apart = (aims - tokens.losses())[:count]
        least = AT_TARGET * max(float(way[:count].mean()), 0.1)
        if float(apart.abs().mean()) <= least and float(apart.abs().max()) <= 10 * least:
            raise NumericalError("every forget row is at its target")
        wanted = needs(tokens, aims)
        wanted[:count] *= share
        found = dual.solved(pairs.gram, tokens.weighted(wanted), self.dual_damping)
        planned = tokens.losses(wanted)[:count].mean()
        figures = {
            "share": share,
            "needs": {"mean": float(wanted[:count].mean()), "most": float(wanted[:count].max())},
            "planned": float(planned),
            "aim": float(aims[:count].mean()),
            "dual_damping": found.damping,
            "missed": found.missed,
        }
        direction, notes = pairs.combined(found.weights), state.caches["fit"].figures() | figures
        times = MEASURING if kept else 1.0
        passes = Request(self, problem).passes({"forget": times, "held": times, "fit": float(fresh)})
        return Proposal(direction=direction, forget_aim=float(planned), notes=notes, passes=passes)

    def _outlast(self, number: int, problem: Problem, state: State) -> Proposal:
        """Every row to its target here, and part of the way where the other half of the rows was relearned."""
        linearised.fitted(problem, state, self, 0)
        pairs, tokens = linearised.pairs_here(problem, state)
        aims, whitening = state.caches["aims"], state.caches["whitening"]
        joint = durable.constraints(problem, pairs, tokens, aims, whitening, number, durable.Relearning())
        found = dual.solved(joint.pairs.gram, joint.deltas, self.dual_damping)
        figures = {
            "others_relearned": joint.came_back,
            "aim": float(aims[: len(problem.splits["forget"].rows)].mean()),
            "dual_damping": found.damping,
            "missed": found.missed,
        }
        return Proposal(direction=joint.pairs.combined(found.weights), notes=state.caches["fit"].figures() | figures)

    def _restore(self, place: int, number: int, refit: int, problem: Problem, state: State) -> Proposal:
        """Down the retain KL, where that leaves the rows' margins as they are."""
        asked, fresh = Request(self, problem), {"fit": linearised.fitted(problem, state, self, refit)}
        fresh |= dict.fromkeys(("forget", "held"), PAIRS_AT not in state.carried)
        pairs, _ = linearised.pairs_to_share(problem, state)
        found = farthest.choose(problem, state, place, number)
        gradient = found.gradient(problem)
        if not all(torch.isfinite(part).all() for part in gradient.values()):
            raise NumericalError("the gradient of the retain KL is not finite")
        back = dual.restoration(pairs, gradient, self.dual_damping)
        notes = state.caches["fit"].figures() | {"left_of_it": back.left, "share_of_kl": found.share}
        passes = asked.passes({"keep": 1.0, "looked": MEASURING * found.fresh} | fresh)
        return Proposal(direction=back.direction, retain_slope=back.slope, notes=notes, passes=passes)


def _at_rest(measured: Measured) -> str | None:
    """Why there is nothing to restore."""
    kl = measured.retain_kl
    return None if kl is None or kl > AT_REST else f"the retain KL of {kl:.2g} is as good as none"


def _whole(budget: float | None, measured: Measured) -> str | None:
    """Why there is nothing to repair; rows that a budget holds stay where it does."""
    kl, short = measured.retain_kl, budget is None and measured.way is not None and measured.way < REACHED
    return None if kl is None or kl > AS_IT_WAS or short else f"with a retain KL of {kl:.2g} there is nothing to repair"
