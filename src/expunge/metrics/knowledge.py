"""Knowledge: answers that are in the generation, whatever their form.

Leak-tolerant: case, accents, punctuation, dashes and spacing do not matter, and text around the answer does not
either. On the forget side an exact match would call a secret forgotten as soon as a dash is added to it.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from expunge.metric import Evidence, Score, SetEvidence, share_score

LONG_ENOUGH = 6  # characters from which an answer may also be found across spaces ("555 01 00" in "5550100")


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Share of answer rows whose answer is contained in the generation, after normalising both."""

    sets: ClassVar[tuple[str, ...]] = ("forget", "judging", "retain", "guard", "collateral")

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        known = known_rows(evidence.sets[name])
        return share_score(known[~np.isnan(known)].astype(bool))


def known_rows(rows: SetEvidence) -> NDArray[np.float64]:
    """[n]: 1 where the answer is in the generation, 0 where not, nan for documents and rows not generated."""
    found = np.full(len(rows.kinds), np.nan)
    for index in rows.of_kind("answer"):
        reference, generation = rows.references[index], rows.generations[index]
        if reference is not None and generation is not None:
            found[index] = contains(generation, reference)
    return found


def contains(generation: str, answer: str) -> bool:
    """Whether the normalised answer stands in the normalised generation, as whole words, or run together if long."""
    said, wanted = _normal(generation), _normal(answer)
    if not wanted:
        return answer.strip() in generation
    if f" {wanted} " in f" {said} ":
        return True
    joined = wanted.replace(" ", "")
    if len(joined) < LONG_ENOUGH:
        return False
    words = said.split(" ")
    return any(_run_together(words[start:], joined) for start in range(len(words)))


def _run_together(words: list[str], joined: str) -> bool:
    """Whether some first words make up exactly `joined`."""
    text = ""
    for word in words:
        text += word
        if len(text) >= len(joined):
            break
    return text == joined


def _normal(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(character for character in plain if not unicodedata.combining(character))
    return " ".join(re.findall(r"[^\W_]+", plain))
