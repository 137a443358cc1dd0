"""Scores of rows by their tokens, against arithmetic in the comments; each check rejects its broken variants."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from expunge.evaluation import suite
from expunge.scoring import attacks
from expunge.scoring.evidence import Evidence, SetEvidence, Tokens

# Two answers, of five tokens and of one. What the model's first choice is right about: 1 0 1 1 1, and 0.
TOKENS = Tokens(
    counts=np.array([5.0, 1.0]),
    loss=np.array([1.0, 5.0, 2.0, 4.0, 3.0, 6.0]),
    likeliest=np.array([1.0, 0.0, 1.0, 1.0, 1.0, 0.0]),
    mean=np.array([-1.0, -1.0, -4.0, -2.0, -1.0, -2.0]),
    variance=np.array([1.0, 4.0, 1.0, 4.0, 1.0, 0.0]),
    compressed=np.array([20.0, 10.0]),
)


def rows(kinds: tuple[str, ...] = ("answer", "answer"), tokens: Tokens | None = TOKENS) -> SetEvidence:
    """Mean losses with the end tokens, of which the tokens above know nothing."""
    nothing, losses = (None,) * len(kinds), np.array([2.5, 3.5][: len(kinds)])
    return SetEvidence(
        kinds, nothing, losses, losses, losses, nothing, nothing, np.zeros((len(kinds), 2)), tokens=tokens
    )  # type: ignore[arg-type]


def check_by_hand() -> None:
    found = {name: getattr(attacks, name)(rows()).tolist() for name in SCORES}
    assert found == {
        "loss": [2.5, 3.5],
        "zlib": [2.5 / 20, 3.5 / 10],
        "min_k": [(5 + 4) / 2, 6],  # 40 % of five tokens are two; one at least
        # (log p - mean) / deviation: 0, -4/2, 2, -2/2, -2, and -4 / sqrt(1e-6)
        "min_k_plus_plus": pytest.approx([(2 + 2) / 2, 4000]),
        "extraction_strength": [1 - 2 / 5, 0],  # right to the end after two tokens; never
        "exact_memorisation": [4 / 5, 0],
    }


SCORES = ("loss", "zlib", "min_k", "min_k_plus_plus", "extraction_strength", "exact_memorisation")


def test_by_hand() -> None:
    check_by_hand()


def _floored(found: SetEvidence) -> Any:
    """As open-unlearning has it: 1 / T where nothing can be extracted."""
    assert found.tokens is not None
    return np.maximum(_STRENGTH(found), 1 / found.tokens.counts)


def _likeliest(parts: list[Any]) -> Any:
    return np.array([-np.sort(row)[::-1][: max(1, len(row) * 2 // 5)].mean() for row in parts])


_STRENGTH = attacks.extraction_strength
BROKEN: dict[str, tuple[str, Any]] = {
    "20 per cent": ("SHARE", 0.2),
    "the likeliest tokens": ("_least", _likeliest),
    "a floor": ("extraction_strength", _floored),
    "variance as deviation": ("LEAST_VARIANCE", 4.0),
    "the first wrong token, not the last": ("extraction_strength", lambda found: np.array([1 - 1 / 5, 0])[::-1]),
    "per token, not per byte": ("zlib", lambda found: found.loss / found.tokens.counts),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_hand_check_rejects(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacks, *BROKEN[broken])
    with pytest.raises(AssertionError):
        check_by_hand()


def test_what_was_not_recorded_has_no_score_and_what_is_no_number_none_to_rely_on() -> None:
    bare = rows(tokens=None)
    assert all(getattr(attacks, name)(bare) is None for name in SCORES if name != "loss")
    nan = np.full(6, np.nan)
    broken = rows(tokens=replace(TOKENS, loss=nan, likeliest=nan, mean=nan, variance=nan))
    for name in ("min_k", "min_k_plus_plus", "extraction_strength", "exact_memorisation"):
        assert np.isnan(getattr(attacks, name)(broken)).all(), name


def check_pairs(attack: Callable[..., Any]) -> None:
    """Scores 4.5 (answer) and 6 (document) against the same of the others: a tie is half; kinds are not mixed."""
    members, others = rows(("answer", "document")), rows(("answer", "document"))
    found = attack(members, others, attacks.min_k)
    assert found.value == 0.5 and found.count == 2
    assert attack(members, rows(("answer", "answer")), attacks.min_k).value == pytest.approx(0.75)  # 4.5 = 4.5, 4.5 < 6
    assert attack(members, None, attacks.min_k) is None and attack(rows(tokens=None), others, attacks.min_k) is None


def test_pairs() -> None:
    check_pairs(attacks.attack)


def test_pair_check_rejects_mixed_kinds() -> None:
    def mixed(members: SetEvidence, others: SetEvidence | None, of: Any) -> Any:
        same = [None if one is None else replace(one, kinds=("answer",) * 2) for one in (members, others)]
        return attacks.attack(same[0], same[1], of)  # type: ignore[arg-type]

    with pytest.raises(AssertionError):
        check_pairs(mixed)


def test_a_hard_row_is_no_less_a_member_beside_the_reference() -> None:
    """By hand: losses 2.5 and 3.5 of members that cost the reference 3 and 6, and of others that cost it 2.5 and 3: the
    members lie 0.5 and 2.5 below it, the others 0 below and 0.5 above. By losses alone both groups are the same."""
    members = replace(rows(), reference_loss=np.array([3.0, 6.0]))
    others = replace(rows(), reference_loss=np.array([2.5, 3.0]))
    assert attacks.reference(members).tolist() == [-0.5, -2.5]  # type: ignore[union-attr]
    found, plain = (attacks.attack(members, others, of) for of in (attacks.reference, attacks.loss))
    assert found and plain and (found.value, plain.value) == (1.0, 0.5)
    assert attacks.reference(rows()) is None and attacks.attack(rows(), others, attacks.reference) is None


def test_the_reference_of_a_record_is_its_retrained_model() -> None:
    sets = {"forget": rows(), "judging": rows()}
    models = {
        "unlearned": Evidence(sets),
        "retrained": Evidence({**sets, "forget": replace(rows(), loss=rows().loss + 1)}),
    }
    found = {(one.metric, one.model): one.value for one in suite.scores(models)}
    assert found["reference_attack", "unlearned"] == 1 and ("reference_attack", "retrained") not in found
    assert ("reference_attack", "unlearned") not in {
        (one.metric, one.model) for one in suite.scores({"unlearned": Evidence(sets)})
    }
