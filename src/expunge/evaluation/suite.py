"""Runs every metric of the catalogue on every set it is defined on."""

from collections.abc import Mapping
from dataclasses import asdict

from expunge import registry
from expunge.reporting.finding import Card, Metric, Score
from expunge.scoring.evidence import Evidence


def metrics() -> dict[str, Metric]:
    """What each metric says of itself, by name, for the record: pages show scores by it."""
    found = {name: registry.load("metrics", name) for name in registry.names("metrics")}
    return {
        name: Metric(one.title, one.direction, one.high, Card(registry.summary("metrics", name), **asdict(one.card)))
        for name, one in found.items()
    }


def scores(evidence: Mapping[str, Evidence]) -> tuple[Score, ...]:
    """One entry per metric, set and model (original, unlearned, retrained), found by discovery, for the record."""
    found: list[Score] = []
    twin = evidence.get("retrained")
    beside = {name: one.beside(twin) if twin and one is not twin else one for name, one in evidence.items()}
    for metric_name in registry.names("metrics"):
        metric = registry.load("metrics", metric_name)()
        for model, recorded in beside.items():
            for name in metric.sets:
                score = metric(recorded, name) if name in recorded.sets else None
                if score is not None:
                    found.append(Score(metric_name, name, model, score.value, score.low, score.high, score.count))
    return tuple(found)
