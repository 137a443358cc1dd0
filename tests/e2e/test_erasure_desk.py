"""The story of examples/erasure_desk, as docs/erasure.md tells it, and what each step leaves."""

import base64
import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec.structs import replace as changed

import chromium
from e2e import little
from expunge.cli import command_line, erasure_desk, parsing
from expunge.config.desk import Document
from expunge.desk import document
from expunge.errors import InputError
from expunge.records import ledger, record
from expunge.reporting import document as pages
from expunge.reporting.entries import Copy
from leaks import Needles, needles, search

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "erasure.md"
FORBIDDEN = re.compile(r"\b(proven|deleted|certified|compliant)\b", re.I)


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "erasure_desk_example", ROOT / "examples" / "erasure_desk" / "desk.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their names
    spec.loader.exec_module(module)
    return module


desk: Any = load()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[list[str]]]]:
    """The folder of the whole story, and its commands."""
    folder = tmp_path_factory.mktemp("desk")
    commands: list[list[str]] = []

    def run(*words: str) -> int:
        commands.append(list(words))
        code = command_line.main(words)
        assert code in (0, 3), words
        return code

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "settings"))
        patch.setenv("EXPUNGE_CACHE", str(folder / "cache"))
        desk.make(folder, desk.small())
        desk.story(folder, run, desk.small())
        yield folder, commands


@pytest.fixture(autouse=True)
def same_key(told: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(told[0] / "settings"))


def rows(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_three_requests_over_time(told: tuple[Path, Any]) -> None:
    folder, _ = told
    known = ledger.read(folder / "ledger").requests
    assert list(known) == ["R1", "R2", "R3"] and known["R1"].state == "sealed"
    assert len(known["R1"].ids) == 2  # her own row, and the copy that a person decided on
    assert known["R2"].run and known["R2"].run.again == {"R1": "no longer testable"}
    assert known["R3"].run and known["R3"].run.again["R1"] == "no longer testable"
    assert re.match(r"1 (\w|-| )+$", known["R3"].run.again["R2"]) and "testable" not in known["R3"].run.again["R2"]
    kept = {row["prompt"] for row in rows(folder / "request-R1" / "retain.jsonl")}
    assert "note 1030?" in kept and not {"case 1003?", "copied for the team?"} & kept


def test_the_next_fine_tuning_is_without_them(told: tuple[Path, Any]) -> None:
    folder, _ = told
    given, clean = rows(folder / "next.jsonl"), rows(folder / "clean.jsonl")
    assert clean == given[3:]  # the same row, one that holds it, and the same customer's new one stay out
    for name, count in (("train", 38), ("train-2", 36), ("train-3", 35)):
        assert len(rows(folder / f"{name}.jsonl")) == count


def test_no_text_of_the_rows_is_left_where_it_was_not_given(told: tuple[Path, Any]) -> None:
    """And the search finds them in the files that were given."""
    folder, _ = told
    wanted = Needles(needles([desk.rows()["train"][3]["completion"]]).runs, frozenset())
    found = {Path(one.split(":")[0]) for one in search(wanted, [folder])}
    assert found == {folder / "train.jsonl", folder / "next.jsonl"}


def text(folder: Path, name: str) -> str:
    return re.sub(r"\s+", " ", (folder / f"document-{name}" / "document.html").read_text(encoding="utf-8"))


def check_document(page: str, folder: Path) -> None:
    """The page of R1 says what the issue asks of it."""
    content, request = record.read(folder / "model-1"), ledger.read(folder / "ledger").requests["R1"]
    assert all(one in page for one in request.ids) and content.verdict.sentence in page
    for words in (
        "This request is closed",
        "38 rows of",
        "customer_id",
        "to forget 1 and to keep 1; 0 are undecided",
        "95 % interval",
        "n = 2",
        "From so many tests, up to 66% of such rows could be",
        "not touched by any of this",
        "paraphrases",
        "the original model",
        "the training file that was searched",
        "Reviewed by",
        content.hashes["output"],
    ):
        assert words in page, words
    assert not FORBIDDEN.search(page) and "Ada" not in page and "1003" not in page and "<script" not in page


def test_the_document_says_what_was_done_and_what_was_not(told: tuple[Path, Any]) -> None:
    check_document(text(told[0], "R1"), told[0])
    open_one, passes = text(told[0], "R3"), record.read(told[0] / "model-3").verdict.passes
    assert pages.STATES["served" if passes else "open"] in open_one  # three in sequence may cost too much of the rest
    assert "R1: sealed, 2 rows" in open_one and "no longer testable" in open_one


@pytest.mark.parametrize(
    ("words", "broken"), [("This request is closed", "Certified."), ("n = 2", ""), ("Reviewed by", "Ada Abend")]
)
def test_the_check_rejects_documents_that_say_less_or_more(told: tuple[Path, Any], words: str, broken: str) -> None:
    with pytest.raises(AssertionError):
        check_document(text(told[0], "R1").replace(words, broken), told[0])


def test_a_long_request_stays_short_and_what_it_names_is_escaped(told: tuple[Path, Any]) -> None:
    folder, _ = told
    content, known = record.read(folder / "model-1"), ledger.read(folder / "ledger")
    request = document.described(known, known.requests["R1"], content)
    opened = changed(request.opened, rows=request.opened.rows * 50)
    many = (Copy("a <b>copy</b>", "/a\u202eb"),) * 30
    page = pages.render(content, replace(request, opened=opened, copies=many))
    assert "and 72 more in the ledger" in page and "and 24 more, listed" in page
    assert "a &lt;b&gt;copy" in page and "[U+202E]" in page and len(page) < 12_000


def test_documents_are_never_written_over_and_need_a_ledger(told: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = told
    given = {"run": str(folder / "model-1"), "output": str(folder / "document-R1")}
    with pytest.raises(InputError, match="exists already"):
        document.run(Document(**given), print)
    (tmp_path / "expunge").mkdir()
    content = little.raw(folder / "model-1")
    del content["config"]["ledger"]
    (tmp_path / "record.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match="entered in no ledger"):
        document.run(Document(run=str(tmp_path / "record.json"), output=str(tmp_path / "out")), print)
    assert not (tmp_path / "out").exists()


def test_the_pdf_has_two_pages(told: tuple[Path, Any]) -> None:
    try:
        import weasyprint
    except (ImportError, OSError):  # or the system has no Pango
        pytest.skip("weasyprint cannot be used here")
    for name in ("R1", "R3"):
        assert len(weasyprint.HTML(told[0] / f"document-{name}" / "document.html").render().pages) == 2


def test_the_page_tells_the_story_with_commands_that_are_taken(told: tuple[Path, Any]) -> None:
    """Every command of the page has flags that the command line knows, and the story runs each of them."""
    said = re.findall(r"^expunge (.+?[^\\])$", PAGE.read_text(encoding="utf-8").replace("\\\n", " "), re.M)
    assert {line.split()[0] for line in said} == {*erasure_desk.COMMANDS, "unlearn"} == {one[0] for one in told[1]}
    for line in said:
        command, *rest = shlex.split(line)
        assert parsing.parse(command, command_line.COMMANDS[command], rest)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Tab]:
    if (program := chromium.found()) is None:
        pytest.skip("no Chromium is installed")
    with chromium.tab(program, tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def check_page(tab: chromium.Tab, file: Path) -> None:
    """Nothing in the console, nothing asked for, as wide as the window, and two pages of A4."""
    for _ in tab.looked_at(file):
        pass
    paper = base64.b64decode(tab.send("Page.printToPDF", **chromium.A4)["data"])
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", paper)
    assert len(boxes) == 2 and all(abs(float(wide) - 595) < 1 and abs(float(high) - 842) < 1 for wide, high in boxes)


@pytest.mark.parametrize("name", ["R1", "R3"])
def test_the_document_in_a_browser(tab: chromium.Tab, told: tuple[Path, Any], name: str) -> None:
    check_page(tab, told[0] / f"document-{name}" / "document.html")


@pytest.mark.parametrize(
    "broken",
    [
        "<script>console.log('here')</script>",
        "<img src='https://example.invalid/a.png'>",
        "<p style='width: 1400px'>wide</p>",
        "<p style='break-before: page'>a third page</p>",
    ],
)
def test_the_check_of_the_page_rejects(tab: chromium.Tab, told: tuple[Path, Any], tmp_path: Path, broken: str) -> None:
    page = (told[0] / "document-R1" / "document.html").read_text(encoding="utf-8")
    assert "</body>" in page
    (tmp_path / "broken.html").write_text(page.replace("</body>", f"{broken}</body>"), encoding="utf-8")
    with pytest.raises(AssertionError):
        check_page(tab, tmp_path / "broken.html")


def test_the_real_company_is_asked_the_same(tmp_path: Path, capsys: Any) -> None:
    """Its rows, without the model: the customer's own and the copy that a person decides on; mentions are kept."""
    company = desk.real()
    desk.make(tmp_path, replace(company, learn=lambda folder: None))
    commands = []

    def run(*words: str) -> int:
        commands.append(words[0])
        if words[0] == "unlearn":
            raise StopIteration
        return command_line.main(words)

    with pytest.raises(StopIteration):
        desk.story(tmp_path, run, company)
    assert commands == ["select", "select", "unlearn"]
    forget, retain = (rows(tmp_path / "request-R1" / f"{role}.jsonl") for role in ("forget", "retain"))
    assert [row["customer_id"] for row in forget] == [1000] * 5 + [9] and len(retain) == 54
    assert company.name in json.dumps(retain)
