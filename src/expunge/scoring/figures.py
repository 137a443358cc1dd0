"""What TOFU's scores of one model are made of, row by row: from evidence here, from other tools' files elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from expunge.scoring import attacks
from expunge.scoring.answers import Answers, answers_of
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Floats

SETS = {"forget": "forget", "retain": "retain_perturbed", "real authors": "real_authors", "world facts": "world_facts"}
ATTACKS: Mapping[str, attacks.RowScore] = {
    "loss": attacks.loss,
    "zlib": attacks.zlib,
    "min_k": attacks.min_k,
    "min_k++": attacks.min_k_plus_plus,
}


@dataclass(frozen=True, slots=True)
class Attacked:
    """An attack's scores of rows to forget and of rows that were never trained on; less means a likelier member."""

    members: Floats
    others: Floats


@dataclass(frozen=True, slots=True)
class Figures:
    """All that TOFU's scores of one model are made of: answers by set, and of the forget rows extraction strength and
    exact memorisation [n], and attacks by name. What was not measured is not there."""

    sets: Mapping[str, Answers]
    extraction: Floats | None = None
    memorised: Floats | None = None
    attacks: Mapping[str, Attacked] = field(default_factory=dict)


def figures_of(evidence: Evidence, holdout: bool) -> Figures:
    """What the scores are made of, from evidence. Without a `holdout` no row is known never to have been trained on."""
    sets = {name: answers_of(evidence.sets[own]) for name, own in SETS.items() if own in evidence.sets}
    forget, judging = evidence.sets["forget"], evidence.sets.get("judging") if holdout else None
    scored = {name: (of(forget), of(judging)) for name, of in ATTACKS.items()} if judging is not None else {}
    attacked = {
        name: Attacked(ours, theirs)
        for name, (ours, theirs) in scored.items()
        if ours is not None and theirs is not None
    }
    return Figures(sets, attacks.extraction_strength(forget), attacks.exact_memorisation(forget), attacked)
