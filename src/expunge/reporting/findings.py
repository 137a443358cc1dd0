"""What a comparison says in words: where each method stands, what failed, and how to read the rest."""

from collections.abc import Sequence
from dataclasses import dataclass

from expunge.reporting.comparison_tables import TONES, many, name_of, seed_of
from expunge.reporting.content import Column
from expunge.reporting.standings import Standings
from expunge.reporting.words import Badge
from expunge.scoring.band import AS_RETRAINED, CANNOT_TELL, DIFFERS

MOST_TERMS_NAMED = 3
PLACE_TONES = {"in the band": "good", "outside the band": "bad"}
MEANINGS = {
    AS_RETRAINED: "the whole interval of the difference to the retrained models lies within the margin",
    "short": "forget rows are still better known than by the retrained models",
    "beyond": "over-forgetting: forget rows are less known than by models that never saw them, also a fault",
    "lost": "rows to keep are less well kept than by the retrained models",
    "gained": "rows to keep are better known than by the retrained models",
    DIFFERS: "outside the margin, in a score that has no better side",
    CANNOT_TELL: "the interval of the difference reaches from within the margin to outside it, or there is none; where "
    "it leaves out zero, the page says which way it leans",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a method got one word."""

    word: str
    tone: str
    where: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What the page says first about a method."""

    method: str
    badge: Badge
    places: tuple[Place, ...]
    remark: str


def headline(found: Standings) -> str:
    """One sentence: how many methods lie in the band, outside it, or cannot be told."""
    places = [found.summary(model).place for model in found.methods]
    if not found.twins:
        return f"No retrained model was scored, so none of {many(len(places), 'method')} can be placed."
    counts = [(place, places.count(place)) for place in dict.fromkeys([*PLACE_TONES, CANNOT_TELL, *places])]
    words = {
        "in the band": "in the retrained band in every column",
        "outside the band": "outside it in at least one",
        CANNOT_TELL: "cannot be told",
    }
    parts = [f"{count} {words.get(place, place)}" for place, count in counts if count or place == "in the band"]
    return f"Of {many(len(places), 'method')}: {', '.join(parts)}."


def findings(found: Standings) -> tuple[Finding, ...]:
    """One per method, in the order of the table."""
    lines = []
    for model in found.methods:
        summary = found.summary(model)
        words = [*summary.outside, *(word for word in (CANNOT_TELL, AS_RETRAINED) if word in summary.columns)]
        places = tuple(Place(word, TONES.get(word, "unknown"), _where(summary.columns[word])) for word in words)
        failed = len(model.cells) - len(model.done)
        remark = f"{many(failed, 'cell')} of {len(model.cells)} ended with an error" if failed else ""
        lines.append(Finding(model.label, place_badge(summary.place), places, remark))
    return tuple(lines)


def _where(columns: Sequence[Column]) -> str:
    """Names, but of many terms only their number: the table of terms shows them."""
    terms = [column.label for column in columns if column.group == "term"]
    names = [column.label for column in columns if column.group != "term"]
    few = terms if len(terms) <= MOST_TERMS_NAMED else [many(len(terms), "term")]
    return "; ".join([*names, *few])


def place_badge(place: str) -> Badge:
    return Badge(place, PLACE_TONES.get(place, "unknown"))


def errors(found: Standings) -> tuple[str, ...]:
    return tuple(
        f"{name_of(model)}, seed {seed_of(cell.seed)}: {cell.error}"
        for model in found.models
        for cell in model.cells
        if cell.error
    )


def notes(found: Standings) -> tuple[str, ...]:
    """What a reader must know before trusting a word of the tables."""
    said = [
        "An interval covers 95 %, from the rows that happened to be asked and from the spread over seeds. A difference "
        "is the method's mean minus the retrained models' mean, row by row where the score is a mean over rows.",
        "The margin of a column is widened by half the spread of the retrained models: nothing need be closer to them "
        "than they are to one another.",
        "Words are given per column, without allowance for their number: of twenty intervals about one misses.",
    ]
    if found.twins == 1:
        said.append(
            "One retrained model only: how much such models differ by seed was not seen, so the band is too narrow."
        )
    if lone := [model.label for model in found.methods if len(model.done) == 1]:
        said.append(f"One seed only, so no spread over seeds was seen: {', '.join(lone)}.")
    return tuple(said)
