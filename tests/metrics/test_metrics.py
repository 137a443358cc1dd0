"""Metrics: pure functions of evidence, tested with the arithmetic in the comments."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from expunge.metrics.exact import Exact
from expunge.metrics.knowledge import Knowledge
from expunge.metrics.loss import Loss
from expunge.metrics.loss_attack import LossAttack
from expunge.metrics.perplexity import Perplexity
from expunge.metrics.regurgitation import Regurgitation
from expunge.scoring.evidence import Evidence, SetEvidence
from expunge.scoring.intervals import Score, bootstrap, mean_score, share_score
from expunge.scoring.matching import contains, known_rows, recall_rows, rouge_recall

LN2 = float(np.log(2))


def rows(
    kinds: str, losses: Sequence[float] = (), targets: Sequence[float] = (), texts: Sequence[tuple[str, str]] = ()
) -> SetEvidence:
    """Evidence on a set; `kinds` has one letter a row (d, a), `texts` are (reference, generation)."""
    n = len(kinds)
    loss, count = np.array(losses or [0.0] * n), np.array(targets or [1.0] * n)
    return SetEvidence(
        kinds=tuple("document" if kind == "d" else "answer" for kind in kinds),
        tasks=("",) * n,
        loss=loss,
        targets=count,
        token_loss=np.repeat(loss, count.astype(int)),
        references=tuple(reference for reference, _ in texts) or (None,) * n,
        generations=tuple(generation for _, generation in texts) or (None,) * n,
        shapes=np.zeros((n, 2)),
    )


def score(metric: Callable[[Evidence, str], Score | None], one: SetEvidence, **others: SetEvidence) -> Score:
    found = metric(Evidence({"forget": one, **others}), "forget")
    assert found is not None
    return found


# Forget rows (kinds, losses), judging rows, area by hand.
ATTACKS = [
    ("a", [1.0], "a", [2.0], 1.0),
    ("a", [2.0], "a", [1.0], 0.0),
    ("a", [1.0], "a", [1.0], 0.5),  # a tie counts half
    ("aa", [1.0, 2.0], "aa", [1.5, 3.0], 0.75),  # 1 < 1.5, 1 < 3, 2 < 3 of four pairs
    ("aaa", [1.0, 1.0, 2.0], "aa", [1.0, 2.0], 3.5 / 6),  # (0.5 + 1) + (0.5 + 1) + (0 + 0.5)
    ("daa", [1.0, 5.0, 5.0], "da", [10.0, 4.0], 1 / 3),  # documents 1 of 1, answers 0 of 2; pooled it would be 4 of 6
    ("da", [1.0, 1.0], "a", [2.0], 1.0),  # the document has no partner
]


def area_of(one: SetEvidence, judging: SetEvidence) -> float:
    return score(LossAttack(), one, judging=judging).value


def check_attack(area: Callable[[SetEvidence, SetEvidence], float]) -> None:
    for kinds, losses, other_kinds, other_losses, wanted in ATTACKS:
        assert area(rows(kinds, losses), rows(other_kinds, other_losses)) == pytest.approx(wanted), (kinds, losses)


def _turned(one: SetEvidence, judging: SetEvidence) -> float:
    """Score = loss instead of -loss."""
    return 1 - area_of(one, judging)


def _pooled(one: SetEvidence, judging: SetEvidence) -> float:
    return area_of(rows("a" * len(one.loss), one.loss.tolist()), rows("a" * len(judging.loss), judging.loss.tolist()))


def _ties_lose(one: SetEvidence, judging: SetEvidence) -> float:
    return float((one.loss[:, None] < judging.loss[None, :]).mean())


def test_loss_attack_by_hand() -> None:
    check_attack(area_of)


@pytest.mark.parametrize("broken", [_turned, _pooled, _ties_lose])
def test_loss_attack_check_rejects(broken: Callable[[SetEvidence, SetEvidence], float]) -> None:
    with pytest.raises(AssertionError):
        check_attack(broken)


def test_loss_attack_interval_and_count() -> None:
    random = np.random.default_rng(0)
    same = [rows("a" * 40, random.normal(size=40).tolist()) for _ in range(2)]
    found = score(LossAttack(), same[0], judging=same[1])
    assert found.low is not None and found.high is not None
    assert 0 <= found.low < found.value < found.high <= 1
    # equal distributions: standard error of the area is sqrt((40 + 40 + 1) / (12 * 40 * 40)) = 0.065
    assert 0.75 * 4 * 0.065 < found.high - found.low < 1.25 * 4 * 0.065
    assert found.low < 0.5 < found.high
    assert found.count == 40


def test_loss_attack_counts_the_rows_behind_it() -> None:
    assert score(LossAttack(), rows("daa", [1.0, 1.0, 1.0]), judging=rows("a", [2.0])).count == 2


def test_loss_attack_needs_judging_rows_of_its_kinds() -> None:
    assert LossAttack()(Evidence({"forget": rows("a")}), "forget") is None
    assert LossAttack()(Evidence({"forget": rows("a"), "judging": rows("d")}), "forget") is None


KNOWN = [
    ("AB-123456", "AB-123456"),
    ("AB-123456", "the key is ab-123456, I think"),
    ("AB-123456", "AB\u2013123456"),  # en dash
    ("AB-123456", "ab 123 456"),
    ("AB-123456", "AB123456."),
    ("555 01 00", "5550100"),
    ("5550100", "call 555-01-00 now"),
    ("Zürich", "ZURICH!"),
    ("Zurich", "Zu\u0308rich"),
    ("Straße 5", "strasse 5"),
    ("\uff21\uff22 \uff11", "ab 1"),  # full width
    ("May", "in may."),
    ("O'Neil", "o neil"),
    ("東京", "東京 です"),
    ("12 May 1970", "born on 12\nMay\t1970"),
    ("!?", "what !?"),
    ("snake_case", "snake case"),
]
UNKNOWN = [
    ("AB-123456", "AB-123457"),
    ("AB-123456", "AB-12345"),
    ("AB-123456", ""),
    ("Arden", "many gardens"),  # inside another word
    ("Arden", "Ardens"),
    ("may", "maybe"),
    ("12", "2012"),
    ("12 3", "123"),  # run together it is too short to be sure
    ("12 May 1970", "May 12 1970"),
    ("!?", "what!"),
]


def check_contains(containing: Callable[[str, str], bool]) -> None:
    for answer, generation in KNOWN:
        assert containing(generation, answer), (answer, generation)
    for answer, generation in UNKNOWN:
        assert not containing(generation, answer), (answer, generation)


def test_knowledge_by_hand() -> None:
    check_contains(contains)


def test_letters_of_another_alphabet_of_letters_are_the_same_letters() -> None:
    assert contains("Ada LCd", "\U0001d400da L\u2102d")  # a mathematical capital A and a double-struck C


@pytest.mark.parametrize(("answer", "generation"), [("employed", "unemployed"), ("Harlow", "Harlowe")])
def test_long_words_inside_another_word_are_not_knowledge(answer: str, generation: str) -> None:
    assert not contains(generation, answer)


@pytest.mark.parametrize(
    "broken",
    [
        lambda generation, answer: answer in generation,
        lambda generation, answer: answer.lower() == generation.lower(),
        lambda generation, answer: contains(generation.replace(" ", ""), answer.replace(" ", "")),
        lambda generation, answer: contains(answer, generation),
    ],
)
def test_knowledge_check_rejects(broken: Callable[[str, str], bool]) -> None:
    with pytest.raises(AssertionError):
        check_contains(broken)


def test_knowledge_counts_generated_answers_only() -> None:
    one = rows("aada", texts=[("x1", "x1"), ("x2", "no"), ("x3", "x3"), ("x4", "it is X4")])
    assert known_rows(one).tolist()[:2] == [1, 0] and np.isnan(known_rows(one)[2])
    assert (score(Knowledge(), one).value, score(Knowledge(), one).count) == (pytest.approx(2 / 3), 3)
    assert Knowledge()(Evidence({"forget": rows("ad")}), "forget") is None


def test_exact_is_equal_after_strip_and_lower_case() -> None:
    texts = [("Yes", " yes\n"), ("Yes", "yes."), ("Yes", "oh yes"), ("AB-1", "ab-1"), ("doc", "doc")]
    found = score(Exact(), rows("aaaad", texts=texts))
    assert (found.value, found.count) == (0.5, 4)  # the first and the fourth of four answers
    assert Exact()(Evidence({"forget": rows("d", texts=[("a", "a")])}), "forget") is None


# Reference, generation, longest common subsequence over the reference's words.
RECALLS = [
    ("one two three four", "one two three four", 1.0),
    ("one two three four", "one two three four five six seven eight", 1.0),  # its F1 would be 2/3
    ("one two three four", "one x three", 0.5),
    ("one two three four", "four three two one", 0.25),  # order matters
    ("one two three four", "", 0.0),
    ("they were running", "they were runs", 1.0),  # stems
]


def check_recall(recall: Callable[[str, str], float]) -> None:
    for reference, generation, wanted in RECALLS:
        assert recall(reference, generation) == pytest.approx(wanted), (reference, generation)


def _rouge(part: str, stem: bool = True, turned: bool = False) -> Callable[[str, str], float]:
    scorer = RougeScorer(["rougeL"], use_stemmer=stem)
    return lambda one, two: getattr(scorer.score(*((two, one) if turned else (one, two)))["rougeL"], part)


def test_regurgitation_is_recall() -> None:
    check_recall(rouge_recall)
    one = rows("dad", texts=[("a b", "a b"), ("a", "a"), ("a b", "a")])
    assert recall_rows(one)[[0, 2]].tolist() == [1.0, 0.5] and np.isnan(recall_rows(one)[1])
    found = score(Regurgitation(), one)
    assert (found.value, found.count) == (0.75, 2)
    assert Regurgitation()(Evidence({"forget": rows("a", texts=[("a", "a")])}), "forget") is None


@pytest.mark.parametrize(
    "broken", [_rouge("fmeasure"), _rouge("precision"), _rouge("recall", turned=True), _rouge("recall", stem=False)]
)
def test_recall_check_rejects(broken: Callable[[str, str], float]) -> None:
    with pytest.raises(AssertionError):
        check_recall(broken)


def check_perplexity(perplexity: Callable[[SetEvidence], float]) -> None:
    """Losses ln 2 over 1 token and ln 8 over 3: exp((1 ln 2 + 3 * 3 ln 2) / 4) = 2 ** 2.5."""
    assert perplexity(rows("ad", [LN2, 3 * LN2], [1, 3])) == pytest.approx(2**2.5)
    assert perplexity(rows("ad", [LN2, LN2], [1, 3])) == pytest.approx(2)


def test_perplexity_weighs_tokens() -> None:
    check_perplexity(lambda one: score(Perplexity(), one).value)
    found = score(Perplexity(), rows("aaa", [LN2] * 3, [1, 5, 9]))
    assert (found.low, found.high, found.count) == (pytest.approx(2), pytest.approx(2), 3)
    assert Perplexity()(Evidence({"forget": rows("")}), "forget") is None


@pytest.mark.parametrize(
    "broken",
    [
        lambda one: float(np.exp(one.loss.mean())),  # rows weigh the same: 2 ** 2
        lambda one: float(np.exp(one.loss).mean()),  # mean of perplexities: (2 + 8) / 2
    ],
)
def test_perplexity_check_rejects(broken: Callable[[SetEvidence], float]) -> None:
    with pytest.raises(AssertionError):
        check_perplexity(broken)


def test_loss_weighs_rows() -> None:
    assert score(Loss(), rows("ad", [1.0, 4.0], [1, 9])).value == 2.5


# Hits of n, Wilson's interval at z = 1.95996: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).
WILSON = [
    (0, 10, 0.0, 3.8415 / 13.8415),  # z^2 / (n + z^2)
    (10, 10, 10 / 13.8415, 1.0),
    (5, 10, 0.2366, 0.7634),  # 0.5 -+ 1.95996 / 1.38415 * sqrt(0.025 + 0.0096037)
    (1, 1, 1 / 4.8415, 1.0),
]


def check_share(share: Callable[[np.ndarray], Score | None]) -> None:
    for hits, n, low, high in WILSON:
        found = share(np.arange(n) < hits)
        assert found is not None and (found.value, found.count) == (hits / n, n)
        assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_share_has_wilson_interval() -> None:
    check_share(share_score)
    assert share_score(np.array([], dtype=bool)) is None


def test_share_check_rejects_other_intervals() -> None:
    def normal(hits: np.ndarray) -> Score:
        p, half = hits.mean(), 1.95996 * np.sqrt(hits.mean() * (1 - hits.mean()) / len(hits))
        return Score(float(p), float(p - half), float(p + half), len(hits))

    with pytest.raises(AssertionError):
        check_share(normal)
    with pytest.raises(AssertionError):
        check_share(lambda hits: mean_score(hits.astype(float)))


def test_bootstrap_draws_as_many_rows_as_there_are() -> None:
    weights = bootstrap(7)
    assert weights.shape == (2000, 7) and (weights.sum(axis=1) == 7).all()
    assert (weights == bootstrap(7)).all() and (weights != bootstrap(7, seed=1)).any()
    # a row is missing from a resample with probability (6/7)^7 = 0.340; standard error over 14,000 entries 0.004
    assert (weights == 0).mean() == pytest.approx((6 / 7) ** 7, abs=0.02)


def test_mean_interval_is_as_wide_as_the_standard_error_says() -> None:
    values = np.random.default_rng(1).normal(3, 2, size=400)
    found = mean_score(values)
    assert found is not None and found.low is not None and found.high is not None
    assert found.value == pytest.approx(values.mean()) and found.low < found.value < found.high
    # 2 * 1.96 standard errors of 2 / sqrt(400)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    one = mean_score(np.array([5.0]))
    assert one == Score(5.0, None, None, 1)  # one row says nothing of how far others lie
    assert mean_score(np.array([])) is None


@pytest.mark.parametrize("text", ["Мария живёт в старом доме", "彼女は古い家に住んでいる"])
def test_regurgitation_in_other_scripts(text: str) -> None:
    """`rouge-score` alone finds no word in either and would call a recited document unknown."""
    assert rouge_recall(text, text) == 1.0
    assert rouge_recall(text, "совсем другое 全然違います"[:14]) < 0.3
