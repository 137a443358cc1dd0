"""What a run records of its models: evidence of each, kept for an interrupted run; and whether the rows are there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from expunge.benchmark import Missing, Scored
from expunge.config import commands
from expunge.errors import InputError
from expunge.evaluation import divergence, evidence, mmlu, verdict
from expunge.intake.assembly import Assembled, load_other
from expunge.intake.sets import benchmark_of
from expunge.problem import Problem, Split
from expunge.runs import unfinished
from expunge.runs.environment import Clock
from expunge.scoring.evidence import Candidates, Evidence, SetEvidence
from expunge.scoring.intervals import Score

KEPT: tuple[type[Any], ...] = (
    Evidence,
    SetEvidence,
    Candidates,
    Score,
    Missing,
)  # dataclasses in the checkpoints of a run
Say = Callable[[str], None]


@dataclass(slots=True)
class Models:
    """Evidence by model, and the clock of the run."""

    config: commands.Inputs
    run: unfinished.Run
    clock: Clock = field(default_factory=Clock)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    kept: dict[str, divergence.Kept] | None = None
    mmlu: dict[str, Scored] = field(default_factory=dict)

    def record(self, name: str, load_problem: Callable[[], Problem], judged: Mapping[str, Split]) -> None:
        """Evidence of one model, or what an interrupted run kept of it. The original, which is loaded, comes first."""
        if self.kept is None:
            with self.clock.stage("evaluate original"):
                self.kept = divergence.keep(load_problem(), judged)
        if found := self.run.checkpoints.load(name):
            self.evidence[name], self.mmlu = found["evidence"], found["mmlu"]
            return
        problem = load_problem()
        with self.clock.stage(f"evaluate {name}"):
            generating = benchmark_of(self.config).generating
            self.evidence[name] = evidence.record(
                problem, judged, ("samples",), generating, self.kept, name == "original"
            )
        if self.config.mmlu != "no":
            with self.clock.stage(f"MMLU {name}"):
                self.mmlu[name] = mmlu.measure(problem, self.config.mmlu)
        self.run.checkpoints.save(name, {"evidence": self.evidence[name], "mmlu": self.mmlu})

    def record_other(self, name: str, path: str, assembled: Assembled) -> None:
        """The same of a model on disk."""
        self.record(name, lambda: load_other(self.config, path, assembled, torch.float32), assembled.judged)


def audit(original: Evidence, config: commands.Unlearn, say: Say) -> dict[str, Any]:
    """Are the rows in the model at all? Raises `InputError` where they are not, unless forced."""
    rows = verdict.judge_rows(original, original, None)
    found, reasons = verdict.judge_forget_set(rows)
    inside = sum(row.verdict in ("not forgotten", "partly") for row in rows)
    say(f"audit: {inside} of {len(rows)} forget rows are in the original")
    if found in ("forgotten", "over-forgotten") and not config.force:
        raise InputError(
            f"{config.forget}: the original shows no more of these {len(rows)} rows than of rows it never saw "
            f"({reasons[0]}), so there is nothing to remove. Check --model and --join, or pass --force."
        )
    return {"in_model": inside, "rows": len(rows), "reasons": reasons}
