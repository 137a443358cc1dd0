"""Words for what attacks show: by figure, by setting, by attack, and in the verdict."""

from typing import Any

import numpy as np
import pytest

from expunge.attack import Reading
from expunge.attacks.context import Context
from expunge.attacks.rounding import Rounding
from expunge.attacks.sampling import Sampling
from expunge.evaluation import models, under_attack
from expunge.evaluation.under_attack import Side, compared, worst
from expunge.reporting import finding
from expunge.reporting.finding import Attacks, Comparison, Figure, Interval, Level, Setting, Verdict, Word
from expunge.runs.checkpoint import Checkpoints
from expunge.scoring.evidence import Evidence, SetEvidence
from expunge.scoring.seen import Seen

COUNT = 30


def seen(loss: float, known: float, spread: float = 0.3, count: int = COUNT) -> Seen:
    """Rows around a loss, of which that share is given back."""
    around = np.linspace(-spread, spread, count)
    return Seen(("answer",) * count, loss + around, (np.arange(count) < known * count).astype(float))


ORIGINAL, RETRAINED = seen(0.1, 1.0), seen(5.1, 0.0)


def word(unlearned: Seen, figure: Any, other: Seen = RETRAINED, original: Seen = ORIGINAL, attack: Any = None) -> Any:
    return compared(Side(unlearned, original, other, "judging"), figure, attack or Rounding())


@pytest.mark.parametrize(
    ("loss", "expected"),  # the way is 5 nats, so the margin 1
    [(5.1, "forgotten"), (9.0, "forgotten"), (4.3, "forgotten"), (4.1, "cannot tell"), (3.0, "comes back")],
)
def test_losses(loss: float, expected: str) -> None:
    found = word(seen(loss, 0.0), "loss")
    assert (found.word, found.silent) == (expected, "") and found.margin == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("known", "expected"), [(0.0, "forgotten"), (0.1, "cannot tell"), (0.4, "comes back"), (1.0, "comes back")]
)
def test_given_back(known: float, expected: str) -> None:
    assert word(seen(5.1, known), "known").word == expected


def test_a_figure_that_the_original_does_not_show_is_silent() -> None:
    """Rounding broke the model, or the rows were never in it: then it tells nothing, whatever the other says."""
    for figure in ("loss", "known"):
        found = word(seen(5.1, 0.0), figure, original=seen(5.0, 0.03))
        assert found.word == "cannot tell" and found.silent
    assert word(seen(5.1, 0.0, count=1), "loss").silent == "fewer than two rows were asked"


def test_what_is_no_number_is_no_evidence() -> None:
    assert word(seen(float("inf"), 0.0), "loss").word == "cannot tell"


@pytest.mark.parametrize(
    ("mine", "other", "expected"),
    [(1.0, 1.0, "used"), (0.9, 1.0, "cannot tell"), (0.0, 1.0, "not used"), (0.0, 0.0, "cannot tell")],
)
def test_used(mine: float, other: float, expected: str) -> None:
    found = word(seen(1.0, mine), "known", other=seen(1.0, other), attack=Context())
    assert found.word == expected and bool(found.silent) == (other == 0)


def test_the_worst_word_counts() -> None:
    assert worst(["forgotten", "cannot tell"]) == "cannot tell"  # what could not be told is not forgotten
    assert worst(["cannot tell", "comes back", "forgotten"]) == "comes back"
    assert worst(["used", "not used"]) == "not used" and worst([]) == "cannot tell"


VERDICT = Verdict(True, "All is well.", "forgotten", ("a",), "kept", ("b",), {}, Comparison("holdout", True, 0, 9))


def block(word: Word, level: Level = "full") -> Attacks:
    """The record's block with one attack, under which the figure lies so."""
    figure = Figure("known", word, "", 0.1, Interval(0.5, 0.4, 0.6, 30))
    setting = Setting("4 bits", word, "retrained", (figure,), {}, ())
    result = finding.Attack("rounding", "rounding", "What if?", "forgotten", word, (setting,))
    return Attacks(level, {}, (result,) if level != "quick" else (), {"probe": "a probe"})


def test_rows_that_come_back_do_not_pass() -> None:
    found = under_attack.weighed(VERDICT, block("comes back"))
    assert not found.passes and found.forget == "partly" and found.rest == "kept"
    assert found.sentence == "All is well. Under attack: comes back under: rounding; not tested: a probe."
    assert found.forget_reasons == (
        "comes back under rounding (4 bits): share of rows given back differs from that of the retrained model by "
        "+0.50 (+0.40 to +0.60), margin 0.10",
        "a",
    )


def test_a_model_that_cannot_read_is_damaged() -> None:
    found = under_attack.weighed(VERDICT, block("not used"))
    assert not found.passes and found.rest == "damaged" and found.forget == "forgotten"


@pytest.mark.parametrize(
    ("word", "said"), [("forgotten", "forgotten also under: rounding"), ("cannot tell", "cannot tell under: rounding")]
)
def test_what_is_forgotten_passes_and_what_cannot_be_told_is_said(word: Word, said: str) -> None:
    found = under_attack.weighed(VERDICT, block(word))
    assert found.passes and said in found.sentence and found.forget_reasons == ("a",)


def test_quick_is_as_before() -> None:
    assert under_attack.weighed(VERDICT, block("forgotten", "quick")) == VERDICT
    assert "not tried: a probe" in under_attack.limit(block("forgotten", "quick"))


def test_an_interrupted_run_goes_on_with_what_was_read(tmp_path: Any) -> None:
    readings = {"rounding": [Reading("4 bits", {"forget": seen(1.0, 0.5)})]}
    Checkpoints(tmp_path, models.KEPT).save("unlearned", {"attacked": readings})
    found = Checkpoints(tmp_path, models.KEPT).load("unlearned")["attacked"]["rounding"][0]
    assert found.setting == "4 bits" and np.array_equal(found.seen["forget"].loss, seen(1.0, 0.5).loss)


def test_answers_alone_show_what_comes_back_and_not_what_is_forgotten() -> None:
    none = np.full(COUNT, np.nan)
    for known, word in ((0.0, "cannot tell"), (1.0, "comes back")):
        read = Seen(("answer",) * COUNT, none, seen(0.0, known).known)
        readings = {"unlearned": {"sampling": [Reading("ten tries", {"forget": read, "judging": seen(5.0, 0.0)})]}}
        written = {"forget": ORIGINAL, "judging": RETRAINED}
        names = [str(number) for number in range(COUNT)]
        by_losses, alone = (
            under_attack.result("sampling", Sampling(), readings, written, names, blind) for blind in (False, True)
        )
        assert by_losses.verdict == ("forgotten" if known == 0 else word) and alone.verdict == word


def test_what_needs_weights_is_not_tested_and_says_so() -> None:
    rows = {"forget": no_rows(), "judging": no_rows()}
    evidence = {"original": Evidence(rows), "unlearned": Evidence(rows)}
    missing = under_attack.block("quick", {}, evidence, [], weights=False).not_tested
    assert missing["rounding"] == "rounding (needs the weights)" and missing["sampling"] == "sampling"
    assert under_attack.block("quick", {}, evidence, []).not_tested["rounding"] == "rounding"


def no_rows() -> SetEvidence:
    return SetEvidence((), (), np.empty(0), np.empty(0), np.empty(0), (), (), np.empty((0, 2)))
