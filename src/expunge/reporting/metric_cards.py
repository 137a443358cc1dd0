"""What each score on a page means: its metric's card, as the record holds it."""

from dataclasses import dataclass

from expunge.reporting.finding import Metric
from expunge.reporting.record import Record
from expunge.reporting.words import span

HEADERS = ("Score", "Computes", "Unit", "Direction", "Range", "The original gets", "A retrained model gets",
           "How it can be fooled")  # fmt: skip
TITLE = "What the scores mean, and how each can be fooled"


@dataclass(frozen=True, slots=True)
class MetricCard:
    """`anchor`: what a link to it names; `lines` follow `HEADERS`, the first left out."""

    anchor: str
    title: str
    lines: tuple[str, ...]


def cards(record: Record) -> tuple[MetricCard, ...]:
    """Of the metrics that have a score, in the order of their names."""
    found = anchors(record)
    return tuple(_card(found[name], record.metrics[name]) for name in found)


def anchors(record: Record) -> dict[str, str]:
    """By metric. Numbers: a name of the record may be anything."""
    scored = {score.metric for score in record.scores}
    named = [name for name in record.metrics if name in scored]
    return {name: f"score-{place}" for place, name in enumerate(named, 1)}


def _card(anchor: str, metric: Metric) -> MetricCard:
    card = metric.card
    unit, _, direction = metric.direction.partition("; ")
    lines = (card.computes, unit, direction, span(card.least, card.most))
    return MetricCard(anchor, metric.title, (*lines, card.original, card.retrained, card.fooled))
