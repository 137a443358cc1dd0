"""What each score on a page means: its metric's card, as the record holds it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from expunge.reporting.words import span

Record = Mapping[str, Any]
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
    """Of the metrics that have a score, in the order of their names; a record without cards gives none."""
    found = anchors(record)
    return tuple(_card(found[name], record["metrics"][name]) for name in found)


def anchors(record: Record) -> dict[str, str]:
    """By metric. Numbers: a name of the record may be anything."""
    scored = {score["metric"] for score in record["scores"]}
    named = [name for name, words in record["metrics"].items() if name in scored and words.get("card")]
    return {name: f"score-{place}" for place, name in enumerate(named, 1)}


def _card(anchor: str, words: Mapping[str, Any]) -> MetricCard:
    card = words["card"]
    unit, _, direction = words["direction"].partition("; ")
    lines = (card["computes"], unit, direction, span(card["least"], card["most"]))
    return MetricCard(anchor, words["title"], (*lines, card["original"], card["retrained"], card["fooled"]))
