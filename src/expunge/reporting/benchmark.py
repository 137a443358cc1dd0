"""The section with a benchmark's official scores: parts apart, every term per model, what is missing and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.reporting.words import MODELS, NOT_MEASURED, number

Record = Mapping[str, Any]
GROUPS = {
    "parts": "The official score and its parts",
    "terms": "The terms of the task aggregate (1 is best in each)",
    "beside": "Beside the official score, pooled over tasks",
}
OPTIMUM = (
    "The retrained model never saw the forget rows, and what it scores is the honest optimum: unlearning that scores "
    "more forgets more than leaving the rows out would have."
)
NO_OPTIMUM = (
    "No retrained model was given, so the honest optimum, what a model without the forget rows scores, is not known. "
    "It is below 1: such a model guesses some answers and shares words with some texts."
)


@dataclass(frozen=True, slots=True)
class Scores:
    """One table: a line for each score, a cell for each model."""

    title: str
    headers: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """`flags` are findings in sentences; `notes` say what is missing, and where these are not the official scores."""

    title: str
    lead: str
    flags: tuple[str, ...]
    tables: tuple[Scores, ...]
    notes: tuple[str, ...]


def section(record: Record) -> Section | None:
    """None for a record without official scores."""
    block = record["benchmark"]
    if not block:
        return None
    by_model = block["models"]
    models = (*(name for name in MODELS if name in by_model), *sorted(set(by_model) - set(MODELS)))
    given: list[dict[str, str]] = [by_model[model]["titles"] for model in models if by_model[model].get("titles")]
    titles = given[0] if given else {}
    tables = tuple(
        Scores(titles.get(group, title), ("Score", *(model.capitalize() for model in models)), lines)
        for group, title in GROUPS.items()
        if (lines := _lines(by_model, models, group))
    )
    notes = [*dict.fromkeys(note for model in models for note in by_model[model]["notes"]), *_missing(by_model, models)]
    lead = titles.get("lead") or (OPTIMUM if "retrained" in by_model else NO_OPTIMUM)
    return Section(block["title"], lead, tuple(block["flags"]), tables, tuple(notes))


def _lines(by_model: Record, models: Sequence[str], group: str) -> tuple[tuple[str, ...], ...]:
    names = dict.fromkeys(name for model in models for name in by_model[model][group])
    return tuple((name, *(_cell(by_model[model][group].get(name)) for model in models)) for name in names)


def _cell(score: Mapping[str, Any] | None) -> str:
    if score is None or score.get("value") is None:
        return "missing" if score and "missing" in score else NOT_MEASURED
    interval = "" if score.get("low") is None else f" ({number(score['low'])} to {number(score['high'])})"
    return f"{number(score['value'])}{interval}"


def _missing(by_model: Record, models: Sequence[str]) -> list[str]:
    """Each reason once, with the names of the scores and models that it is missing from."""
    where: dict[tuple[str, str], list[str]] = {}
    for model in models:
        for group in GROUPS:
            for name, score in by_model[model][group].items():
                if "missing" in score:
                    where.setdefault((name, score["missing"]), []).append(model)
    return [f"{name} is missing ({', '.join(found)}): {reason}" for (name, reason), found in where.items()]
