"""Runs the attacks of a level on a loaded model, on a sample of its rows, and says what that costs.

The model is as it was written and read back; after each attack it is so again, bit for bit.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count

import numpy as np
from peft import PeftModel
from transformers import PreTrainedModel

from expunge import registry
from expunge.attack import JUDGED, Attack, Level, Planned, Reading, Subject, Trained
from expunge.data.passes import Passes, total
from expunge.data.rows import Row
from expunge.data.splits import spread
from expunge.data.tokens import Prompt
from expunge.errors import NumericalError
from expunge.evaluation import evidence
from expunge.evaluation.evidence import OWN
from expunge.gradients.cotangents import mixed
from expunge.loop import relearning
from expunge.model import generation
from expunge.model.select import select
from expunge.problem import Problem, Split
from expunge.reference.cache import row_losses
from expunge.runs import launcher
from expunge.scoring.evidence import Evidence, SetEvidence
from expunge.scoring.intervals import Floats
from expunge.scoring.matching import given_back
from expunge.scoring.seen import Seen

LEVELS: tuple[Level, ...] = ("quick", "full", "audit")
MOST_ROWS = 64  # of a set
BESIDE, FEWEST_BESIDE = 2, 16  # never-seen rows for each forget row of a kind, and of a kind
Readings = dict[str, list[Reading]]  # by attack


def attacks(level: Level, weights: bool = True) -> dict[str, Attack]:
    """The attacks that a level includes, by name; without `weights` those that only ask."""
    every = {name: registry.load("attacks", name)() for name in registry.names("attacks")}
    reached = LEVELS.index(level)
    every = {name: attack for name, attack in every.items() if weights or not attack.needs_weights}
    return {name: attack for name, attack in every.items() if LEVELS.index(attack.level) <= reached}


def sampled(judged: Mapping[str, Split]) -> dict[str, Split]:
    """The rows that attacks look at: a spread of each set, without other answers of a benchmark."""
    found = {}
    for name, own in places({name: [row.kind for row in split.rows] for name, split in judged.items()}).items():
        split = judged[name].of(own, name)
        rows = tuple(replace(row, paraphrased=(), perturbed=()) for row in split.rows)
        found[name] = replace(split, rows=rows)
    return found


def places(kinds: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    """Which rows of each set are looked at, by the kinds of its rows; sets of which none is are left out.

    Of never-seen rows `BESIDE` for each forget row of the kind that is looked at, and at least `FEWEST_BESIDE`: the few
    forget rows decide how wide an interval is, and the price of an attack follows the request.
    """
    found = {name: spread(len(kinds[name]), MOST_ROWS) for name in ("forget", "retain") if name in kinds}
    forget = Counter(kinds["forget"][place] for place in found.get("forget", []))
    judging: list[int] = []
    for kind, many in forget.items():
        own = [place for place, other in enumerate(kinds.get("judging", ())) if other == kind]
        judging += [own[at] for at in spread(len(own), min(MOST_ROWS, max(FEWEST_BESIDE, BESIDE * many)))]
    return {name: own for name, own in (found | {"judging": sorted(judging)}).items() if own}


def as_written(recorded: Evidence) -> dict[str, Seen]:
    """What evidence says of the same rows, without an attack."""
    found, sets = {}, {name: _seen(rows) for name, rows in recorded.sets.items() if name in JUDGED}
    for name, own in places({name: seen.kinds for name, seen in sets.items()}).items():
        seen = sets[name]
        found[name] = Seen(tuple(seen.kinds[place] for place in own), seen.loss[own], seen.known[own])
    return found


def run(
    problem: Problem,
    judged: Mapping[str, Split],
    level: Level,
    original: Callable[[], Problem],
    weights: bool = True,
    alone: bool = True,
) -> Readings:
    """What the attacks of a level show of a problem's model; without `weights`, those that only ask. `original`: the
    problem around the original; `alone`: see `looked_at`."""
    return run_some(attacks(level, weights), problem, judged, original, alone)


def run_beside(problem: Problem, judged: Mapping[str, Split], level: Level) -> Readings:
    """The same of the original, of the attacks that it is compared under."""
    return run_some(beside(attacks(level)), problem, judged, lambda: problem, alone=False)


def beside(chosen: Mapping[str, Attack]) -> dict[str, Attack]:
    """Those under which the original is looked at too."""
    return {name: attack for name, attack in chosen.items() if attack.beside_original}


def looked_at(judged: Mapping[str, Split], attack: Attack, alone: bool) -> dict[str, Split]:
    """The sets that an attack is given. Never-seen rows where the model stands `alone`, without a retrained one to be
    compared with, and where the attack itself needs them; else they would be looked at for nothing."""
    return {name: split for name, split in judged.items() if name != "judging" or alone or attack.twin_only}


def run_some(
    chosen: Mapping[str, Attack],
    problem: Problem,
    judged: Mapping[str, Split],
    original: Callable[[], Problem],
    alone: bool = True,
) -> Readings:
    """The same of some attacks."""
    problem.model.eval()
    subject = Subject(
        problem,
        sampled(judged),
        look,
        partial(_losses, problem),
        partial(evidence.prompts_of, problem),
        partial(evidence.continued, problem, clean_up=False),
        partial(_drawn, problem),
        partial(_trained, problem),
        original,
    )
    return {name: _readings(attack, subject, alone) for name, attack in chosen.items()} if subject.judged else {}


def _readings(attack: Attack, subject: Subject, alone: bool) -> list[Reading]:
    """Nothing of a model that no longer computes numbers: the verdict on it as it is says so."""
    try:
        return list(attack.run(replace(subject, splits=looked_at(subject.splits, attack, alone))))
    except NumericalError:
        return []


def cost(problem: Problem, judged: Mapping[str, Split], level: Level, batch: int, twin: bool) -> Passes:
    """What the attacks of a level take of the unlearned model, of a retrained one and of the original."""
    given = planned(problem, judged, batch)

    def of(attack: Attack, alone: bool) -> Passes:
        return attack.cost(replace(given, splits=looked_at(given.splits, attack, alone)))

    every = attacks(level).values()
    return total(of(one, not twin) + of(one, False).times(twin + one.beside_original) for one in every)


def planned(problem: Problem, judged: Mapping[str, Split], batch: int) -> Planned:
    """What an attack gets to say its cost, of a problem without a model: `batch` texts are generated at a time."""

    def looking(splits: Mapping[str, Split]) -> Passes:
        return evidence.cost(problem, splits, (), replace(OWN, rows=None), batch)

    return Planned(problem, sampled(judged), looking, relearning.cost)


def look(problem: Problem, splits: Mapping[str, Split]) -> dict[str, Seen]:
    """Loss and greedy answer of all rows, as evidence has them."""
    return {name: _seen(rows) for name, rows in evidence.record(problem, splits).sets.items()}


def _seen(rows: SetEvidence) -> Seen:
    return Seen(rows.kinds, rows.loss, given_back(rows))


def _losses(problem: Problem, split: Split) -> Floats:
    return np.asarray(row_losses(problem, problem.model, split).double().numpy())


def _drawn(
    problem: Problem, rows: Sequence[Row], prompts: Mapping[int, Prompt], seed: int, top_p: float
) -> dict[int, str]:
    """Each batch has a seed of its own: a prompt that is sampled in several must not get the same twice."""
    batches = count(launcher.rank(), launcher.processes())

    def new_ids(
        model: PreTrainedModel | PeftModel, ids: Sequence[list[int]], room: Sequence[int], end: int | None
    ) -> list[list[int]]:
        return generation.drawn(model, ids, room, end, mixed(seed, next(batches)), top_p)

    return evidence.continued(problem, rows, prompts, clean_up=False, new_ids=new_ids)


def _trained(problem: Problem, split: Split, steps: Sequence[int], seed: int) -> Iterator[Trained]:
    """Relearning in place: whole weights where they and their optimiser fit in memory, an adapter's own, or a LoRA."""
    frozen = [tensor for tensor in problem.model.parameters() if not tensor.requires_grad]
    subspace = select(problem.model, "auto", problem.runtime.device)
    moving = replace(problem, model=subspace.model, adapter=subspace.adapter, movable=subspace.movable)
    before = moving.snapshot()
    try:
        yield from relearning.relearn(moving, split, steps, seed)
    finally:
        moving.restore(before)
        if subspace.adapter:
            subspace.model.unload()
        for tensor in frozen:
            tensor.requires_grad_(False)
