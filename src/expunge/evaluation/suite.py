"""Runs every metric of the catalogue on every set it is defined on."""

from collections.abc import Mapping
from typing import Any

from expunge import registry
from expunge.scoring.evidence import Evidence


def scores(evidence: Mapping[str, Evidence]) -> list[dict[str, Any]]:
    """One entry per metric, set and model (original, unlearned, retrained), found by discovery, for the record."""
    found: list[dict[str, Any]] = []
    for metric_name in registry.names("metrics"):
        metric = registry.load("metrics", metric_name)()
        for model, recorded in evidence.items():
            for name in metric.sets:
                score = metric(recorded, name) if name in recorded.sets else None
                if score is not None:
                    interval = {"value": score.value, "low": score.low, "high": score.high, "count": score.count}
                    found.append({"metric": metric_name, "set": name, "model": model} | interval)
    return found
