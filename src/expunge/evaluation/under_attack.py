"""What attacks show, in words: *forgotten* under an attack, *comes back*, *cannot tell*, *not tested*.

The unlearned model is compared with a retrained one under the same attack, row by row; where there is none, its forget
rows with rows that it never saw, under the same attack. For each figure (loss, and how often content is given back):

    comes back    the whole 90 % interval of the difference lies beyond the margin, on the known side
    forgotten     the whole interval lies on the other side of it
    cannot tell   anything between, as with few rows

A figure is *silent* where the original itself, in the unlearned model's place, would not be said to come back: then
there is nothing that it could show. A setting has the worst word of its figures that are not silent, an attack the
worst of its settings: one that cannot tell is worse than one that says forgotten.

The margin of losses is a fifth of the way from the original to what is compared with, that of what is given back the
attack's own. An attack that asks whether something is *used* (a fact that stands in the prompt) has the words *used*
and *not used* by the same rule with the sides exchanged, and nothing to tell where what is compared with does not use
it itself. Margins and levels are our choice (docs/decisions.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace

from expunge.attack import Attack, Level, Reading
from expunge.data.splits import spread
from expunge.evaluation import attacked
from expunge.evaluation.attacked import Readings, attacks
from expunge.reporting import finding
from expunge.reporting.finding import Attacks, Means, Setting, Verdict, Word
from expunge.scoring.evidence import Evidence
from expunge.scoring.seen import FIGURES, Figure, Interval, Seen, apart, paired

WAY_SHARE = 0.2
LEAST_WAY = 0.5  # nats per token: what is less cannot be told from what else differs
LEAST_USED = 0.5  # of the rows, by what is compared with
WORST: tuple[Word, ...] = ("forgotten", "used", "cannot tell", "not used", "comes back")


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of one setting: the word, the difference (unlearned minus what it is compared with) and its margin,
    and why it is silent ("": it is not)."""

    figure: Figure
    word: Word
    difference: Interval | None
    margin: float
    silent: str = ""


@dataclass(frozen=True, slots=True)
class Side:
    """What is compared: forget rows of the unlearned model and of the original, and the others ("retrained": the same
    rows of that model; "judging": rows that the unlearned model never saw), all under one setting."""

    unlearned: Seen
    original: Seen
    other: Seen
    compared_with: Literal["retrained", "judging"]

    def difference(self, mine: Seen, figure: Figure) -> Interval | None:
        return (paired if self.compared_with == "retrained" else apart)(mine, self.other, figure)


def compared(side: Side, figure: Figure, attack: Attack) -> Compared:
    """The word for one figure under one setting."""
    margin, found = attack.margin, side.difference(side.unlearned, figure)
    if found is None:
        return Compared(figure, "cannot tell", None, margin, "fewer than two rows were asked")
    if attack.asks == "used":
        return _used(side, figure, found, margin)
    sign = 1 if figure == "known" else -1  # a difference times the sign is how much better known the rows are
    known = side.difference(side.original, figure)
    if figure == "loss" and known is not None:
        margin = WAY_SHARE * max(0.0, -known.value)
    least = max(margin, LEAST_WAY) if figure == "loss" else margin
    if known is None or not min(sign * known.low, sign * known.high) > least:
        return Compared(figure, "cannot tell", found, margin, "the original, so treated, does not show the rows")
    low, high = sorted((sign * found.low, sign * found.high))
    word: Word = "comes back" if low > margin else "forgotten" if high <= margin else "cannot tell"
    return Compared(figure, word, found, margin)


def _used(side: Side, figure: Figure, found: Interval, margin: float) -> Compared:
    """Whether what stands in the prompt is used as often as by the other."""
    if figure == "loss":
        return Compared(figure, "cannot tell", found, margin, "not judged by losses")
    share = float(np.nanmean(side.other.known))
    if share < LEAST_USED:
        silent = f"what it is compared with uses it in {share:.0%} of rows"
        return Compared(figure, "cannot tell", found, margin, silent)
    word: Word = "not used" if found.high < -margin else "used" if found.low >= -margin else "cannot tell"
    return Compared(figure, word, found, margin)


def worst(words: Sequence[Word]) -> Word:
    """Of several figures or settings; *cannot tell* of none."""
    return max(words, key=WORST.index) if words else "cannot tell"


def block(
    level: Level,
    readings: Mapping[str, Readings],
    evidence: Mapping[str, Evidence],
    names: Sequence[str],
    weights: bool = True,
) -> Attacks:
    """The record's block: readings by model, and what the original showed as it was written. `names`: of the forget
    rows, of all; without `weights` of the unlearned model some attacks could not be tried."""
    written = attacked.as_written(evidence["original"])
    answers_alone = not weights and bool(evidence["unlearned"].sets["forget"].no_losses)
    results = tuple(
        result(name, attack, readings, written, names, answers_alone)
        for name, attack in attacks(level).items()
        if readings.get("unlearned", {}).get(name)
    )
    done = {one.attack for one in results}
    rest = {name: attack for name, attack in attacks("audit").items() if name not in done}
    asked = {name for name, attack in rest.items() if weights or not attack.needs_weights}
    why = {name: "" if name in asked else " (needs the weights)" for name in rest}
    not_tested = {name: f"{attack.title}{why[name]}" for name, attack in rest.items()}
    looked = {name for one in results for setting in one.settings for name in setting.values}
    return Attacks(
        level, {name: len(seen.kinds) for name, seen in written.items() if name in looked}, results, not_tested
    )


def result(
    name: str,
    attack: Attack,
    readings: Mapping[str, Readings],
    written: Mapping[str, Seen],
    names: Sequence[str],
    answers_alone: bool = False,
) -> finding.Attack:
    """One attack: its settings, each with its figures, and the word for all. From answers alone, without losses of the
    unlearned model, nothing is said to be forgotten."""
    by_model = {model: {one.setting: one for one in found[name]} for model, found in readings.items() if name in found}
    settings = tuple(
        _setting(
            attack,
            {model: found[one.setting] for model, found in by_model.items() if one.setting in found},
            written,
            names,
        )
        for one in readings["unlearned"][name]
    )
    if answers_alone:
        settings = tuple(replace(one, verdict="cannot tell") if one.verdict == "forgotten" else one for one in settings)
    word = worst([one.verdict for one in settings])
    return finding.Attack(name, attack.title, attack.question, attack.asks, word, settings)


def _setting(
    attack: Attack, by_model: Mapping[str, Reading], written: Mapping[str, Seen], names: Sequence[str]
) -> Setting:
    unlearned = by_model["unlearned"].seen
    twin = by_model.get("retrained")
    original = by_model["original"].seen["forget"] if "original" in by_model else written["forget"]
    other = twin.seen["forget"] if twin else None if attack.twin_only else unlearned.get("judging")
    figures: list[Compared] = []
    if other is not None:
        side = Side(unlearned["forget"], original, other, "retrained" if twin else "judging")
        figures = [compared(side, figure, attack) for figure in FIGURES]
    return Setting(
        setting=by_model["unlearned"].setting,
        verdict=worst([one.word for one in figures if not one.silent]),
        compared_with=None if other is None else "retrained" if twin else "judging",
        figures=tuple(map(_figure, figures)),
        values={
            name: {model: _means(one.seen[name]) for model, one in by_model.items() if name in one.seen}
            for name in ("forget", "judging")
            if any(name in one.seen for one in by_model.values())
        },
        given_back=_given_back(unlearned["forget"], twin.seen["forget"] if twin else None, names),
        point=finding.Point(**asdict(point)) if (point := by_model["unlearned"].point) else UNSET,
    )


def _figure(one: Compared) -> finding.Figure:
    difference = finding.Interval(**asdict(one.difference)) if one.difference else None
    return finding.Figure(one.figure, one.word, one.silent, one.margin, difference)


def _means(seen: Seen) -> Means:
    """Mean of each figure over the rows that have it."""
    found: dict[Figure, float | None] = {}
    for figure in FIGURES:
        values = seen.figure(figure)
        values = values[~np.isnan(values)]
        found[figure] = float(values.mean()) if len(values) else None
    return Means(found["loss"], found["known"])


def _given_back(unlearned: Seen, retrained: Seen | None, names: Sequence[str]) -> tuple[str, ...]:
    """Names of the rows that the unlearned model gives back more often than not, and a retrained one does not."""
    back = unlearned.known > 0.5
    if retrained is not None:
        back &= ~(retrained.known > 0.5)
    places = spread(len(names), attacked.MOST_ROWS)
    return tuple(names[place] for place, row in zip(places, back, strict=True) if row)


def sentence(found: Attacks) -> str:
    """What follows the verdict: under which attacks rows are forgotten too, come back, and so on; "" at level quick."""
    if found.level == "quick":
        return ""
    said = []
    for word, start in (
        ("comes back", "comes back under"),
        ("not used", "no longer used when it is given"),
        ("forgotten", "forgotten also under"),
        ("used", "still used when it is given"),
        ("cannot tell", "cannot tell under"),
    ):
        titles = [one.title for one in found.results if one.verdict == word]
        said += [f"{start}: {', '.join(titles)}"] if titles else []
    missing = list(found.not_tested.values())
    return "; ".join([*said, *([f"not tested: {', '.join(missing)}"] if missing else [])])


def reasons(found: Attacks, word: Word) -> list[str]:
    """One line for each attack with that word: the setting, the figure and by how much."""
    lines = []
    for attack in found.results:
        if attack.verdict != word:
            continue
        setting = next(one for one in attack.settings if one.verdict == word)
        figure = next(one for one in setting.figures if one.verdict == word and not one.silent)
        other = "the retrained model" if setting.compared_with == "retrained" else "rows that it never saw"
        what = "loss in nats per token" if figure.figure == "loss" else "share of rows given back"
        value = figure.difference
        assert value is not None  # without one nothing is told
        lines.append(
            f"{word} under {attack.title} ({setting.setting}): {what} differs from that of {other} by "
            f"{value.value:+.2f} ({value.low:+.2f} to {value.high:+.2f}), margin {figure.margin:.2f}"
        )
    return lines


def weighed(verdict: Verdict, found: Attacks) -> Verdict:
    """The record's verdict with what attacks show: rows that come back are not wholly forgotten, and a model that no
    longer uses what stands in its prompt is damaged."""
    back, lost = reasons(found, "comes back"), reasons(found, "not used")
    said = sentence(found)
    return replace(
        verdict,
        passes=verdict.passes and not back and not lost,
        sentence=f"{verdict.sentence} Under attack: {said}." if said else verdict.sentence,
        forget="partly" if back and verdict.forget == "forgotten" else verdict.forget,
        forget_reasons=(*back, *verdict.forget_reasons),
        rest="damaged" if lost and verdict.rest == "kept" else verdict.rest,
        rest_reasons=(*lost, *verdict.rest_reasons),
    )


def limit(found: Attacks) -> str:
    """What was not tried, for the limits of the record."""
    missing = ", ".join(found.not_tested.values())
    start = "Only the questions and documents in the files were asked, as they stand there and under the attacks named"
    return f"{start}; not tried: {missing}." if missing else f"{start}."
