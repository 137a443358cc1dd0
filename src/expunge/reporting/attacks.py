"""What attacks showed, for pages: a table of the settings, and which attacks were not tested. Pure functions.

A record of before attacks were known has no such block, and gets no section.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from expunge.reporting.words import NOT_MEASURED, number

Record = Mapping[str, Any]
TITLE = "Under attack"
HEADERS = ("Attack", "Verdict", "Given back", "Loss", "Compared with")
LEAD = (
    "The same rows, after something that somebody may do to the model or its prompts. A verdict compares with the "
    "retrained model under the same attack, or with rows that the model never saw."
)
OTHERS = {"retrained": "retrained model", "judging": "never-seen rows", None: "nothing"}


@dataclass(frozen=True, slots=True)
class Section:
    """Lines under the headers, and the titles of what was not tested in a sentence ("": nothing)."""

    lines: tuple[tuple[str, ...], ...]
    not_tested: str
    title: str = TITLE
    lead: str = LEAD
    headers: tuple[str, ...] = HEADERS


def section(record: Record) -> Section | None:
    """None where there is nothing to say of attacks."""
    if "attacks" not in record:
        return None
    found = record["attacks"]
    lines = [_line(result, setting) for result in found["results"] for setting in result["settings"]]
    missing = ", ".join(found["not_tested"].values())
    return Section(tuple(lines), f"Not tested: {missing}." if missing else "")


def _line(result: Record, setting: Record) -> tuple[str, ...]:
    name = f"{result['title']}: {setting['setting']}"
    values = [_both(setting, figure) for figure in ("known", "loss")]
    return (name, setting["verdict"], *values, OTHERS[setting["compared_with"]])


def _both(setting: Record, figure: str) -> str:
    """Of the forget rows under the unlearned model, and of what it is compared with."""
    forget = setting["values"]["forget"]
    mine = forget["unlearned"][figure]
    if mine is None:
        return NOT_MEASURED
    twin = setting["compared_with"] == "retrained"
    other = forget["retrained"] if twin else setting["values"]["judging"].get("unlearned")
    beside = None if other is None else other[figure]
    return _number(mine, figure) + ("" if beside is None else f" (beside {_number(beside, figure)})")


def _number(value: float, figure: str) -> str:
    return f"{value:.0%}" if figure == "known" else number(value)
