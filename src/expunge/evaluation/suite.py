"""Runs every metric of the catalogue on every set it is defined on."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from expunge import registry
from expunge.scoring.evidence import Evidence


def metrics() -> dict[str, dict[str, Any]]:
    """What each metric says of itself, by name, for the record: pages show scores by it."""
    found = {name: registry.load("metrics", name) for name in registry.names("metrics")}
    return {
        name: {
            "title": one.title,
            "direction": one.direction,
            "high": one.high,
            "card": {"computes": registry.summary("metrics", name), **asdict(one.card)},
        }
        for name, one in found.items()
    }


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
