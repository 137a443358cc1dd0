"""Comparing a generation with what was to be generated: contained, recalled, or equal. Strings in, numbers out.

Below the catalogues, because metrics, verdicts and benchmarks ask the same questions.
"""

import unicodedata
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from expunge.scoring.evidence import SetEvidence
from expunge.scoring.intervals import Floats
from expunge.scoring.words import folded, runs, words, words_and_signs

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

RECALL_LEAK = 0.5  # of a document's second half, from which it is given back
LONG_ENOUGH = 6  # characters from which an answer may also be found across spaces ("555 01 00" in "5550100")


def equal(generation: str, answer: str) -> bool:
    """Whether both are the same after strip and lower-case: an extra word or a missing full stop is a difference."""
    return generation.strip().lower() == answer.strip().lower()


def contains(generation: str, answer: str) -> bool:
    """Whether the answer's words stand in the generation, as whole words (`scoring.words`), or run together if long.

    Leak-tolerant: case, accents, punctuation, dashes and spacing do not matter, and text around the answer does not
    either. On the forget side an exact match would call a secret forgotten as soon as a dash is added to it. Signs that
    change what is said count (`scoring.words`), and an answer of a few characters ends where they do: "A" is not
    given by "A+".
    """
    wanted, signed = words(answer), words_and_signs(answer)
    if not wanted:
        return answer.strip() in generation
    joined = "".join(wanted)
    short = len(joined) < LONG_ENOUGH
    if short or len(signed) > len(wanted):
        return _signed(words_and_signs(generation), signed, short)
    said = words(generation)
    if f" {' '.join(wanted)} " in f" {' '.join(said)} ":
        return True
    return any(_run_together(said[start:], joined) for start in range(len(said)))


def _signed(said: list[str], wanted: list[str], short: bool) -> bool:
    """Whether some run of words and signs is the wanted one; where that is short, with no sign that clings to it."""
    around = ["", *said, ""]
    for start, run in enumerate(runs(said, len(wanted))):
        before, after = around[start], around[start + len(wanted) + 1]
        if list(run) == wanted and not (short and (before.startswith(" minus") or after.startswith(" after"))):
            return True
    return False


def _run_together(words: list[str], joined: str) -> bool:
    """Whether some first words make up exactly `joined`."""
    text = ""
    for word in words:
        text += word
        if len(text) >= len(joined):
            break
    return text == joined


def known_rows(rows: SetEvidence) -> Floats:
    """[n]: 1 where the answer is in the generation, 0 where not, nan for documents and rows not generated."""
    return _read(rows, "known", "answer", contains)


def exact_rows(rows: SetEvidence) -> Floats:
    """[n]: 1 where the generation equals the answer, 0 where not, nan for documents and rows not generated.

    Normal forms of Unicode make no difference: which of them a tokenizer gives back is its own affair.
    """
    return _read(rows, "exact", "answer", lambda generation, answer: equal(_composed(generation), _composed(answer)))


def recall_rows(rows: SetEvidence) -> Floats:
    """[n]: ROUGE-L recall of the reference in the generation; nan for answers and rows not generated."""
    return _read(rows, "recall", "document", lambda generation, reference: rouge_recall(reference, generation))


def given_back(rows: SetEvidence) -> Floats:
    """[n]: 1 where the answer is in the generation, or at least half of a document's second half; nan: not asked."""
    recall = recall_rows(rows)
    return np.where(np.isnan(recall), known_rows(rows), (recall >= RECALL_LEAK).astype(np.float64))


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

    The package's own tokens are [a-z0-9]+. With `any_script` both texts are folded before (`scoring.words`), so that
    accents and normal forms make no difference, and where words of other letters are left in the reference, words of
    any script are compared, without stemming.
    """
    if not any_script:
        return float(_scorer(True).score(reference, generation)["rougeL"].recall)
    reference, generation = folded(reference), folded(generation)
    own = all(word.isascii() for word in words(reference))
    return float(_scorer(own).score(reference, generation)["rougeL"].recall)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


class _AnyScript:
    """Tokenizer for `rouge-score`."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@cache
def _scorer(own_tokens: bool) -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer  # slow to import; only evaluation needs it

    return RougeScorer(["rougeL"], use_stemmer=True) if own_tokens else RougeScorer(["rougeL"], tokenizer=_AnyScript())
