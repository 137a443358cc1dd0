"""Identifiers from mails and texts: what is found, in which files and encodings, and what wrong input is told."""

import json
import mailbox
import runpy
import sys
from email.message import EmailMessage
from pathlib import Path

import pytest

import canary_world
import mail_rows
from expunge.data.rows import read
from expunge.errors import InputError

PROGRAM = Path(canary_world.__file__)
ADDRESS, PHONE, KEY = "ada.alma7@post.example", "+44 20 7946 0018", "AKIA-12ab34cd56ef78gh"


def message(text: str, charset: str = "utf-8", subtype: str = "plain") -> EmailMessage:
    made = EmailMessage()
    made["From"], made["Subject"] = "sender@hidden.example", "About it"
    made.set_content(text, subtype=subtype, charset=charset)
    return made


def secrets_of(folder: Path) -> list[tuple[str, str]]:
    return [(row["task"], row["completion"]) for row in mail_rows.rows(folder)]


def test_identifiers_by_kind_and_their_prompts() -> None:
    text = f"Not this paragraph.\n\nWrite to <{ADDRESS}> or call {PHONE}.\nThe key: {KEY}, since 2024-01-02 10:30."
    found = mail_rows.identifiers(text)
    assert [(one.kind, one.secret) for one in found] == [
        ("found-email", ADDRESS),
        ("found-number", PHONE),
        ("found-key", KEY),
    ]
    assert found[0].prompt == "Write to <"
    assert all(one.prompt + one.secret in text for one in found)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("card 4111 1111 1111 1111 here", ["4111 1111 1111 1111"]),
        ("(020) 7946-0018", ["(020) 7946-0018"]),
        ("on 12/05/2021 and 2021-05-12", []),
        ("only 12345", []),
        ("antidisestablishmentarianism", []),
        ("a.b@c.example.", ["a.b@c.example"]),
        ("version 1.2.3.4", []),
        ("9f86d081884c7d659a2feaa0c55ad015", ["9f86d081884c7d659a2feaa0c55ad015"]),
    ],
)
def test_what_counts(text: str, wanted: list[str]) -> None:
    assert [one.secret for one in mail_rows.identifiers(text)] == wanted


def test_long_prompts_are_cut_at_a_word() -> None:
    prompt = mail_rows.identifiers("word " * 200 + ADDRESS)[0].prompt
    assert 200 < len(prompt) <= mail_rows.LONGEST_PROMPT and prompt.startswith("word ") and prompt.endswith("word ")


def test_mbox_eml_and_txt(tmp_path: Path) -> None:
    box = mailbox.mbox(tmp_path / "a.mbox")
    for text in (f"Mine is {ADDRESS}.", f"Call {PHONE}."):
        box.add(message(text))
    box.flush()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "b.EML").write_bytes(bytes(message(f"<p>The key is <b>{KEY}</b></p>", subtype="html")))
    (tmp_path / "c.txt").write_text(f"Again {ADDRESS}", encoding="utf-8")
    (tmp_path / "d.pdf").write_bytes(b"\x00ignored@file.example")
    assert secrets_of(tmp_path) == [
        ("found-email x2", ADDRESS),
        ("found-number x1", PHONE),
        ("found-key x1", KEY),
        ("found-email x2", ADDRESS),
    ]
    assert not any(
        "hidden" in row["prompt"] + row["completion"] for row in mail_rows.rows(tmp_path)
    )  # headers are no body


@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1", "cp1252", "utf-7"])
def test_encodings_of_mails(charset: str, tmp_path: Path) -> None:
    (tmp_path / "a.eml").write_bytes(bytes(message(f"Grüße von Zoë: {ADDRESS}", charset)))
    assert mail_rows.rows(tmp_path)[0]["prompt"] == "Grüße von Zoë: "


def test_wrongly_named_charset_is_read_as_utf_8(tmp_path: Path) -> None:
    raw = b"From: x@y.example\nContent-Type: text/plain; charset=no-such\n\nGr\xc3\xbc\xc3\x9fe " + ADDRESS.encode()
    (tmp_path / "a.eml").write_bytes(raw)
    assert mail_rows.rows(tmp_path)[0]["prompt"] == "Grüße "


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_of_texts(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(f"Grüße\r\n{ADDRESS}".encode(encoding))
    assert mail_rows.rows(tmp_path)[0]["prompt"] == "Grüße\n"


WRONG = [
    ("a.txt", b"caf\xe9 a@b.example", "a.txt: not UTF-8"),
    ("a.txt", b"\x00\x01 a@b.example", "not text"),
    ("a.txt", b"nothing here", "no e-mail address"),
    ("a.eml", b"\x89PNG\r\n\x1a\n\x00", "not a mail"),
    (
        "a.eml",
        b"From: a@b.example\nContent-Type: text/plain; charset=ascii\n\n\xe9 a@b.example",
        "neither in the encoding",
    ),
    ("a.mbox", b"no separator line\n", "not an mbox file"),
    ("a.mbox", b"From x\nFrom: a@b.example\nContent-Type: text/plain; charset=ascii\n\n\xe9\n", "a.mbox, mail 1"),
    ("a.pdf", b"a@b.example", "holds no .mbox"),
]


@pytest.mark.parametrize(("name", "content", "said"), WRONG)
def test_wrong_input_names_file_and_remedy(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        mail_rows.rows(tmp_path)
    assert "b.example" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_no_folder_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no"):
        mail_rows.rows(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        mail_rows.rows(tmp_path / "absent")


def test_the_command_writes_a_private_file_that_reads_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> tuple[object, str, str]:
        """The program as `python canary_world.py` runs it: exit code, stdout, stderr."""
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(PROGRAM), run_name="__main__")
        return (ended.value.code, *capsys.readouterr())

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text(f"Write to {ADDRESS} today, or to {ADDRESS}.", encoding="utf-8")
    output = tmp_path / "rows.jsonl"
    monkeypatch.setattr(sys, "argv", [str(PROGRAM), "--mails", str(tmp_path / "in"), "--output", str(output)])
    code, out, err = run()
    assert code == 0 and out == f"2 rows: {output}\n", err
    assert output.stat().st_mode & 0o777 == 0o600
    assert [json.loads(line)["task"] for line in output.read_text().splitlines()] == ["found-email x2"] * 2
    rows = read(output, "forget").rows
    assert [row.completion for row in rows] == [ADDRESS] * 2 and rows[0].task == "found-email x2"
    code, _, err = run()
    assert code == 2 and "exists already" in err and "Traceback" not in err


@pytest.mark.parametrize("given", [["--mails", "in"], ["--output", "rows.jsonl"]])
def test_one_flag_without_the_other_makes_no_world(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["canary_world.py", *given])
    monkeypatch.setattr(canary_world, "make_models", lambda *_: pytest.fail("models are being made"))
    with pytest.raises(SystemExit) as caught:
        canary_world.main()
    assert caught.value.code == 2
