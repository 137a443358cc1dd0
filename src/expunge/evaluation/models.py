"""What a run records of its models: evidence of each, kept for an interrupted run and, in numbers, for later ones; and
whether the rows are there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from expunge.attack import Point, Reading
from expunge.benchmark import Missing, Scored
from expunge.config import commands
from expunge.errors import InputError
from expunge.evaluation import asking, attacked, divergence, evidence, mmlu, verdict
from expunge.evaluation.attacked import Readings
from expunge.evaluation.kept_evidence import Shelf
from expunge.intake.assembly import Assembled, load_other
from expunge.intake.sets import benchmark_of
from expunge.model.served import Served
from expunge.problem import Problem
from expunge.reporting.record import Answered, Audit, Beside
from expunge.runs import unfinished
from expunge.runs.environment import Clock
from expunge.scoring.evidence import Candidates, Evidence, OtherAnswers, SetEvidence, Tokens
from expunge.scoring.intervals import Score
from expunge.scoring.seen import Seen

KEPT: tuple[type[Any], ...] = (
    Evidence,
    SetEvidence,
    Candidates,
    OtherAnswers,
    Tokens,
    Score,
    Missing,
    Reading,
    Point,
    Seen,
)  # dataclasses in the checkpoints of a run
Say = Callable[[str], None]


SILENT = ("samples",)  # not generated from
ROLES = {"original": "model", "retrained": "retrained", "unlearned": "unlearned"}  # of models, as hashes name them


@dataclass(slots=True)
class Models:
    """Evidence by model, as written and under attack, and the clock of the run. `hashes`: of the models by role (see
    `records.hashes`). `weights`: of the unlearned model; without them, attacks on weights are left out of all."""

    config: commands.Unlearn | commands.Evaluate
    run: unfinished.Run
    hashes: Mapping[str, str] = field(default_factory=dict)
    weights: bool = True
    clock: Clock = field(default_factory=Clock)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    kept: dict[str, divergence.Kept] | None = None
    mmlu: dict[str, Scored] = field(default_factory=dict)
    attacked: dict[str, Readings] = field(default_factory=dict)

    def record_original(self, assembled: Assembled) -> None:
        """Evidence of the original, which is loaded; it comes first, and its distributions are kept for the others."""
        with self.clock.stage("evaluate original"):
            self.kept = divergence.keep(assembled.problem, assembled.judged)
        self._record("original", lambda: assembled.problem, assembled, assembled.dtype)

    def record_other(self, name: str, path: str, assembled: Assembled) -> None:
        """Of a model on disk, which is loaded where it has to be."""
        self._record(name, lambda: load_other(self.config, path, assembled, torch.float32), assembled, torch.float32)

    def record_written(self, problem: Problem, assembled: Assembled) -> None:
        """Of the unlearned model, as it was written and read back."""
        self._record("unlearned", lambda: problem, assembled, problem.model.dtype)

    def record_served(self, server: Served, assembled: Assembled, say: Say) -> tuple[Answered, list[str]]:
        """Of the unlearned model, as a server answers for it; returns what the record says of that, and the
        limits that it sets."""
        asked, level = asking.Asking.of(server, assembled.problem, self.run.checkpoints), self.config.evidence
        if not self._kept("unlearned"):
            generating = benchmark_of(self.config).generating
            with self.clock.stage("evaluate unlearned"):
                self.evidence["unlearned"] = asked.record(assembled.judged, SILENT, generating)
            with self.clock.stage("attack unlearned"):
                alone = not self.config.retrained
                self.attacked["unlearned"] = asked.attack(assembled.judged, level, alone) if level != "quick" else {}
            self._keep("unlearned")
        besides = self._beside(assembled, say)
        return asked.answered(besides), asked.limits(besides)

    def _beside(self, assembled: Assembled, say: Say) -> Beside | None:
        """How far what is served is from the folder that was delivered, where one was given: of rows to forget, by
        which another model would be known, and of rows to keep."""
        path = self.config.unlearned if isinstance(self.config, commands.Evaluate) else None
        if not path:
            return None
        splits = {name: split for name, split in assembled.judged.items() if name in ("forget", "retain")}
        with self.clock.stage("the delivered folder"):
            problem = load_other(self.config, path, assembled, torch.float32)
            delivered = evidence.record(problem, splits, (), benchmark_of(self.config).generating)
        found = asking.beside(delivered, self.evidence["unlearned"])
        say(f"served and delivered {'agree' if found.alike else 'differ'}: {asking.told(found)}")
        return found

    def _record(self, name: str, load: Callable[[], Problem], assembled: Assembled, dtype: torch.dtype) -> None:
        """Evidence of one model, or what an interrupted run or an earlier one kept of it."""
        if self._kept(name):
            return
        load = cache(load)
        with self.clock.stage(f"evaluate {name}"):
            self.evidence[name] = self._measured(name, load, assembled, dtype)
        if self.config.mmlu != "no":
            with self.clock.stage(f"MMLU {name}"):
                self.mmlu[name] = mmlu.measure(load(), self.config.mmlu)
        self.attacked[name] = self._attacked(name, load, assembled, dtype)
        self._keep(name)

    def _kept(self, name: str) -> bool:
        """Whether an interrupted run kept what there is to know of a model, which is here then."""
        if found := self.run.checkpoints.load(name):
            self.evidence[name], self.mmlu, self.attacked[name] = found["evidence"], found["mmlu"], found["attacked"]
        return bool(found)

    def _keep(self, name: str) -> None:
        kept = {"evidence": self.evidence[name], "mmlu": self.mmlu, "attacked": self.attacked[name]}
        self.run.checkpoints.save(name, kept)

    def _attacked(self, name: str, load: Callable[[], Problem], assembled: Assembled, dtype: torch.dtype) -> Readings:
        """What attacks show of one model, where the level of evidence has any: those that earlier runs made, and the
        others now."""
        if self.config.evidence == "quick":
            return {}
        chosen, judged = attacked.attacks(self.config.evidence, self.weights), assembled.judged
        chosen = attacked.beside(chosen) if name == "original" else chosen
        shelf, path = self._shelf(name, assembled, dtype), str(self.config.model)
        alone = name == "unlearned" and not self.config.retrained
        sets = {one: attacked.looked_at(judged, attack, alone) for one, attack in chosen.items()}
        files = shelf.names_of_attacks(sets, judged) if shelf else {}
        known = {one: found for one, file in files.items() if shelf and (found := shelf.readings(file)) is not None}
        rest = {one: attack for one, attack in chosen.items() if one not in known}
        with self.clock.stage(f"attack {name}"):
            original = cache(lambda: load_other(self.config, path, assembled, torch.float32))
            other = load if name == "original" else original
            made = attacked.run_some(rest, load(), judged, other, alone) if rest else {}
        for one, readings in made.items():
            if shelf:
                shelf.save_readings(files[one], readings)
        return known | made

    def _measured(self, name: str, load: Callable[[], Problem], assembled: Assembled, dtype: torch.dtype) -> Evidence:
        """Sets that were measured before, and the others now."""
        assert self.kept is not None
        judged, generating = assembled.judged, benchmark_of(self.config).generating
        shelf = self._shelf(name, assembled, dtype)
        shown = {"forget"} if self.config.show_rows else set[str]()  # whose text stands on the pages
        names = (
            {one: shelf.name(split, one in SILENT) for one, split in judged.items() if one not in shown}
            if shelf
            else {}
        )
        known = {one: own for one, file in names.items() if shelf and (own := shelf.load(file))}
        rest = {one: split for one, split in judged.items() if one not in known}
        kept = {one: own for one, own in self.kept.items() if one in rest}
        made = dict(evidence.record(load(), rest, SILENT, generating, kept, name == "original").sets) if rest else {}
        for one in names.keys() & made.keys():
            assert shelf is not None
            numbers = shelf.save(names[one], made[one])
            made[one] = numbers if known else made[one]  # texts of all sets must be comparable: all hashed, or none
        if known:  # among the times, which may differ from run to run, as nothing else of a record does
            self.clock.seconds[f"{name}: {len(known)} of {len(judged)} sets measured by earlier runs"] = 0.0
        return Evidence({one: known[one] if one in known else made[one] for one in judged})

    def _shelf(self, name: str, assembled: Assembled, dtype: torch.dtype) -> Shelf | None:
        """Where evidence of this model is kept; None for names of the hub, and where a benchmark looks at text."""
        models = [self.hashes.get(f"{role}{of}", "") for role in (ROLES[name], "model") for of in ("", "_base")]
        generating, runtime = benchmark_of(self.config).generating, assembled.problem.runtime
        if not (generating.as_numbers and models[0] and models[2]):
            return None
        circumstances = [*models, str(dtype), str(runtime.device), runtime.precision]
        return Shelf.opened(self.config.benchmark, generating, circumstances)


def audit(original: Evidence, config: commands.Unlearn, calibrated: bool, say: Say) -> Audit:
    """Are the rows in the model at all? Raises `InputError` where they are not, unless forced.

    `calibrated`: they are not compared with changed versions of themselves, which any model may find harder.
    """
    rows = verdict.judge_rows(original, original, None)
    found, reasons = verdict.judge_forget_set(rows)
    inside = sum(row.verdict in ("not forgotten", "partly") for row in rows)
    if found == "failed":
        raise InputError(f"{config.model}: {reasons[0]}. Are the weights whole, and is the dtype one that holds them?")
    unsure = "" if calibrated else " (not calibrated: compared with changed versions of themselves; give --holdout)"
    say(f"audit: {inside} of {len(rows)} forget rows are in the original{unsure}")
    if found in ("forgotten", "over-forgotten") and not config.force:
        raise InputError(
            f"{config.forget}: the original shows no more of these {len(rows)} rows than of rows it never saw "
            f"({reasons[0]}), so there is nothing to remove. Check --model and --join, or pass --force."
        )
    if 2 * inside < len(rows):
        say(
            "warning: most of the forget rows do not show in the original as they are asked here; what it learned in "
            "another form is neither removed nor judged. Look at them with plan --show-rows"
        )
    return Audit(inside, len(rows), tuple(reasons))
