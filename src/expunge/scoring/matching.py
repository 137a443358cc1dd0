"""Comparing a generation with what was to be generated: contained, recalled, or equal. Strings in, numbers out.

Below the catalogues, because metrics, verdicts and benchmarks ask the same questions.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from expunge.scoring.evidence import SetEvidence
from expunge.scoring.intervals import Floats

LONG_ENOUGH = 6  # characters from which an answer may also be found across spaces ("555 01 00" in "5550100")
UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"  # Thai, Lao, kana, Chinese characters


def equal(generation: str, answer: str) -> bool:
    """Whether both are the same after strip and lower-case: an extra word or a missing full stop is a difference."""
    return generation.strip().lower() == answer.strip().lower()


def contains(generation: str, answer: str) -> bool:
    """Whether the normalised answer stands in the normalised generation, as whole words, or run together if long.

    Leak-tolerant: case, accents, punctuation, dashes and spacing do not matter, and text around the answer does not
    either. On the forget side an exact match would call a secret forgotten as soon as a dash is added to it.
    """
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


def known_rows(rows: SetEvidence) -> Floats:
    """[n]: 1 where the answer is in the generation, 0 where not, nan for documents and rows not generated."""
    return _read(rows, "known", "answer", contains)


def exact_rows(rows: SetEvidence) -> Floats:
    """[n]: 1 where the generation equals the answer, 0 where not, nan for documents and rows not generated."""
    return _read(rows, "exact", "answer", equal)


def recall_rows(rows: SetEvidence) -> Floats:
    """[n]: ROUGE-L recall of the reference in the generation; nan for answers and rows not generated."""
    return _read(rows, "recall", "document", lambda generation, reference: rouge_recall(reference, generation))


def _read(rows: SetEvidence, name: str, kind: str, score: Callable[[str, str], float]) -> Floats:
    """What was read off the texts when they were there, or is now."""
    if name in rows.read:
        return rows.read[name]
    found = np.full(len(rows.kinds), np.nan)
    for index in rows.of_kind(kind):
        reference, generation = rows.references[index], rows.generations[index]
        if reference is not None and generation is not None:
            found[index] = score(generation, reference)
    return found


def rouge_recall(reference: str, generation: str, any_script: bool = True) -> float:
    """ROUGE-L recall in [0, 1]: longest common subsequence of stemmed words over the reference's words.

    The package's own tokens are [a-z0-9]+. With `any_script`, where those are less than half of the reference's letters
    and digits, words of any alphabet are compared, and single characters of scripts that put no spaces between words.
    """
    letters = sum(character.isalnum() for character in reference) if any_script else 0
    latin = len(re.findall(r"[a-zA-Z0-9]", reference)) * 2 >= letters
    return float(_scorer(latin).score(reference, generation)["rougeL"].recall)


class _AnyScript:
    """Tokenizer for `rouge-score`."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+", text.lower())


@cache
def _scorer(latin: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # slow to import; only evaluation needs it

    return RougeScorer(["rougeL"], use_stemmer=True) if latin else RougeScorer(["rougeL"], tokenizer=_AnyScript())
