"""What a row, a name or a record holds is text wherever it is shown: on a terminal, in HTML, in Markdown."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from expunge import pipeline
from expunge.cli import command_line, ending
from expunge.data.rows import Row
from expunge.data.tokens import Rendering
from expunge.errors import InputError
from expunge.files.visible import in_a_line, unsafe
from expunge.planning.plan import Planned
from expunge.planning.preview import rendered_example
from expunge.reporting import html, markdown
from html_pages import Page, typed

STEERING = "a\x1b[2J\x1b]0;title\x07\x9b31m\u202eb\u2066c\rd"


def check_terminal(capsys: pytest.CaptureFixture[str], lines: int) -> None:
    shown = capsys.readouterr()
    said = shown.out + shown.err
    assert len(said.splitlines()) == lines and not any(unsafe(sign) for sign in said)
    assert "[U+001B]" in said and "[U+202E]" in said


def test_rows_of_a_plan_steer_no_terminal(
    tokenizer: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = rendered_example(Row(f"{STEERING}.jsonl", 1, "document", "", STEERING), Rendering(), tokenizer, True)
    monkeypatch.setattr(pipeline, "run_plan", lambda config, say: Planned(tuple(lines), None))
    assert command_line.main(["plan", "--model", "m", "--forget", "f"]) == 0
    check_terminal(capsys, len(lines))
    monkeypatch.setattr(ending, "in_a_line", str)
    assert command_line.main(["plan", "--model", "m", "--forget", "f"]) == 0
    with pytest.raises(AssertionError):
        check_terminal(capsys, len(lines))


def test_what_is_said_and_complained_of_steers_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(config: Any, say: Callable[[str], None]) -> None:
        say(f"model: {STEERING}\nverdict: forgotten")
        raise InputError(f"{STEERING}\nverdict: forgotten")

    monkeypatch.setattr(pipeline, "run_unlearn", run)
    assert command_line.main(["unlearn", "--model", "m", "--forget", "f"]) == 2
    check_terminal(capsys, 2)


ATTRIBUTE = '" onmouseover="alert(1)" x="\' onfocus=alert(1) ><script>alert(1)</script><!-- '


def test_no_text_becomes_markup(make_record: Callable[..., Any], make_texts: Callable[..., Any]) -> None:
    """Neither tags nor attributes, nor a style: the bars take their widths from numbers alone."""
    record = make_record(rows=7)
    plain = Page(html.render(typed(record), make_texts(record)))
    record = json.loads(json.dumps(record).replace("forget.jsonl", json.dumps(ATTRIBUTE)[1:-1]))
    texts: dict[str, Any] = {name: dict.fromkeys(text, ATTRIBUTE) for name, text in make_texts(record).items()}
    for text in texts.values():
        text["generated"] = {"original": ATTRIBUTE}
    page = html.render(typed(record), texts)
    found = Page(page)
    assert {tag for tag, _ in found.attributes} == {tag for tag, _ in plain.attributes}
    assert {key for _, given in found.attributes for key in given} == {
        key for _, given in plain.attributes for key in given
    }
    assert not [given["style"] for _, given in found.attributes if "outside" in str(given.get("style"))]
    assert "alert(1)" in "".join(found.text)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(some.text(some.sampled_from("a1 \n\t|`*_#-+=.~<>&[]()!\\$@:/\"'w\u202e\x1b")))
def test_any_text_is_one_plain_cell_of_markdown(text: str) -> None:
    """Taken apart by the rules of the format: a backslash makes the next sign plain; what is left must mean nothing."""
    plain = re.sub(r"\\[!-/:-@[-`{-~]", "", markdown.escaped(text))
    assert not re.search(r"[|`*\[\]~$@<>\n\x1b\u202e\\]|://|www\.", plain)
    assert re.sub(r"&(amp|lt|gt);", "", plain).count("&") == 0


def test_markdown_check_rejects_plain_text() -> None:
    for text in ("a|b", "`a`", "<b>", "see http://a.b", "[a](b)"):
        assert re.search(r"[|`*\[\]~$@<>\n]|://|www\.", text) and markdown.escaped(text) != text


def test_names_that_are_no_text_can_be_printed() -> None:
    in_a_line("\udcff").encode("ascii")
