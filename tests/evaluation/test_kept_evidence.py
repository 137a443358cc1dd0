"""Evidence that is kept from run to run: in numbers, with the same scores, for its owner alone, and never for long."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import problems
from expunge import registry
from expunge.attack import Point, Reading
from expunge.benchmark import Generating
from expunge.data.rows import Row
from expunge.evaluation import kept_evidence, verdict
from expunge.evaluation.kept_evidence import DAY, DAYS, Shelf, as_numbers
from expunge.problem import Split
from expunge.runs import purge
from expunge.scoring.evidence import Evidence, SetEvidence
from expunge.scoring.seen import Seen

SECRET = b"s" * 32
SAID = ("It is Ulm.", "ulm", "Bonn", None, "one two three", "nothing of it", "Bonn")
WANTED = ("Ulm", "Ulm", "Ulm", None, "three four", "five six", "Bonn")
KINDS = ("answer", "answer", "answer", "answer", "document", "document", "answer")


def told(generations: tuple[str | None, ...] = SAID) -> SetEvidence:
    n = len(KINDS)
    return SetEvidence(
        kinds=KINDS,
        tasks=("",) * n,
        loss=np.linspace(0.1, 2.0, n),
        targets=np.full(n, 3.0),
        token_loss=np.linspace(0.1, 2.0, 3 * n),
        references=WANTED,
        generations=generations,
        shapes=np.ones((n, 2)),
        kl=np.linspace(0.0, 0.1, n),
    )


def check_scores(kept: SetEvidence) -> None:
    """Every metric of the catalogue says of the numbers what it says of the texts."""
    before, after = (Evidence({"retain": one, "judging": told(), "forget": one}) for one in (told(), kept))
    for name in registry.names("metrics"):
        metric = registry.load("metrics", name)()
        for one in set(metric.sets) & {"retain", "forget"}:
            assert metric(after, one) == metric(before, one), name
    assert verdict.judge_rows(after, after, None) == verdict.judge_rows(before, before, None)


def test_numbers_score_as_texts_do() -> None:
    check_scores(as_numbers(told(), SECRET))


@pytest.mark.parametrize("name", ["known", "recall", "exact"])
def test_the_check_rejects_numbers_of_other_texts(name: str) -> None:
    kept = as_numbers(told(), SECRET)
    with pytest.raises(AssertionError):
        check_scores(replace(kept, read=kept.read | {name: 0 * kept.read[name]}))


def test_equal_texts_are_told_and_none_is_kept() -> None:
    kept = as_numbers(told(), SECRET)
    assert kept.generations[2] == kept.generations[6] != kept.generations[1] and kept.generations[3] is None
    assert not any(text in str(kept) for text in ("Ulm", "ulm", "Bonn", "three"))
    assert as_numbers(told(), b"t" * 32).generations[2] != kept.generations[2], "keyed: short texts can be enumerated"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    return Shelf.opened("rows", Generating(), ["model"])


def test_what_is_kept_is_found_again_by_its_owner_alone(shelf: Shelf) -> None:
    saved = shelf.save("a", told())
    found = shelf.load("a")
    assert found is not None and found.generations == saved.generations and found.read["known"][1] == 1.0
    assert np.array_equal(found.token_loss, told().token_loss) and np.array_equal(found.kl, told().kl)  # type: ignore[arg-type]
    folder = shelf.files.folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [file.stat().st_mode & 0o777 for file in folder.iterdir()] == [0o600]
    assert shelf.load("b") is None
    (folder / "a.safetensors").write_bytes(b"half")
    assert shelf.load("a") is None, "a file that is not whole is as good as none"
    assert folder in [one.path for one in purge.left()]


def test_a_file_hangs_on_all_that_determines_it(shelf: Shelf, tokenizer: Any) -> None:
    rows = (Row("r", 1, "answer", "q", "a"), Row("r", 2, "answer", "p", "b"))
    split = problems.encoded("retain", rows, tokenizer)
    other = problems.encoded("retain", (rows[0], replace(rows[1], completion="c")), tokenizer)
    again = problems.encoded("retain", rows, tokenizer)
    names = [
        shelf.name(split, False),
        shelf.name(split, True),
        shelf.name(other, False),
        shelf.name(replace(split, name="guard"), False),
        Shelf.opened("rows", Generating(rows=3), ["model"]).name(split, False),
        Shelf.opened("rows", Generating(), ["another"]).name(split, False),
        replace(shelf, secret=SECRET).name(split, False),
    ]
    assert len(set(names)) == len(names) and shelf.name(again, False) == names[0]


def test_what_is_old_or_too_much_is_gone(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    for days in range(4):
        shelf.save(f"{days}", told())
        os.utime(shelf.files.folder / f"{days}.safetensors", (now - days * DAYS * DAY / 2.5,) * 2)
    Shelf.opened("rows", Generating(), ["model"])
    assert {file.stem for file in shelf.files.folder.iterdir()} == {"0", "1", "2"}
    assert shelf.load("2") is not None  # and is as new again
    monkeypatch.setattr(kept_evidence, "MOST", 2)
    Shelf.opened("rows", Generating(), ["model"])
    assert {file.stem for file in shelf.files.folder.iterdir()} == {"0", "2"}


def test_what_an_attack_showed_is_kept_by_all_that_it_hangs_on(shelf: Shelf, tokenizer: Any) -> None:
    rows = (Row("r", 1, "answer", "q", "a"), Row("r", 2, "answer", "p", "b"))
    judged = {name: problems.encoded(name, rows, tokenizer) for name in ("forget", "retain")}
    reworded = problems.encoded("retain", (rows[0], replace(rows[1], reworded=("in other words?",))), tokenizer)

    def name(attack: str, sets: Mapping[str, Split], among: Shelf = shelf) -> str:
        return among.names_of_attacks({attack: sets}, sets)[attack]

    names = [
        name("rounding", judged),
        name("sampling", judged),
        name("rounding", judged | {"retain": reworded}),
        name("rounding", {"forget": judged["forget"]}),
        name("rounding", judged, Shelf.opened("rows", Generating(), ["another"])),
    ]
    assert len(set(names)) == len(names)
    both = shelf.names_of_attacks({"rounding": judged, "sampling": judged}, judged)
    assert list(both.values()) == names[:2]
    seen = Seen(("answer", "answer"), np.array([1.0, np.nan]), np.array([0.0, 0.5]))
    shelf.save_readings(names[0], [Reading("5 steps", {"forget": seen}, Point("one", "steps", 5))])
    assert shelf.readings(names[1]) is None
    (found,) = shelf.readings(names[0]) or []
    assert found.point == Point("one", "steps", 5) and np.array_equal(found.seen["forget"].known, seen.known)
    assert np.array_equal(found.seen["forget"].loss, seen.loss, equal_nan=True)
