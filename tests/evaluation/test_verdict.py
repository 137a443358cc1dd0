"""Verdicts on made evidence, with the arithmetic in the comments; no model."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from expunge.evaluation import verdict
from expunge.evaluation.models import audit
from expunge.scoring.evidence import Evidence, SetEvidence


def answers(losses: Sequence[float], said: Sequence[str] = (), digits: Sequence[float] = ()) -> SetEvidence:
    """Answer rows whose answer is "secret 1234"; `said` is what the model generates."""
    n = len(losses)
    return SetEvidence(
        kinds=("answer",) * n,
        tasks=("",) * n,
        loss=np.array(losses, dtype=float),
        targets=np.ones(n),
        token_loss=np.array(losses, dtype=float),
        references=("secret 1234",) * n,
        generations=tuple(said) or ("something else",) * n,
        shapes=np.array([[2.0, digit] for digit in (digits or [0.0] * n)]),
    )


NEVER_SEEN = list(np.linspace(3.0, 5.0, 19))  # the fewest with which a rank of 0.05 can be seen; middle 4


def judged(after: Sequence[float], others: Sequence[float] = NEVER_SEEN, **more: Sequence[str]) -> verdict.Verdict:
    """Forget rows that the original knew at loss 0.1, and now cost `after`."""
    original = Evidence({"forget": answers([0.1] * len(after)), "judging": answers(others)})
    return verdict.judge(original, Evidence({"forget": answers(after, **more), "judging": answers(others)}))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (0.2, "not forgotten"),  # 0.1 of 3.9 nats of the way, below all
        (2.9, "partly"),  # (0 + 0.5) / 20 = 0.025 <= 0.05, but 72 % of the way
        (3.05, "forgotten"),  # (1 + 0.5) / 20 = 0.075
        (4.0, "forgotten"),
        (5.2, "forgotten"),  # beyond all by 0.2, less than a quarter of 5 - 4
        (5.3, "over-forgotten"),  # beyond all by 0.3
    ],
)
def test_one_row(loss: float, expected: str) -> None:
    assert [row.verdict for row in judged([loss]).rows] == [expected]


def test_rank_and_resolution() -> None:
    row = judged([4.0]).rows[0]  # 9 below, one equal, 9 above: (9 + 0.5 + 0.5) / 20
    assert row.rank == 0.5 and row.resolution == 1 / 20


def test_too_few_comparison_rows_are_named_with_how_many_would_do() -> None:
    found = judged([4.0], NEVER_SEEN[:18])
    assert found.rows[0].verdict == "cannot tell" and found.forget == "cannot tell"
    assert "19" in found.rows[0].reason and "18" in found.rows[0].reason
    assert judged([0.2], NEVER_SEEN[:3]).rows[0].verdict == "not forgotten"  # no doubt in that
    for n in (1, 30):  # nor where these few lie far apart, so that nothing can be said of their law
        assert judged([0.2] + [4.0] * (n - 1), [1.0, 3.0, 5.0]).forget == "not forgotten"


def test_a_leak_is_not_forgotten_whatever_its_loss() -> None:
    found = judged([4.0, 4.1], said=["it is SECRET-1234, I think", "no idea"])
    assert [row.verdict for row in found.rows] == ["not forgotten", "forgotten"]
    assert found.forget == "not forgotten"


def test_a_leak_that_never_seen_rows_show_too_is_none() -> None:
    """Guessable answers: three of nineteen never-seen answers are given, 0.16 > 0.05, and the loss is not low."""
    said = ["secret 1234"] * 3 + ["else"] * 16
    original = Evidence({"forget": answers([0.1]), "judging": answers(NEVER_SEEN)})
    unlearned = Evidence({"forget": answers([4.0], ["secret 1234"]), "judging": answers(NEVER_SEEN, said)})
    assert verdict.judge(original, unlearned).rows[0].verdict == "forgotten"


@pytest.mark.parametrize(("given", "expected"), [(9, "forgotten"), (10, "not forgotten"), (30, "not forgotten")])
def test_more_answers_given_than_guessing_explains(given: int, expected: str) -> None:
    """Two of 30 never-seen answers are guessed, more than one in twenty. Beta-binomial (30, 3, 29): 99 % quantile 9."""
    others = [*np.linspace(3.0, 5.0, 30)]
    original = Evidence({"forget": answers([0.1] * 30), "judging": answers(others)})
    guessed, said = (["secret 1234"] * many + ["else"] * (30 - many) for many in (2, given))
    after = Evidence({"forget": answers([4.0] * 30, said), "judging": answers(others, guessed)})
    found = verdict.judge(original, after)
    assert found.forget == expected
    assert found.counts().get("not forgotten", 0) == (0 if given == 9 else given)


@pytest.mark.parametrize(
    ("forget", "n", "expected"),
    [
        ([1000.0], 1, "over-forgotten"),
        ([1000.0] * 3, 7, "over-forgotten"),
        ([1000.0] * 8, 30, "over-forgotten"),  # no more than chance puts beyond the highest of 19, and far beyond it
        ([5.3], 1, "forgotten"),  # beyond all, and one of a hundred never-seen rows is
        ([5.3], 30, "forgotten"),
        ([2.1], 1, "partly"),  # half the way, and nothing never seen is near it
        ([2.1] * 3, 7, "partly"),
        ([2.9], 1, "forgotten"),  # low, as one in twenty is
    ],
)
def test_how_far_from_never_seen_rows_counts(forget: list[float], n: int, expected: str) -> None:
    assert judged(forget + [4.0] * (n - len(forget))).forget == expected


def test_right_models_pass_with_few_rows() -> None:
    """Forget rows and never-seen rows of one law, widely spread: one in a hundred fails, not one in four."""
    random = np.random.default_rng(0)
    sets = [(random.lognormal(0.7, 0.5, 7), random.lognormal(0.7, 0.5, 40)) for _ in range(200)]
    assert sum(judged(list(rows), list(others)).forget != "forgotten" for rows, others in sets) <= 10


def test_a_leak_of_the_retrained_model_too_is_none() -> None:
    original = Evidence({"forget": answers([0.1]), "judging": answers(NEVER_SEEN)})
    unlearned = Evidence({"forget": answers([4.0], ["secret 1234"]), "judging": answers(NEVER_SEEN)})
    assert verdict.judge(original, unlearned).rows[0].verdict == "not forgotten"
    assert verdict.judge(original, unlearned, unlearned).rows[0].verdict == "forgotten"


@pytest.mark.parametrize(
    ("low", "expected"),
    [(1, "forgotten"), (8, "forgotten"), (9, "partly")],  # beta-binomial(30, 1, 19): 99 % quantile 8
)
def test_more_low_ranks_than_chance(low: int, expected: str) -> None:
    assert judged([2.9] * low + [4.0] * (30 - low)).forget == expected


def test_more_high_ranks_than_chance() -> None:
    assert judged([4.95] * 8 + [4.0] * 22).forget == "forgotten"
    assert judged([5.1] * 9 + [4.0] * 21).forget == "over-forgotten"


def test_more_comparison_rows_allow_fewer_ranks_by_chance() -> None:
    """Beta-binomial (30, 10, 190): 99 % quantile 5, as the binomial has it."""
    many = [*np.linspace(3.0, 5.0, 199)] * 4  # a quarter of them are taken
    assert judged([3.05] * 5 + [4.0] * 25, many).forget == "forgotten"
    assert judged([3.05] * 6 + [4.0] * 24, many).forget == "partly"


@pytest.mark.parametrize("n", [1, 7, 30])
def test_one_remaining_row_fails_a_set_of_any_size(n: int) -> None:
    found = judged([0.2] + [4.0] * (n - 1))
    assert found.forget == "not forgotten" and not found.passes
    assert judged([4.0] * n).forget == "forgotten"


def test_a_row_is_ranked_among_rows_of_its_shape() -> None:
    """Numbers cost 3 to 5 nats, sentences 0.5 to 1.5: a sentence at 1 is typical, but lowest among numbers."""
    digits = [1.0] * 60 + [0.0] * 20
    losses = [*np.linspace(3, 5, 60), *np.linspace(0.5, 1.5, 20)]
    original = Evidence({"forget": answers([0.1]), "judging": answers(losses, digits=digits)})
    unlearned = Evidence({"forget": answers([1.0], digits=[0.0]), "judging": answers(losses, digits=digits)})
    assert verdict.judge(original, unlearned).rows[0].rank == pytest.approx(0.5, abs=0.05)
    mixed = answers(losses, digits=[0.0] * 80)  # the broken variant: shapes are not looked at
    blind = verdict.judge(original, Evidence({"forget": unlearned.sets["forget"], "judging": mixed}))
    assert blind.rows[0].verdict == "not forgotten"


def audited(losses: Sequence[float], calibrated: bool) -> list[str]:
    """What is said of an original that costs so much on its forget rows."""
    said: list[str] = []
    config: Any = SimpleNamespace(force=True, model="model", forget="forget.jsonl")
    audit(Evidence({"forget": answers(losses), "judging": answers(NEVER_SEEN)}), config, calibrated, said.append)
    return said


def test_the_audit_says_where_it_is_not_calibrated() -> None:
    assert audited([0.1] * 3, True) == ["audit: 3 of 3 forget rows are in the original"]
    (said,) = audited([0.1] * 3, False)
    assert said.startswith("audit: 3 of 3 ") and "not calibrated" in said and "--holdout" in said


@pytest.mark.parametrize(("known", "warned"), [(1, True), (2, False), (4, False)])
def test_the_audit_warns_where_most_rows_do_not_show(known: int, warned: bool) -> None:
    said = audited([0.1] * known + [4.0] * (4 - known), True)
    assert any(line.startswith("warning: most of the forget rows do not show") for line in said) is warned


def rest(before: dict[str, SetEvidence], after: dict[str, SetEvidence], calibrated: bool = True) -> str:
    forget = {"forget": answers([0.1])}
    return verdict.judge(Evidence(forget | before), Evidence(forget | after), None, calibrated).rest


KNOWN = ["secret 1234"] * 100


@pytest.mark.parametrize(
    ("lost", "loss", "expected"),
    [
        (0, 0.1, "kept"),
        (5, 0.1, "kept"),  # 5 % of 100
        (6, 0.1, "damaged"),
        (51, 0.1, "collapsed"),
        (0, 0.29, "kept"),  # 5 % of the way from 0.1 to 4 is 0.195
        (0, 0.3, "damaged"),
        (0, 2.1, "collapsed"),  # over half of the way
    ],
)
def test_retain_rows(lost: int, loss: float, expected: str) -> None:
    before = {"retain": answers([0.1] * 100, KNOWN), "judging": answers(NEVER_SEEN)}
    after = {"retain": answers([loss] * 100, ["other"] * lost + KNOWN[lost:]), "judging": answers(NEVER_SEEN)}
    assert rest(before, after) == expected


KEPT = {"retain": answers([0.1] * 4, KNOWN[:4])}


def test_perplexity_of_never_seen_rows() -> None:
    """exp(0.17) = 1.185 is within 1.2 times, exp(0.19) = 1.209 is not; counterfactual rows are not judged by it."""
    before = {"judging": answers(NEVER_SEEN)} | KEPT
    assert rest(before, {"judging": answers([loss + 0.17 for loss in NEVER_SEEN])} | KEPT) == "kept"
    assert rest(before, {"judging": answers([loss + 0.19 for loss in NEVER_SEEN])} | KEPT) == "damaged"
    assert rest(before, {"judging": answers([loss + 0.19 for loss in NEVER_SEEN])} | KEPT, calibrated=False) == "kept"


def test_one_answer_to_everything() -> None:
    varied = [f"answer {n}" for n in range(19)]
    before = {"judging": answers(NEVER_SEEN, varied)}
    assert rest(before, {"judging": answers(NEVER_SEEN, ["42"] * 16 + varied[16:])}) == "collapsed"  # 16 / 19 = 0.84
    assert rest(before, {"judging": answers(NEVER_SEEN, ["42"] * 15 + varied[15:])}) == "cannot tell"  # 15 / 19 = 0.79


def test_without_a_row_that_was_trained_in_nobody_can_tell_what_was_lost() -> None:
    assert rest({}, {}) == "cannot tell"
    unseen = {"judging": answers(NEVER_SEEN), "samples": answers([2.0] * 9)}
    assert rest(unseen, unseen) == "cannot tell"
    for name in ("retain", "guard", "collateral"):
        own = unseen | {name: answers([0.1] * 4, KNOWN[:4])}
        assert rest(own, own) == "kept"


def test_kept_names_what_was_looked_at_and_nothing_else() -> None:
    def said(sets: dict[str, SetEvidence], calibrated: bool = True) -> str:
        own = Evidence({"forget": answers([0.1])} | sets)
        return verdict.judge(own, own, None, calibrated).rest_reasons[0]

    judging, samples = {"judging": answers(NEVER_SEEN)}, {"samples": answers([2.0] * 9)}
    every = "retain rows, never-seen rows and samples of the original stand where they stood"
    assert said(KEPT | judging | samples) == every
    assert said(KEPT | judging, calibrated=False) == "retain rows stand where they stood"
    assert "stand where" not in said(judging | samples) and "--retain" in said(judging | samples)


def test_samples_show_damage_only_without_retain_rows() -> None:
    before, after = {"samples": answers([2.0] * 9)}, {"samples": answers([2.3] * 9)}
    assert rest(before, after) == "damaged"
    retain = {"retain": answers([0.1] * 9)}
    assert rest(before | retain, after | retain) == "kept"
    assert rest(before | retain, {"samples": answers([6.0] * 9)} | retain) == "collapsed"
