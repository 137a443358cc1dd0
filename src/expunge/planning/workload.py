"""What a run does, counted before it: batches of its steps, passes that measure, texts that are generated.

Rows are the user's, cut into windows as a run cuts them, and steps draw them as a run does. What only the model can
say is taken at its most: all steps of one attempt, and generations as long as they may get. Left out: a second and
third attempt, which can at most double the steps, and samples that are drawn again because they repeat.

A shape is (B windows, T tokens, N targets).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from expunge.benchmark import Generating
from expunge.data.batches import Stream, by_length
from expunge.data.rows import Row
from expunge.data.tokens import JOINS, Rendering, Window, encode, prompt_ids
from expunge.evaluation.evidence import ROOM
from expunge.influence.refresh import rows_of
from expunge.intake.assembly import MOST_PROBED
from expunge.intake.sets import Checked, benchmark_of
from expunge.loop.descent import CHECKS, LOOKS, PROBE_STEPS
from expunge.loop.proposals import ACCEPTANCE, USUAL_MEASUREMENTS
from expunge.loop.training import Training
from expunge.loop.watch import MOST_WATCHED
from expunge.method import LossPhase, ProposalPhase, State, flattened
from expunge.model import generation
from expunge.problem import Problem, Split, divided
from expunge.runs.distributed import Runtime

MOST_DRAWN = 24  # steps that are drawn to find the mean step
REPLAY_BATCH = 128
JUDGED_BATCH = 32
SEEN = ("forget", "retain", "guard", "unseen", "counterfactual")
HELD = ("unseen", "replay")  # splits for which a method keeps the original's distributions, unless it says `keeps`

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Texts:
    """Generation of one batch: B prompts of T tokens and at most `new` tokens after each."""

    windows: int
    prompt: int
    new: int


@dataclass(slots=True)
class Workload:
    """The work of one run.

    `drawn`: the batches of `sampled` steps, which stand for all `steps`; `checked`: passes with the subspace in
    place; `measured`: passes of the plain model (original, unlearned, retrained, base); `kept`: targets for which the
    original's distribution is kept; `snapshots`: copies of the moved parameters at the worst time. Where a method has
    more than one loss phase, `steps` and `drawn` are those of the longest; `passed` holds the forward and backward
    passes of the others and of proposals, each shape with how often it goes, and `updates` how often they move weights.
    """

    steps: int
    sampled: int
    drawn: list[Shape]
    checked: list[Shape] = field(default_factory=list)
    measured: list[Shape] = field(default_factory=list)
    generated: list[Texts] = field(default_factory=list)
    kept: int = 0
    snapshots: int = 0
    passed: list[tuple[float, Shape]] = field(default_factory=list)
    updates: int = 0

    @property
    def trained(self) -> list[Shape]:
        """Shapes of all passes with a backward, however often they go."""
        return self.drawn + [shape for _, shape in self.passed]


@dataclass(frozen=True, slots=True)
class Rows:
    """The user's rows as windows, by part, how they were rendered, and the samples that the rest is judged by."""

    checked: Checked
    splits: Mapping[str, Split]
    samples: Split
    rendering: Rendering
    tokenizer: Any

    @property
    def judged(self) -> list[Split]:
        """The splits that every model is judged on."""
        return [split for name, split in self.splits.items() if name not in ("unseen", "counterfactual")]

    @property
    def longest(self) -> int:
        """Tokens of the longest window."""
        return max(len(window.ids) for split in (*self.splits.values(), self.samples) for window in split.windows)

    def cut(self, context: int) -> "Rows":
        """The same rows in shorter windows."""
        rendering = replace(self.rendering, context=context)
        sampled = self.samples.windows
        return windows_of(self.checked, rendering, self.tokenizer, len(sampled), len(sampled[0].ids))


def windows_of(checked: Checked, rendering: Rendering, tokenizer: Any, samples: int, sample_tokens: int) -> Rows:
    """All parts as splits, and the judging samples, `samples` texts of `sample_tokens` tokens."""
    splits = {
        name: Split(name, rows, tuple(encode(rows, rendering, tokenizer))) for name, rows in checked.parts.items()
    }
    made = _made("samples", samples, min(sample_tokens, rendering.context))
    return Rows(checked, splits, made, rendering, tokenizer)


def unlearning(method: Any, config: Any, rows: Rows, runtime: Runtime, parameters: int) -> Workload:
    """The work of `unlearn` on a model of so many parameters with a method (an instance of its dataclass)."""
    given = {name: rows.splits[name] for name in SEEN if name in rows.splits}
    whole = Problem(None, rows.tokenizer, runtime, rows.rendering, given, config.seed)
    problem = divided(whole, getattr(method, "retain_parts", {}))
    seen = problem.splits
    phases = flattened(method.phases(problem, State()))
    texts, tokens = getattr(method, "replay_texts", 0), getattr(method, "replay_tokens", 0)
    pool = {**seen} | ({"replay": _made("replay", texts, min(tokens, rows.rendering.context))} if texts else {})
    losses = [phase for phase in phases if isinstance(phase, LossPhase)]
    proposals = [phase for phase in phases if isinstance(phase, ProposalPhase)]
    work = Workload(0, 1, [], snapshots=1)
    used = dict.fromkeys([name for phase in losses for name in phase.draws] + [n for p in proposals for n in p.passes])
    longest = max(losses, key=lambda phase: phase.steps, default=None)
    for phase in losses:
        _add_loss(work, phase, pool, config.seed, phase is longest)
    _add_init(work, method, {name: pool[name] for name in used if name in pool}, seen)
    if proposals and any(phase.probes for phase in losses):
        work.snapshots += 1  # the original, at which the probe begins
    for phase in losses:
        _add_checks(work, phase, seen)
    _add_proposals(work, proposals, pool)
    _add_judging(work, config, rows, generation.batch_size(parameters))
    return work


def _add_loss(work: Workload, phase: LossPhase, pool: Mapping[str, Split], seed: int, longest: bool) -> None:
    """Steps and, where its learning rate is looked for, those of the probe."""
    probing = PROBE_STEPS if phase.probes else 0
    sampled, steps = min(MOST_DRAWN, phase.steps), phase.steps + probing
    drawn = draws({name: pool[name] for name in phase.draws if name in pool}, phase.draws, seed, sampled)
    work.snapshots = max(work.snapshots, 1 if not phase.aims else 3 if probing else 2)
    if longest:
        work.steps, work.sampled, work.drawn = steps, sampled, drawn
    else:
        work.passed += [(steps / sampled, shape) for shape in drawn]
        work.updates += steps
    _add_refreshes(work, phase, pool, seed, steps)


def _add_refreshes(work: Workload, phase: LossPhase, pool: Mapping[str, Split], seed: int, steps: int) -> None:
    """The passes of Sophia's curvature estimates; on the step's own batches they are as many again as those drawn."""
    settings = phase.optimiser
    if settings is None or settings.variant != "sophia":
        return
    refreshes = math.ceil(steps / settings.refresh_every)
    split = rows_of(settings, pool)
    if split is None:
        shapes = draws({name: pool[name] for name in phase.draws if name in pool}, phase.draws, seed, 1)
    else:
        batches = Stream(split.name, split.windows, seed).draw(settings.refresh_rows, settings.refresh_most)
        shapes = [(*batch.ids.shape, int(batch.counted.sum())) for batch in batches]  # type: ignore[misc]
    work.passed += [(refreshes, shape) for shape in shapes]


def _add_proposals(work: Workload, proposals: Sequence[ProposalPhase], pool: Mapping[str, Split]) -> None:
    """Their own passes, the usual number of measurements of a search, looks at the forget rows, and the check after.

    A gradient, the direction and a snapshot live together, as the optimiser's copies do in a step, and beside them
    what the method keeps of the curvature, which is taken for one more copy.
    """
    if not proposals:
        return
    accepted, forget = measuring(pool[ACCEPTANCE].windows), measuring(pool["forget"].windows)
    work.kept += sum(window.targets for window in pool[ACCEPTANCE].windows)
    work.measured += 2 * accepted
    for phase in proposals:
        work.updates += 1
        for name, times in phase.passes.items():
            if name in pool:
                work.passed += [(times, shape) for shape in measuring(pool[name].windows)]
        looks = 2 + (USUAL_MEASUREMENTS if phase.step.needs_distance else 0)
        work.checked += (1 + USUAL_MEASUREMENTS) * accepted + looks * forget + _watched(pool)


def retraining(rows: Sequence[Row], training: Training, rendering: Rendering, tokenizer: Any, seed: int) -> Workload:
    """The work of `retrain` on the rows that are left."""
    windows = tuple(encode(rows, rendering, tokenizer))
    steps = training.epochs * max(1, -(-len(windows) // training.batch_rows))
    sampled = min(MOST_DRAWN, steps)
    split = Split("train", tuple(rows), windows)
    work = Workload(steps, sampled, draws({"train": split}, {"train": training.batch_rows}, seed, sampled))
    work.measured += 2 * measuring(windows)
    return work


def draws(pool: Mapping[str, Split], counts: Mapping[str, int], seed: int, steps: int) -> list[Shape]:
    """Shapes of all batches of the first steps, drawn as the loop draws them."""
    streams = {
        name: Stream(name, pool[name].windows, seed + place) for place, name in enumerate(counts) if name in pool
    }
    return [
        (*batch.ids.shape, int(batch.counted.sum()))  # type: ignore[misc]
        for _ in range(steps)
        for name, stream in streams.items()
        for batch in stream.draw(counts[name])
    ]


def measuring(windows: Sequence[Window], most: int = JUDGED_BATCH) -> list[Shape]:
    """Shapes of one pass over all windows."""
    groups = by_length(windows, range(len(windows)), most)
    return [(len(g), len(windows[g[0]].ids), sum(windows[index].targets for index in g)) for g in groups]


def _made(name: str, texts: int, tokens: int) -> Split:
    """Texts that the model will sample, as long as they may get: how long they will be cannot be known."""
    window = Window(0, (0,) * tokens, (False,) + (True,) * (tokens - 1))
    return Split(name, (), tuple(replace(window, row=place) for place in range(texts)))


def _add_init(work: Workload, method: Any, drawn: Mapping[str, Split], seen: Mapping[str, Split]) -> None:
    """Targets cost a look at the forget rows and at what the targets come from, distributions one at their rows."""
    held = [drawn[name] for name in getattr(method, "keeps", HELD) if name in drawn]
    work.kept = sum(window.targets for split in held for window in split.windows)
    if getattr(method, "needs_targets", False):
        held += [seen["forget"], *[seen[name] for name in ("unseen", "counterfactual") if name in seen][:1]]
    for split in held:
        work.measured += measuring(split.windows)
    if "replay" in drawn:
        windows = drawn["replay"].windows
        longest = Texts(REPLAY_BATCH, 1, max(1, len(windows[0].ids) - 1))
        work.generated += [longest] * math.ceil(len(windows) / REPLAY_BATCH)


def _add_checks(work: Workload, phase: LossPhase, seen: Mapping[str, Split]) -> None:
    """The watched rows are measured before the first step and at each check; a course ends with a check."""
    checks = 1 + math.ceil(phase.steps / max(4, phase.steps // CHECKS))
    if not phase.aims:
        checks = 1 + phase.steps // max(1, phase.steps // LOOKS)
    work.checked += checks * _watched(seen)


def _watched(seen: Mapping[str, Split]) -> list[Shape]:
    """Shapes of one look at the watched rows."""
    watched = [seen[name].windows[: MOST_WATCHED[name]] for name in MOST_WATCHED if name in seen]
    return [shape for windows in watched for shape in measuring(windows)]


def _add_judging(work: Workload, config: Any, rows: Rows, batch: int) -> None:
    models = 2 + bool(config.retrained)
    for split in rows.judged:
        work.measured += models * measuring(split.windows)
        work.generated += models * _answers(split.rows, rows, benchmark_of(config).generating, batch)
    work.measured += models * measuring(rows.samples.windows)
    work.generated.append(Texts(REPLAY_BATCH, 1, len(rows.samples.windows[0].ids) - 1))
    forget = rows.splits["forget"]
    settling = 1 if config.chat_template or config.join != "auto" else len(JOINS)
    probed = [window for window in forget.windows if window.row < MOST_PROBED]
    work.measured += settling * measuring(probed)
    work.measured += (2 + bool(config.base)) * measuring(forget.windows)  # written and read back, and the base


def _answers(chosen_from: Sequence[Row], rows: Rows, how: Generating, batch: int) -> list[Texts]:
    """Batches of greedy generation, as `evaluation.evidence` makes them."""
    if not chosen_from:
        return []
    most = len(chosen_from) if how.rows is None else min(how.rows, len(chosen_from))
    apart = max(1.0, len(chosen_from) / most)
    chosen = [chosen_from[int(place * apart)] for place in range(most)]
    sizes = sorted(_size(row, rows, how) for row in chosen)
    groups = [sizes[begin : begin + batch] for begin in range(0, len(sizes), batch)]
    return [Texts(len(group), max(prompt for _, prompt in group), group[-1][0]) for group in groups]


def _size(row: Row, rows: Rows, how: Generating) -> tuple[int, int]:
    """Most new tokens, and tokens of the prompt."""
    context = rows.rendering.context
    ids, reference = prompt_ids(row, rows.rendering, rows.tokenizer)
    needed = min(len(rows.tokenizer(reference, add_special_tokens=False)["input_ids"]) + ROOM, context // 2)
    prompt = min(len(ids), context - needed)
    return needed if how.tokens is None else min(how.tokens, context - prompt), prompt


def cut(work: Workload, tokens: int) -> Workload:
    """The same work with at most so many tokens at a time, as `Batch.parts` cuts batches."""
    return replace(
        work,
        drawn=_cut(work.drawn, tokens),
        checked=_cut(work.checked, tokens),
        measured=_cut(work.measured, tokens),
        passed=[(times, part) for times, shape in work.passed for part in _cut([shape], tokens)],
    )


def _cut(shapes: Iterable[Shape], most: int) -> list[Shape]:
    """Shapes of the parts; targets are shared out evenly."""
    parts: list[Shape] = []
    for windows, tokens, targets in shapes:
        fitting = max(1, most // tokens)
        for begin in range(0, windows, fitting):
            part = min(fitting, windows - begin)
            parts.append((part, tokens, math.ceil(targets * part / windows)))
    return parts


def largest(shapes: Iterable[Shape]) -> Shape:
    """The shape that bounds all: most windows times tokens, and most targets."""
    found = list(shapes)
    windows, tokens, _ = max(found, key=lambda shape: (shape[0] * shape[1], shape[2]))
    return windows, tokens, min(max(shape[2] for shape in found), windows * (tokens - 1))
