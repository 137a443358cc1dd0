"""The words, colours and number formats of the pages: one place, so that HTML and Markdown say the same."""

import math
from dataclasses import dataclass

NOT_MEASURED = "not measured"
MODELS = ("original", "unlearned", "retrained")
# A tone is the name of a colour in report.css; the symbol says the same without colour.
SYMBOLS = {"good": "✓", "bad": "✗", "warn": "~", "over": "»", "unknown": "?"}
VERDICT_TONES = {
    "forgotten": "good",
    "kept": "good",
    "not forgotten": "bad",
    "collapsed": "bad",
    "failed": "bad",
    "partly": "warn",
    "damaged": "warn",
    "over-forgotten": "over",
    "cannot tell": "unknown",
    # under attack
    "comes back": "bad",
    "used": "good",
    "not used": "warn",
}
MEANINGS = {
    "forgotten": "the model treats the row like text it never saw",
    "partly": "weaker than before, but still better known than never-seen text",
    "not forgotten": "still known",
    "over-forgotten": "the model avoids the row more than text it never saw, which itself gives the row away",
    "cannot tell": "the evidence does not decide",
    "failed": "a loss that the verdict hangs on is not a number",
}


@dataclass(frozen=True, slots=True)
class Badge:
    """A word with a tone."""

    word: str
    tone: str

    @property
    def symbol(self) -> str:
        return SYMBOLS[self.tone]


@dataclass(frozen=True, slots=True)
class SetWords:
    """`best` says where the unlearned model should lie; the other wording is for pages without a retrained model."""

    title: str
    best: str
    best_without_retrained: str


_AS_ORIGINAL = "Best: where the original model is. These rows are to stay known."
_UNTOUCHED = "Best: where the original model is. The method never saw these rows, so they show what it broke unasked."
_OWN_TEXT = "Best: where the original model is. The original's own text, other than what the method held in place."
SETS = {
    "forget": SetWords(
        "Forget rows",
        "Best: where the retrained model is. Short of it is not forgotten; past it is over-forgetting, also a fault.",
        "Best: where a model trained without these rows would be, near the never-seen rows. "
        "Past that is over-forgetting, also a fault.",
    ),
    "earlier": SetWords(
        "Rows of earlier requests",
        "Forgotten by an earlier run. Best: still where the retrained model is.",
        "Forgotten by an earlier run. Best: still near the never-seen rows.",
    ),
    "judging": SetWords(
        "Judging rows",
        "Never trained on, same kind as the forget rows. Best: near the retrained model.",
        "Never trained on, same kind as the forget rows. Best: little changed.",
    ),
    "retain": SetWords("Retain rows", _AS_ORIGINAL, _AS_ORIGINAL),
    "guard": SetWords(
        "Guard rows",
        _AS_ORIGINAL + " Retain rows that no gradient saw; they chose between attempts.",
        _AS_ORIGINAL + " Retain rows that no gradient saw; they chose between attempts.",
    ),
    "samples": SetWords(
        "Samples of the original",
        _OWN_TEXT,
        _OWN_TEXT,
    ),
    "collateral": SetWords("Collateral", _UNTOUCHED, _UNTOUCHED),
}


def badge(verdict: str) -> Badge:
    return Badge(verdict, VERDICT_TONES.get(verdict, "unknown"))


def number(value: float | None, digits: int = 3) -> str:
    """Fixed digits, so that columns line up; large values have fewer, and the smallest keep two that count."""
    if value is None:
        return NOT_MEASURED
    if not math.isfinite(value):
        return "not finite"
    if value != 0 and abs(value) < 0.5 * 10**-digits:
        return f"{value:.1e}"
    if abs(value) >= 10:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"
    return f"{value:.{digits}f}"


def span(least: float | None, most: float | None) -> str:
    """A range in words."""
    if least is None or most is None:
        ends = (f"{least:g} and up" if least is not None else "", f"{most:g} and down" if most is not None else "")
        return "".join(ends) or "any number"
    return f"{least:g} to {most:g}"


def yes_or_no(value: bool | None) -> str:
    return NOT_MEASURED if value is None else "yes" if value else "no"


def plain(value: object) -> str:
    """A value of the configuration as a person would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    return str(value)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NOT_MEASURED
    whole = int(seconds)
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{whole // 60} min {whole % 60} s" if seconds < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float | None) -> str:
    if count is None:
        return NOT_MEASURED
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
