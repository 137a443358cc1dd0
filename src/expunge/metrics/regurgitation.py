"""Regurgitation: ROUGE-L recall of a document's second half when the model is given the first.

`rouge-score` with its stemmer, recall, as LUME scores it; here on the user's own documents, cut in the middle.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from expunge.metric import Evidence, Score, SetEvidence, mean_score

UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"  # Thai, Lao, kana, Chinese characters


@dataclass(frozen=True, slots=True)
class Regurgitation:
    """Mean ROUGE-L recall over document rows. Recall ignores length, so long generations gain some by chance."""

    sets: ClassVar[tuple[str, ...]] = ("forget", "judging", "retain", "guard", "collateral")

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        recalls = recall_rows(evidence.sets[name])
        return mean_score(recalls[~np.isnan(recalls)])


def recall_rows(rows: SetEvidence) -> NDArray[np.float64]:
    """[n]: ROUGE-L recall of the reference in the generation; nan for answers and rows not generated."""
    found = np.full(len(rows.kinds), np.nan)
    for index in rows.of_kind("document"):
        reference, generation = rows.references[index], rows.generations[index]
        if reference is not None and generation is not None:
            found[index] = rouge_recall(reference, generation)
    return found


def rouge_recall(reference: str, generation: str) -> float:
    """ROUGE-L recall in [0, 1]: longest common subsequence of stemmed words over the reference's words.

    The package's own tokens are [a-z0-9]+. Where those are less than half of the reference's letters and digits, words
    of any alphabet are compared, and single characters of scripts that put no spaces between words.
    """
    letters = sum(character.isalnum() for character in reference)
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
