"""Official scores of canaries from evidence by hand, candidates on a tiny model, and redaction of what is left."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import expunge
from expunge.benchmark import Circumstances, Missing, Official
from expunge.benchmarks import canaries
from expunge.benchmarks.canaries import FIRST, POOLED, Canaries, others
from expunge.benchmarks.rows import Rows
from expunge.comparison import columns
from expunge.data import secrets
from expunge.data.rows import Row
from expunge.evaluation import evidence
from expunge.model.losses import target_logits
from expunge.problem import Problem
from expunge.scoring.evidence import Candidates, Evidence, SetEvidence
from expunge.scoring.intervals import Score
from oracles import token_nll
from problems import encoded, problem_of, text_model

NAMES = ["Ada Alma", "Bodo Birk", "Cleo Dorn", "Dana Engel", "Egon Falk"]
HERE = Circumstances()


def ranked(place: int, of: int = 8) -> Candidates:
    """A secret with `place` - 1 of the others below it, in a space of `of`."""
    return Candidates(np.array([place - 0.5, *range(1, of)]), float(np.log2(of)))


def evidence_of(tasks: Sequence[str], candidates: Sequence[Candidates | None]) -> SetEvidence:
    n = len(tasks)
    known = {index: one for index, one in enumerate(candidates) if one is not None}
    zeros, nothing = np.zeros(n), (None,) * n
    return SetEvidence(
        ("answer",) * n, tuple(tasks), zeros, zeros + 1, zeros, nothing, nothing, np.zeros((n, 2)), known
    )


FORGET = evidence_of(
    ["code x1", "code x4", "code x4", "email x1", ""], [ranked(8), ranked(1), ranked(2), ranked(4), None]
)
RETAIN = evidence_of(["code x2", ""], [ranked(1), None])


def value(official: Official, name: str) -> float:
    found = {**official.parts, **official.beside}[name]
    assert isinstance(found, Score), found
    return found.value


def test_official_scores_by_hand() -> None:
    """Of 8: ranks 8, 1, 2 and 4 are 0, 3, 2 and 1 bits."""
    found = Canaries().official(
        Evidence({"forget": FORGET, "retain": RETAIN, "guard": RETAIN, "judging": RETAIN}), HERE
    )
    assert value(found, POOLED) == pytest.approx((0 + 3 + 2 + 1) / 4)
    assert value(found, FIRST) == 0.25
    assert value(found, "exposure (forget, code)") == pytest.approx(5 / 3)
    assert value(found, "exposure (forget, email)") == 1
    assert value(found, "exposure (forget, repeated x1)") == pytest.approx((0 + 1) / 2)
    assert value(found, "exposure (forget, repeated x4)") == pytest.approx((3 + 2) / 2)
    retained = found.parts["exposure (retain)"]
    assert isinstance(retained, Score) and (retained.value, retained.count) == (3, 2)  # retain and guard
    behind = Canaries().behind(Evidence({"forget": FORGET}), HERE)
    assert behind[POOLED].tolist() == [0, 3, 2, 1] and behind["exposure (forget, code)"].tolist() == [0, 3, 2]


def test_fitted_scores_are_named_so_and_bad_fits_are_flagged() -> None:
    random = np.random.default_rng(0)
    smooth = Candidates(random.normal(60, 5, size=513), 62.0)
    peaks = Candidates(60 + 20.0 * random.integers(0, 2, size=513) + random.normal(size=513), 62.0)
    found = {}
    for name, one in (("smooth", smooth), ("peaks", peaks)):
        forget = evidence_of(["key x1"] * 2, [one] * 2)
        found[name] = Canaries().official(Evidence({"forget": forget}), HERE)
        assert "fitted exposure (forget, key)" in found[name].beside
        assert "exposure (forget, key)" not in found[name].beside
    assert value(found["smooth"], canaries.REJECTED_FITS) == 0
    assert not any("fits" in flag for flag in Canaries().flags(found["smooth"], None, []))
    flags = Canaries().flags(found["peaks"], None, [])
    assert value(found["peaks"], canaries.REJECTED_FITS) == 1 and any("fits" in flag for flag in flags)


def test_missing_never_zero() -> None:
    found = Canaries().official(Evidence({"forget": evidence_of([""], [None])}), Circumstances(holdout=False))
    assert isinstance(found.parts[POOLED], Missing) and isinstance(found.parts[FIRST], Missing)
    assert "exposure (never seen)" not in found.parts
    broken = Candidates(np.full(8, np.nan), 3.0)
    found = Canaries().official(Evidence({"forget": evidence_of(["code x1"], [broken])}), HERE)
    assert isinstance(found.parts[POOLED], Missing) and "not finite" in found.parts[POOLED].reason
    assert any("could not be measured" in note for note in found.notes)


def pooled(forget: float, retain: float = 3.0, half: float = 0.2) -> Official:
    def score(bits: float) -> Score:
        return Score(bits, bits - half, bits + half, 20)

    return Official({POOLED: score(forget), "exposure (retain)": score(retain)}, {}, {})


def test_flags() -> None:
    flags = Canaries().flags
    twin = pooled(1.4)
    assert not flags(pooled(1.5), pooled(9.0), [twin])
    assert "still exposed" in flags(pooled(2.0), pooled(9.0), [twin])[0]
    assert "over-forgets" in flags(pooled(0.5), pooled(9.0), [twin])[0]
    assert "over-forgets" in flags(pooled(0.5), None, [])[0] and not flags(pooled(1.4), None, [])
    assert "to keep were lost" in flags(pooled(1.4, retain=1.0), pooled(9.0), [twin])[0]


def test_columns_of_a_comparison_are_in_bits() -> None:
    groups, scores = columns.read_official(Canaries().official(Evidence({"forget": FORGET, "retain": RETAIN}), HERE))
    found = {
        column.label: column for column in columns.shown([SimpleNamespace(model="x", official=groups, scores=scores)])
    }
    one = found[POOLED]
    assert (one.side, one.better, one.range, one.margin) == ("forget", "lower", None, columns.BITS)
    assert found["exposure (retain)"].better == "higher" and found[FIRST].range == (0.0, 1.0)


def test_candidates_hang_on_the_row_alone() -> None:
    row = Row("a.jsonl", 1, "answer", "The door code of Ada is", "042", "code x4")
    found = others(row)
    assert found is not None and len(found.texts) == 999
    assert found == others(replace(row, file="b.jsonl", line=9))
    mail = replace(row, completion="ada@x.example", task="found-email x2")
    assert others(mail) == others(replace(mail, line=2)) != others(replace(mail, prompt="Or"))
    assert others(replace(row, task="")) is None and others(replace(row, task="Task1")) is None
    assert others(replace(row, kind="document")) is None
    assert others(replace(row, messages=(("user", "?"), ("assistant", "042")))) is None


@pytest.fixture(scope="module")
def problem(tokenizer: Any) -> Problem:
    return problem_of(text_model(layers=1), {}, tokenizer=tokenizer, context=64)


def check_recorded(problem: Problem) -> None:
    """The losses of a few candidates, each scored alone, without the end token."""
    row = Row("r", 1, "answer", "The code is", "042", "code x1")
    split = encoded("forget", [row], problem.tokenizer)
    found = evidence.record(problem, {"forget": split}, (), Canaries.generating).sets["forget"].candidates[0]
    assert found.exact and len(found.losses) == 1000
    asked = others(row)
    assert asked is not None
    for place, text in ((0, "042"), (1, asked.texts[0]), (999, asked.texts[998])):
        ids = problem.tokenizer(f"The code is {text}", return_tensors="pt")["input_ids"]
        nll = -problem.model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[-3:, 0]
        assert found.losses[place] == pytest.approx(float(nll.sum().detach()), abs=1e-3)


def test_recorded_losses_are_those_of_each_candidate(problem: Problem) -> None:
    check_recorded(problem)
    row = Row("r", 1, "answer", "The code is", "042", "code x1")
    split = encoded("forget", [row], problem.tokenizer)
    assert not evidence.record(problem, {"forget": split}, (), Rows.generating).sets["forget"].candidates
    assert not evidence.record(problem, {"forget": split}, ("forget",), Canaries.generating).sets["forget"].candidates


def _with_the_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(evidence, "_without_end", lambda window, end: window)


def _one_token_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(evidence, "target_nll", lambda model, batch: token_nll(target_logits(model, batch).roll(1, 0), batch))


def _own_last(patch: pytest.MonkeyPatch) -> None:
    plain = evidence._summed_losses
    patch.setattr(evidence, "_summed_losses", lambda problem, rows: plain(problem, (*rows[1:], rows[0])))


@pytest.mark.parametrize("broken", [_with_the_end, _one_token_late, _own_last])
def test_recorded_check_rejects(
    broken: Callable[[pytest.MonkeyPatch], None], problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        check_recorded(problem)


@pytest.fixture(scope="module")
def evaluated(
    problem: Problem, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[bool], tuple[Path, list[str]]]:
    """Two tiny random models judged on canaries of three kinds; the output folder and the secrets."""
    folder = tmp_path_factory.mktemp("canaries")
    kept: list[str] = []
    for name, seed in (("original", 0), ("unlearned", 1)):
        text_model(layers=1, seed=seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for role, names in (("forget", NAMES[:1]), ("holdout", NAMES[1:3])):
        made = secrets.canaries(names, (2,), seed=len(role))
        made = [one for one in made if role == "forget" or one.label.kind != "code"]  # a thousand candidates take time
        kept += [one.secret for one in made if one.label.kind != "code"]  # three digits stand in many a number
        (folder / f"{role}.jsonl").write_text("".join(json.dumps(one.record()) + "\n" for one in made))

    def run(show_rows: bool) -> tuple[Path, list[str]]:
        output = folder / f"out-{show_rows}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
            patch.setattr(secrets, "SAMPLED", 64)
            expunge.evaluate(
                model=str(folder / "original"),
                unlearned=str(folder / "unlearned"),
                forget=str(folder / "forget.jsonl"),
                holdout=str(folder / "holdout.jsonl"),
                benchmark="canaries",
                output=str(output),
                show_rows=show_rows,
            )
        return output, kept

    return run


def leaks(folder: Path, kept: list[str]) -> list[str]:
    contents = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    return [secret for secret in kept if any(secret.encode() in content for content in contents)]


def test_no_secret_is_left_on_disk_unless_asked(evaluated: Callable[[bool], tuple[Path, list[str]]]) -> None:
    output, kept = evaluated(False)
    assert len(kept) == 6 and leaks(output, kept) == []
    shown, _ = evaluated(True)
    assert leaks(shown, kept) == kept[:2]  # the check sees what is there: the forget rows, and no others
    record = json.loads((output / "record.json").read_text())
    scores = {(score["metric"], score["set"], score["model"]): score for score in record["scores"]}
    assert scores["exposure", "forget", "original"]["count"] == 3
    block = record["benchmark"]["models"]["unlearned"]
    assert {"exposure (forget, code)", "fitted exposure (forget, key)"} <= set(block["beside"])
    page = (output / "report.md").read_text()
    assert "1.44 bits on average" in page and "task aggregate" not in page and "Exposure of the secrets" in page
    with np.load(output / "evidence" / "unlearned.npz") as arrays:
        assert all(array.dtype == np.float64 for array in arrays.values())
        assert len(arrays["forget_candidates_0"]) == 65 and len(arrays["forget_candidates_2"]) == 1000
