"""The block of a record that holds a benchmark's official scores: per model, with flags, and missing ones by reason."""

from collections.abc import Mapping
from typing import Any

from expunge import registry
from expunge.benchmark import Circumstances, Missing, Scored
from expunge.scoring.evidence import Evidence

NOT_ASKED = Missing("not measured (--mmlu zero-shot or --mmlu five-shot)")


def block(
    name: str, evidence: Mapping[str, Evidence], holdout: bool, ended: bool, mmlu: Mapping[str, Scored]
) -> dict[str, Any] | None:
    """Scores of each model of the evidence; None where the benchmark has no official score."""
    benchmark = registry.load("benchmarks", name)()
    found = {
        model: benchmark.official(
            recorded, Circumstances(holdout=holdout, ended=ended, mmlu=mmlu.get(model, NOT_ASKED))
        )
        for model, recorded in evidence.items()
    }
    found = {model: official for model, official in found.items() if official is not None}
    if not found:
        return None
    retrained = [found["retrained"]] if "retrained" in found else []
    flags = benchmark.flags(found["unlearned"], found.get("original"), retrained) if "unlearned" in found else []
    return {
        "name": name,
        "title": benchmark.title,
        "models": {model: official.plain() for model, official in found.items()},
        "flags": flags,
    }
