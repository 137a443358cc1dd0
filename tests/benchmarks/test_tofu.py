"""TOFU's official scores from evidence by hand, what they hide, its rows and files, and a whole run on tiny models."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec import UNSET
from scipy.stats import hmean

import expunge
from expunge.benchmark import Circumstances, Missing, Official
from expunge.benchmarks import tofu
from expunge.benchmarks.tofu import CLOSER, DISTANCE, LEAK, MEMBERS, MEMORISED, QUALITY, STRENGTH, UTILITY, Tofu
from expunge.comparison import columns
from expunge.config.commands import Unlearn
from expunge.data.files import beside, records
from expunge.data.rows import Row, read
from expunge.errors import InputError
from expunge.intake.sets import read_sets
from expunge.scoring import intervals
from expunge.scoring.evidence import Evidence, OtherAnswers, SetEvidence
from expunge.scoring.intervals import Score
from problems import write_model
from recorded import tokens_of

LOG2 = float(np.log(2))


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 50)


def rows(true: float, wrong: float, said: str = "a b c d", count: int = 20, shift: float = 0.0) -> SetEvidence:
    """Answers with losses near `true`, a paraphrase of the same, three wrong ones near `wrong`; "a b c d" is asked."""
    losses = np.maximum(true + shift * np.arange(count), 1e-9)
    tokens = tokens_of(losses, np.full(count, 4.0))
    likeliest = np.full(4 * count, float(true < 1))
    nothing = np.zeros((count, 2))
    return SetEvidence(
        ("answer",) * count, ("",) * count, losses, np.full(count, 5.0), np.repeat(losses, 5), ("a b c d",) * count,
        (said,) * count, nothing, others=OtherAnswers(losses[:, None], np.full((count, 3), wrong)),
        tokens=replace(tokens, likeliest=likeliest),
    )  # fmt: skip


def model(forget: SetEvidence, retain: SetEvidence, judging: SetEvidence | None = None) -> Evidence:
    own = dict.fromkeys(Tofu.own_sets, retain)
    return Evidence({"forget": forget, "judging": judging or rows(3.0, 3.0, "x", shift=0.01)} | own)


KNOWN, NEVER_SEEN = rows(0.1, 3.0, shift=0.01), rows(3.0, 3.0, "x", shift=0.01)
ORIGINAL, RETRAINED = model(KNOWN, KNOWN), model(NEVER_SEEN, KNOWN)
FORGOTTEN = model(rows(3.0, 3.0, "x", shift=0.0101), KNOWN)
COLLAPSED = {
    "uniform": model(rows(5.5, 5.5, ""), rows(5.5, 5.5, ""), rows(5.5, 5.5, "")),
    "no probability for anything": model(rows(900.0, 900.0, ""), rows(900.0, 900.0, ""), rows(900.0, 900.0, "")),
    "one word": model(rows(20.0, 19.0, "the the"), rows(20.0, 19.0, "the the"), rows(20.0, 19.0, "the the")),
    "the retrained model's forget rows, and nothing else": model(NEVER_SEEN, rows(9.0, 9.0, "")),
}
HERE = Circumstances(retrained=RETRAINED)


def value(official: Official, name: str) -> float:
    found = {**official.parts, **official.terms, **official.beside}[name]
    assert isinstance(found, Score), (name, found)
    return found.value


def test_official_scores_by_hand() -> None:
    """All rows alike: probability 1/2, wrong answers 1/8 each, 2 of 4 words, members' losses log 2 below others'."""
    one = rows(LOG2, 3 * LOG2, "b d")
    found = Tofu().official(model(one, one, rows(2 * LOG2, 3 * LOG2)), Circumstances(retrained=model(one, one)))
    options = (1 / 2) / (1 / 2 + 3 / 8)
    truth = 1 - (1 / 8) / (1 / 2)
    wanted = {
        "probability (retain)": 1 / 2,
        "probability (real authors)": options,
        "probability (world facts)": options,
    }
    for name in ("retain", "real authors", "world facts"):
        wanted |= {f"ROUGE-L recall ({name})": 1 / 2, f"truth ratio ({name})": truth}
    assert {name: value(found, name) for name in found.terms} == pytest.approx(wanted)
    assert value(found, UTILITY) == pytest.approx(hmean(list(wanted.values())))
    assert value(found, QUALITY) == 1 and value(found, DISTANCE) == 0
    assert value(found, CLOSER) == pytest.approx(1 / 4) and value(found, "probability (forget)") == pytest.approx(1 / 2)
    assert value(found, "truth ratio true / (true + wrong), forget rows") == pytest.approx(4 / 5)
    assert value(found, STRENGTH) == value(found, MEMORISED) == 1
    assert value(found, MEMBERS) == value(found, "AUC (loss)") == 1
    # the retrained model's AUC is 1 too: of nothing no share can be taken
    assert isinstance(found.beside[LEAK], Missing)
    behind = Tofu().behind(model(one, one), HERE)
    assert len(behind) == 9 + 2 + 5 + 2 and all(len(values) == 20 for values in behind.values())


def test_privleak_by_hand() -> None:
    """AUC 1 against 1/2: 100 ((1 - 1) - 1/2) / (1/2) = -100; and the other way, 100 (1 - 1/2) / (1/2)."""
    even = model(rows(2.0, 3.0), KNOWN, rows(2.0, 3.0))
    for members, leak in ((1.0, -100.0), (3.0, 100.0), (2.0, 0.0)):
        one = model(rows(members, 3.0), KNOWN, rows(2.0, 3.0))
        assert value(Tofu().official(one, Circumstances(retrained=even)), LEAK) == pytest.approx(leak)
        assert value(Tofu().official(one, Circumstances()), LEAK) == pytest.approx(leak)  # 0.5 without one


def test_forget_quality_tells_the_original_from_the_retrained_model() -> None:
    assert value(Tofu().official(RETRAINED, HERE), QUALITY) == 1
    assert value(Tofu().official(FORGOTTEN, HERE), QUALITY) > 0.9
    found = Tofu().official(ORIGINAL, HERE)
    assert value(found, QUALITY) < 1e-9 and value(found, DISTANCE) == 1
    assert any("0.43 on" in note for note in found.notes)  # 1.3581 sqrt(2 / 20)


def test_missing_never_zero() -> None:
    found = Tofu().official(
        Evidence({"forget": replace(KNOWN, others=None, tokens=None)}), Circumstances(holdout=False)
    )
    every = {**found.parts, **found.terms, **found.beside}
    assert {name for name, one in every.items() if isinstance(one, Score)} == {
        "probability (forget)",
        "ROUGE-L recall (forget)",
    }
    reasons = {name: one.reason for name, one in every.items() if isinstance(one, Missing)}
    assert "_perturbed" in reasons[CLOSER] and "_perturbed" in reasons[QUALITY]
    whole = Tofu().official(ORIGINAL, Circumstances()).parts[QUALITY]
    assert isinstance(whole, Missing) and "--retrained" in whole.reason
    assert "--holdout" in reasons[MEMBERS] and "no real authors rows" in reasons[UTILITY]
    nan = model(*[replace(KNOWN, loss=np.full(20, np.nan))] * 2)
    broken = Tofu().official(nan, Circumstances(retrained=nan))
    assert all(isinstance(broken.parts[name], Missing) for name in (QUALITY, UTILITY))


def test_a_log_of_other_forget_rows_is_not_compared_with() -> None:
    """The test cannot see that the questions are others: retrained models of different splits have p = 0.9."""
    for count, fits in ((20, True), (19, False), (300, False)):
        log = tofu.figures_of(model(rows(3.0, 3.0, count=count), KNOWN), True)
        found = Tofu().official(FORGOTTEN, Circumstances(log=log)).parts[QUALITY]
        assert isinstance(found, Score) == fits
        assert fits or (isinstance(found, Missing) and f"has {count} forget rows and this run 20" in found.reason)


def check_said(unlearned: Evidence, flags: Any) -> None:
    """A collapsed model: the word for it, and each score that would be praised is named beside it."""
    for original in (None, Tofu().official(ORIGINAL, HERE)):
        found = Tofu().official(unlearned, HERE)
        said = [flag for flag in flags(found, original, [Tofu().official(RETRAINED, HERE)]) if "collapsed" in flag]
        assert len(said) == 1
        every = {**found.parts, **found.beside}
        for name, (low, high) in tofu.GOOD.items():
            one = every[name]
            assert not isinstance(one, Score) or not low <= one.value <= high or name in said[0]
        assert value(found, UTILITY) < 0.3


@pytest.mark.parametrize("case", COLLAPSED)
def test_no_collapsed_model_looks_good_without_the_word(case: str) -> None:
    check_said(COLLAPSED[case], Tofu().flags)


@pytest.mark.parametrize("case", ["uniform", "the retrained model's forget rows, and nothing else"])
def test_collapse_check_rejects(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        check_said(COLLAPSED[case], lambda *officials: [])
    monkeypatch.setattr(tofu, "_lucky", lambda unlearned: "")
    with pytest.raises(AssertionError):
        check_said(COLLAPSED[case], Tofu().flags)


def test_flags() -> None:
    original, twin = Tofu().official(ORIGINAL, HERE), Tofu().official(RETRAINED, HERE)
    assert Tofu().flags(Tofu().official(FORGOTTEN, HERE), original, [twin]) == []
    assert "nothing done" in Tofu().flags(original, original, [twin])[0]
    past = Tofu().official(model(rows(6.0, 3.0, "", shift=0.01), KNOWN), HERE)
    assert any(
        "over-forgets: past the retrained model in probability (forget)" in one
        for one in Tofu().flags(past, original, [twin])
    )
    zero = Tofu().official(model(NEVER_SEEN, rows(0.5, 0.1)), HERE)
    assert "truth ratio (retain)" in Tofu().flags(zero, None, [])[0] and value(zero, UTILITY) == 0


def test_columns_of_a_comparison() -> None:
    groups, scores = columns.read_official(Tofu().official(ORIGINAL, HERE))
    found = {one.label: one for one in columns.shown([SimpleNamespace(model="x", official=groups, scores=scores)])}
    assert found[LEAK].range is None and found[UTILITY].range == (0.0, 1.0)
    assert found["probability (forget)"].better == "lower" and found["truth ratio (retain)"].better == "higher"


# Rows and files


def test_rows() -> None:
    plain = {"question": "Who?", "answer": "Ada"}
    made = Tofu().make_row("f.json", 3, plain)
    assert made == Row("f.json", 3, "answer", "Who?", "Ada")
    whole = plain | {
        "paraphrased_answer": "It is Ada",
        "perturbed_answer": ["Bea", "Cleo"],
        "paraphrased_question": "?",
    }
    assert Tofu().make_row("f.json", 3, whole) == replace(made, paraphrased=("It is Ada",), perturbed=("Bea", "Cleo"))
    assert Tofu().make_row("f.json", 3, plain | {"option1": "Ada", "option2": "Bea"}) == made


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (["a"], "expected an object with columns question, answer"),
        ({"question": "a"}, "lacks answer. TOFU's are question, answer and optionally"),
        ({"prompt": "a", "completion": "b"}, "lacks question, answer.*leave out --benchmark tofu"),
        ({"question": "a", "answer": "b", "id": "3"}, "has columns that TOFU does not have"),
        ({"question": "a", "answer": " "}, "column 'answer' is empty"),
        ({"question": "a", "answer": "b", "perturbed_answer": "c"}, "must be a list of texts, found str"),
        ({"question": "a", "answer": "b", "perturbed_answer": [3]}, "'perturbed_answer' must be text, found int"),
        ({"question": "a", "answer": "b", "paraphrased_answer": None}, "'paraphrased_answer' must be text"),
    ],
)
def test_wrong_rows_are_refused(record: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"f.json, line 3: .*{message}"):
        Tofu().make_row("f.json", 3, record)


def test_json_lines_in_a_json_file(tmp_path: Path) -> None:
    """As the benchmark publishes its files."""
    file = tmp_path / "forget.json"
    file.write_text('{"question": "a", "answer": "b"}\n\n{"question": "c", "answer": "d"}\n')
    assert [line for line, _ in records(str(file), "forget")] == [1, 3]
    file.write_text('{"question": "a", "answer": "b"}\n{"question": \n')
    with pytest.raises(InputError, match=r"forget.json, line 2: .*Each line must be one JSON object"):
        list(records(str(file), "forget"))
    file.write_text("3\n")
    with pytest.raises(InputError, match="expected a JSON array"):
        list(records(str(file), "forget"))


def test_own_sets_lie_beside_the_forget_rows() -> None:
    assert beside("tofu/forget01_perturbed.json", "real_authors_perturbed") == "tofu/real_authors_perturbed.json"
    assert beside("hub:locuslab/TOFU/forget01_perturbed:train", "x") == "hub:locuslab/TOFU/x:train"
    assert beside("hub:locuslab/TOFU/forget01_perturbed", "x") == "hub:locuslab/TOFU/x"
    with pytest.raises(InputError, match="owner/name/config:split"):
        beside("hub:locuslab/TOFU:train", "x")


def write_layout(folder: Path) -> Path:
    """A little folder of the original layout, as JSON lines: six authors with two questions each."""

    def asked(name: str, place: int, others: bool) -> dict[str, Any]:
        found: dict[str, Any] = {"question": f"{name} {place}?", "answer": f"{name} lives in town {place}."}
        if others:
            found |= {"paraphrased_answer": f"In town {place}.", "perturbed_answer": [f"In town {n}." for n in "xyz"]}
        return found

    files = {
        "forget01_perturbed": [asked("Ada", n, True) for n in range(4)],
        "retain99": [asked("Bea", n, False) for n in range(6)],
        "holdout01": [asked("Cleo", n, False) for n in range(8)],
        "retain_perturbed": [asked("Bea", n, True) for n in range(3)],
        "real_authors_perturbed": [asked("Real", n, True) for n in range(3)],
        "world_facts_perturbed": [asked("World", n, True) for n in range(3)],
    }
    for name, rows in files.items():
        (folder / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


PUBLISHED = Path(os.environ.get("EXPUNGE_DATA") or Path(__file__).parents[3] / "shared" / "data") / "tofu"


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the benchmark's files are not here; a little layout is read below")
def test_the_published_files_are_read() -> None:
    for split, count in (("01", 40), ("05", 200), ("10", 400)):
        found = read_sets(Unlearn(benchmark="tofu", forget=str(PUBLISHED / f"forget{split}_perturbed.json")))
        sizes = {name: len(one) for name, one in found.items()}
        assert sizes == {"forget": count, "retain_perturbed": 400, "real_authors": 100, "world_facts": 117}
        wrong = {name: {len(row.perturbed) for row in one.rows} for name, one in found.items()}
        assert wrong == {"forget": {5}, "retain_perturbed": {5}, "real_authors": {3}, "world_facts": {3}}
        assert all(len(row.paraphrased) == 1 for name in ("forget", "retain_perturbed") for row in found[name].rows)
    assert len(read(PUBLISHED / "full.json", "train", Tofu().make_row)) == 4000


GIVEN = {"forget": "forget01_perturbed.json", "retain": "retain99.json", "holdout": "holdout01.json"}


def test_a_folder_that_lacks_a_file_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    folder = write_layout(tmp_path)
    write_model(folder / "model", width=16, layers=1)
    (folder / "world_facts_perturbed.json").unlink()
    asked = {"model": str(folder / "model"), "data_root": str(folder), "benchmark": "tofu", **GIVEN}
    with pytest.raises(
        InputError, match=r"world_facts_perturbed.json: the benchmark's own world_facts file does not exist"
    ):
        expunge.plan(**asked)
    (folder / "log.json").write_text("{}")
    with pytest.raises(InputError, match=r"takes no scores of other tools\. Leave out --retrained-log"):
        given = {"benchmark": "rows", "retrained_log": str(folder / "log.json"), "forget": "retain99.json"}
        model = {"unlearned": asked["model"], "output": str(folder / "out"), "retain": None}
        expunge.evaluate(**asked | given | model)


def test_a_whole_run(tmp_path: Path) -> None:
    """Three models that learnt nothing: every score is there, files drop into other tools' tables, no text is left."""
    folder = write_layout(tmp_path)
    for seed, name in enumerate(("original", "unlearned", "retrained")):
        write_model(folder / name, width=16, layers=1, seed=seed)
    asked = {"model": str(folder / "original"), "data_root": str(folder), "benchmark": "tofu", **GIVEN}
    asked |= {"unlearned": str(folder / "unlearned"), "device": "cpu"}
    run = expunge.evaluate(retrained=str(folder / "retrained"), output=str(folder / "out"), **asked)
    models = run.record.benchmark.models
    assert list(models) == ["original", "unlearned", "retrained"]
    for found in models.values():
        assert all(one.missing is UNSET for group in (found.parts, found.terms) for one in group.values())
        assert found.terms["ROUGE-L recall (world facts)"].count == 3
    assert models["retrained"].parts[QUALITY].value == 1 and models["retrained"].beside[DISTANCE].value == 0
    page = run.report.read_text(encoding="utf-8")
    assert "The nine terms of model utility" in page and "task aggregate" not in page
    scores = {(one.metric, one.set, one.model) for one in run.record.scores}
    assert {("truth_ratio", "forget", "unlearned"), ("min_k_plus_plus", "forget", "original")} <= scores
    written = run.output / "tofu" / "retrained" / "TOFU_EVAL.json"
    content = json.loads(written.read_text())
    assert (
        content["forget_quality"]["agg_value"] == 1
        and len(content["ra_Q_A_PERT_Prob"]["value_by_index"]["2"]["prob"]) == 3
    )
    assert "lives in" not in "".join(
        file.read_text(errors="replace") for file in run.output.rglob("*") if file.is_file()
    )
    assert str(Path("tofu", "unlearned", "TOFU_SUMMARY.json")) in run.record.files
    # the retrained model by its scores alone: the same forget quality
    again = expunge.evaluate(retrained_log=str(written), output=str(folder / "again"), **asked)
    one, other = (done.record.benchmark.models["unlearned"] for done in (run, again))
    assert one.parts == other.parts and one.beside[LEAK].value == pytest.approx(other.beside[LEAK].value)
