"""docs/start.md: its blocks are run in order, as printed, in one folder with a tiny model under the page's names.

A `sh` block goes to bash, a `python` block to this Python. Of `expunge`, whose entry point tests/test_package.py runs,
what would take seconds to begin begins with the libraries loaded. A `console` block is not run, and must be listed
below with the reason. A block that ends in `expunge unlearn` or `evaluate` may end with 3: finished, the verdict does
not pass.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import forked

PAGE = Path(__file__).parents[2] / "docs" / "start.md"
NAMES = {"original": "my-model", "base": "base-model", "train.jsonl": "train.jsonl", "holdout.jsonl": "holdout.jsonl"}
NOT_RUN = {
    "$ python3 -m venv .venv": "installing needs the network; tests/test_package.py installs the wheel",
    "$ expunge demo": "three minutes; what it calls is run by the other end-to-end tests",
}
COMMANDS = {"select", "influence", "plan", "unlearn", "retrain", "evaluate", "compare", "report", "list", "record"}
SLOW = COMMANDS - {"list"}  # to begin: they import torch
NOT_PASSED = 3
STAND_IN = """#!{python} -IS
import json, os, socket, sys
if not {slow!r} & set(sys.argv[1:2]) or "--help" in sys.argv:
    os.execv({own!r}, sys.argv)
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    line.sendall(json.dumps([sys.argv[1:], os.getcwd()]).encode() + b"\\n")
    code, out, err = json.loads(line.makefile().read())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the line of the page at which it starts."""

    language: str
    text: str
    line: int


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    """What the page says its reader has, and nothing else."""
    place = tmp_path / "reader"
    place.mkdir()
    for name, here in NAMES.items():
        copy = shutil.copytree if (world / name).is_dir() else shutil.copy
        copy(world / name, place / here)
    return place


def test_the_page(folder: Path) -> None:
    before = (folder / "my-model" / "model.safetensors").read_bytes()
    failures = [failure for block in blocks(PAGE.read_text(encoding="utf-8")) if (failure := failed(block, folder))]
    assert not failures, failures[0]
    assert (folder / "my-model" / "model.safetensors").read_bytes() == before
    rows = [json.loads(line) for line in (folder / "forget.jsonl").read_text().splitlines()]
    assert len(rows) == 10  # two people with a document and four questions each
    for page in ("out/expunge/report.html", "judged/report.html", "compared/comparison.html", "pages/report.html"):
        assert (folder / page).stat().st_size > 5000


def test_every_block_is_run_or_its_reason_is_given() -> None:
    found = blocks(PAGE.read_text(encoding="utf-8"))
    assert {block.language for block in found} == {"sh", "python", "console"}
    assert {block.text.splitlines()[0] for block in found if block.language == "console"} == set(NOT_RUN)
    run = "".join(block.text for block in found if block.language == "sh")
    assert set(re.findall(r"^expunge (\w+)", run, re.M)) == COMMANDS


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("```sh\nexpunge list methodes\n```", "did you mean 'methods'"),
        ("```sh\nexpunge find names.txt\n```", "there is no command 'find'"),
        ("```sh\ngrep -c nobody train.jsonl\ntrue\n```", ""),  # a failure before the end
        ("```sh\nfalse | true\n```", ""),
        ("```sh\nexit 3\n```", ""),  # 3 is for verdicts only
        ("```sh\nexpunge evaluate --help\nexit 3\n```", ""),
        ("```python\nimport json\njson.loads('')\n```", "JSONDecodeError"),
    ],
)
def test_a_block_that_fails_is_noticed(broken: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    (block,) = blocks(f"Some text.\n\n{broken}\n")
    failure = failed(block, tmp_path)
    assert failure.startswith("line 3:") and said in failure


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page in order."""
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.M | re.S)
    return [Block(hit[1], hit[2], page.count("\n", 0, hit.start()) + 1) for hit in found]


def failed(block: Block, folder: Path) -> str:
    """Runs a block; nothing where it went well, else where it stands and what it said."""
    if block.language == "console":
        return ""
    programs = {"sh": ["bash", "-e", "-u", "-o", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    with tempfile.TemporaryDirectory() as here, socket.socket(socket.AF_UNIX) as door:
        door.bind(address := f"{here}/door")
        door.listen()
        door.settimeout(0.05)
        files = [Path(here) / name for name in ("out", "err")]
        with files[0].open("w") as out, files[1].open("w") as err:
            path = os.pathsep.join([str(stand_in(Path(here), address)), os.environ["PATH"]])
            command = [*programs[block.language], block.text]
            process = subprocess.Popen(command, cwd=folder, env=os.environ | {"PATH": path}, stdout=out, stderr=err)
            while process.poll() is None:
                answer(door)
        said = "\n".join(file.read_text() for file in files)
    print(f"line {block.line}: exit code {process.returncode}\n{said}")
    if process.returncode == 0 or (process.returncode == NOT_PASSED and judges(block)):
        return ""
    return f"line {block.line}: exit code {process.returncode}\n{block.text}\n{said}"


def stand_in(here: Path, address: str) -> Path:
    """A folder with an `expunge` that hands commands which take seconds to begin to `answer`, all else to the
    environment's own."""
    own = Path(sys.executable).with_name("expunge")
    (folder := here / "bin").mkdir()
    (folder / "expunge").write_text(STAND_IN.format(python=sys.executable, slow=SLOW, own=str(own), address=address))
    (folder / "expunge").chmod(0o755)
    return folder


def answer(door: socket.socket) -> None:
    """Runs the command that stands at the door, if any, in a process that begins with the libraries loaded."""
    try:
        line, _ = door.accept()
    except TimeoutError:
        return
    with line:
        arguments, folder = json.loads(line.makefile().readline())
        process = forked.expunge(arguments, Path(folder), {})
        said = process.communicate()
        line.sendall(json.dumps([process.returncode, *said]).encode())


def judges(block: Block) -> bool:
    """Whether a block is one command, and that command ends with a verdict."""
    lines = block.text.replace("\\\n", " ").strip().splitlines()
    return len(lines) == 1 and lines[0].startswith(("expunge unlearn ", "expunge evaluate "))
