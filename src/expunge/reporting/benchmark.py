"""The section with a benchmark's official scores: parts apart, every term per model, what is missing and why."""

from collections.abc import Mapping
from dataclasses import dataclass

from expunge.reporting.finding import Benchmark, Official, OfficialScores
from expunge.reporting.words import MODELS, NOT_MEASURED, number

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


def section(block: Benchmark | None) -> Section | None:
    """None for a record without official scores."""
    if not block:
        return None
    found = {model: block.models[model] for model in MODELS if model in block.models}
    found |= {model: block.models[model] for model in sorted(set(block.models) - set(MODELS))}
    given = [scores.titles for scores in found.values() if isinstance(scores.titles, Mapping) and scores.titles]
    titles = given[0] if given else {}
    tables = tuple(
        Scores(titles.get(group, title), ("Score", *(model.capitalize() for model in found)), lines)
        for group, title in GROUPS.items()
        if (lines := _lines(found, group))
    )
    notes = [*dict.fromkeys(note for scores in found.values() for note in scores.notes), *_missing(found)]
    lead = titles.get("lead") or (OPTIMUM if "retrained" in found else NO_OPTIMUM)
    return Section(block.title, lead, block.flags, tables, tuple(notes))


def _group(scores: OfficialScores, group: str) -> Mapping[str, Official]:
    return {"parts": scores.parts, "terms": scores.terms, "beside": scores.beside}[group]


def _lines(found: Mapping[str, OfficialScores], group: str) -> tuple[tuple[str, ...], ...]:
    groups = [_group(scores, group) for scores in found.values()]
    names = dict.fromkeys(name for one in groups for name in one)
    return tuple((name, *(_cell(one.get(name, Official())) for one in groups)) for name in names)


def _cell(score: Official) -> str:
    if not isinstance(score.value, float):
        return "missing" if isinstance(score.missing, str) else NOT_MEASURED
    low, high = score.low, score.high
    ends = f" ({number(low)} to {number(high)})" if isinstance(low, float) and isinstance(high, float) else ""
    return f"{number(score.value)}{ends}"


def _missing(found: Mapping[str, OfficialScores]) -> list[str]:
    """Each reason once, with the names of the scores and models that it is missing from."""
    where: dict[tuple[str, str], list[str]] = {}
    for model, scores in found.items():
        for group in GROUPS:
            for name, score in _group(scores, group).items():
                if isinstance(score.missing, str):
                    where.setdefault((name, score.missing), []).append(model)
    return [f"{name} is missing ({', '.join(models)}): {reason}" for (name, reason), models in where.items()]
