"""Regurgitation: ROUGE-L recall of a document's second half when the model is given the first.

`rouge-score` with its stemmer, recall, as LUME scores it; here on the user's own documents, cut in the middle.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from expunge.metric import Evidence, Score, SetEvidence, mean_score


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
    """ROUGE-L recall in [0, 1]: longest common subsequence of stemmed words over the reference's words."""
    return float(_scorer().score(reference, generation)["rougeL"].recall)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # slow to import; only evaluation needs it

    return RougeScorer(["rougeL"], use_stemmer=True)
