"""Runs as requests of a ledger: what is entered, what is refused, and what earlier requests mean for the next."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import expunge
from e2e import little
from expunge import pipeline
from expunge.config.commands import Unlearn
from expunge.errors import InputError
from expunge.files import plain_json
from expunge.records import ledger, record, requests
from expunge.records.run import Run
from expunge.reporting.entries import Sealing
from expunge.reporting.finding import Earlier


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run as request R1 of a ledger; its verdict does not pass, so the request is open."""
    folder = tmp_path_factory.mktemp("requests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "settings"))
        run = little.unlearn(folder / "first", **little.write_all(folder), ledger=str(folder / "ledger"), request="R1")
        assert not run.passes
        yield folder


@pytest.fixture
def served(first: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with a passing verdict: the record and the ledger say so, as after a run that worked."""
    content = little.raw(first / "first")
    content["verdict"]["passes"] = True
    plain_json.write_json(record.find(first / "first"), content)
    with ledger.held(first / "ledger", "a test") as (known, _):
        entry = known.requests["R1"].run
        assert entry
        if not entry.passes:
            known.with_entry(replace(entry, passes=True))
    little.write_rows(first / "second.jsonl", "second", range(4))
    return first


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    given = {"model": "first", "forget": "second.jsonl", "retain": "retain.jsonl", "holdout": "holdout.jsonl"}
    given |= {"ledger": "ledger", "output": "second"}
    return {role: str(folder / name) for role, name in given.items()} | {"request": "R2"} | more


def begun(folder: Path, **more: Any) -> tuple[requests.OnLedger, list[str]]:
    said: list[str] = []
    with requests.on_ledger(Unlearn(**settings(folder, **more)), said.append) as found:
        return found, said


def test_a_run_is_entered_and_the_request_stays_open_until_one_passes(first: Path) -> None:
    request = ledger.read(first / "ledger").requests["R1"]
    assert request.run and request.run.path == str(first / "first")
    assert request.ids == {row.id for row in record.read(first / "first").rows}
    assert request.opened.file == str(first / "forget.jsonl") and request.opened.selection is None
    assert request.state == "open"


def test_earlier_requests_are_judged_again_and_then_no_longer_testable(served: Path) -> None:
    found, said = begun(served)
    assert said == ["request R1: its 6 rows are judged again"]
    assert found.config.earlier == (str(served / "forget.jsonl"),) and found.again == {"R1": True}
    content = record.read(served / "first")
    rows = tuple(replace(row, verdict="partly") for row in content.rows)
    judged = replace(content, earlier=Earlier("partly", (), {}, rows, ()))
    assert found._again("R1", judged) == "6 partly"
    text = (served / "forget.jsonl").read_text()
    (served / "forget.jsonl").write_text(text + "\n")  # whoever changed it may have changed more
    found, said = begun(served)
    assert "request R1: no longer testable, since its 6 rows are no longer at" in said[0]
    assert found.config.earlier == () and found.again == {"R1": False}
    (served / "forget.jsonl").write_text(text)


def test_a_model_from_elsewhere_and_rows_of_two_requests_are_told(served: Path) -> None:
    _, said = begun(served, model=str(served / "model"), request="R3", forget=str(served / "forget.jsonl"))
    assert "note: 6 of 6 rows also belong to request R1, which is served" in said
    assert any(
        line.startswith("warning: this model does not come from the run that served request R1") for line in said
    )


def test_requests_that_were_served_or_closed_are_said_to_be(served: Path) -> None:
    again = {"request": "R1", "forget": str(served / "forget.jsonl"), "output": str(served / "again")}
    with pytest.raises(InputError, match=r"request R1 was served \(R1: served, 6 rows.*first: .*--force"):
        begun(served, **again)
    begun(served, **again, force=True)
    with pytest.raises(InputError, match="6 rows that request R1 was opened with are not there"):
        begun(served, request="R1", force=True)
    with ledger.held(served / "ledger", "a test") as (known, _):
        file = known.file.read_bytes()
        known.with_entry(Sealing(request="R1", date="2026", remove=()))
    with pytest.raises(InputError, match="request R1 is closed"):
        begun(served, **again, force=True)
    known.file.write_bytes(file)
    with pytest.raises(InputError, match="belong together"):
        begun(served, ledger=None)


def test_a_run_whose_entry_is_missing_is_entered_without_running_again(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between the end of a run and its entry."""
    content = little.raw(served / "first")
    content["config"] |= {"request": "R2", "ledger": str(served / "ledger")}
    (served / "third").mkdir(exist_ok=True)
    plain_json.write_json(served / "third" / "record.json", content)
    monkeypatch.setattr(pipeline, "_run_unlearn", lambda config, say: pytest.fail("it ran again"))
    given = settings(served, output=str(served / "third"))
    run = expunge.unlearn(**given)
    assert isinstance(run, Run) and ledger.read(served / "ledger").requests["R2"].state == "served"
    with pytest.raises(InputError, match="was served"):
        expunge.unlearn(**given)


BROKEN = ["[]", "{", '{"rule": {"where": [1], "mentions": []}}', '{"created": 3}']


@pytest.mark.parametrize("text", BROKEN)
def test_a_selection_that_was_edited_is_refused(served: Path, tmp_path: Path, text: str) -> None:
    little.write_rows(tmp_path / "forget.jsonl", "fourth", range(4))
    (tmp_path / "request.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"request\.json.*Select the rows again"):
        begun(served, request="R4", forget=str(tmp_path / "forget.jsonl"))
    assert "R4" not in ledger.read(served / "ledger").requests
