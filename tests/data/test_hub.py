"""Hub data sets: from a hub in this process's own machine, and nothing of the rows stays behind, also on errors."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import datasets
import huggingface_hub
import pytest

from expunge.data.rows import read
from expunge.errors import InputError

SECRET = "zq7 secret"
ROWS = [{"text": f"{SECRET} {n}"} for n in range(5)]


class Loading:
    """Stands for `datasets.load_dataset`: writes the rows to every cache, as a careless library might."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.asked: dict[str, Any] = {}

    def __call__(self, name: str, config: str | None, **settings: Any) -> Any:
        self.asked = {"name": name, "config": config} | settings
        places = [settings["cache_dir"], datasets.config.DOWNLOADED_DATASETS_PATH, datasets.config.HF_DATASETS_CACHE]
        for place in [*places, huggingface_hub.constants.HF_HUB_CACHE, huggingface_hub.constants.HF_XET_CACHE]:
            Path(place).mkdir(parents=True, exist_ok=True)
            (Path(place) / "rows.arrow").write_text(SECRET)
        assert Path(settings["cache_dir"]).stat().st_mode & 0o777 == 0o700
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def rows_of(records: list[dict[str, Any]]) -> Any:
    return datasets.Dataset.from_list(records).to_iterable_dataset()


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's shared caches, working folders and temporary files, all below one folder."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for module, name in ((huggingface_hub.constants, "HF_HUB_CACHE"), (huggingface_hub.constants, "HF_XET_CACHE")):
        monkeypatch.setattr(module, name, str(tmp_path / name))
    for name in ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH"):
        monkeypatch.setattr(datasets.config, name, tmp_path / name)
    return tmp_path


def files(folder: Path) -> list[str]:
    return [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]


def check_nothing_stays(load: Callable[[str], Any], source: str, folder: Path, loading: Loading) -> None:
    """The rows were in a cache of their own while they were read, and are nowhere afterwards."""
    try:
        load(source)
    finally:
        assert loading.asked and not Path(loading.asked["cache_dir"]).exists()
        assert files(folder) == []


SOURCES = [
    ("hub:owner/some.rows:train", ("owner/some.rows", None, "train")),
    ("hub:owner/rows/fold_1:test", ("owner/rows", "fold_1", "test")),
    ("hub:owner/rows", ("owner/rows", None, None)),
]


@pytest.mark.parametrize(("source", "asked"), SOURCES)
def test_rows_by_name(shared: Path, monkeypatch: pytest.MonkeyPatch, source: str, asked: tuple[str, ...]) -> None:
    loading = Loading(rows_of(ROWS) if asked[2] else datasets.IterableDatasetDict({"all": rows_of(ROWS)}))
    monkeypatch.setattr(datasets, "load_dataset", loading)
    before = huggingface_hub.constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE
    found: list[Any] = []
    check_nothing_stays(lambda name: found.extend(read(name, "forget").rows), source, shared, loading)
    assert [row.completion for row in found] == [row["text"] for row in ROWS]
    assert found[0].name == f"{Path(source).name}:1" and found[4].place == f"{source}, row 5"
    assert (loading.asked["name"], loading.asked["config"], loading.asked["split"]) == asked
    assert set(loading.asked) == {"name", "config", "split", "streaming", "cache_dir"}  # no code is ever allowed to run
    assert before == (huggingface_hub.constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE)


def _failing() -> Iterator[dict[str, str]]:
    yield ROWS[0]
    raise RuntimeError(f"{SECRET} in a message")


FAILING: dict[str, tuple[Any, str]] = {
    "offline": (ConnectionError("Couldn't reach the Hub"), "cannot be loaded (Couldn't reach the Hub)"),
    "while reading": (datasets.IterableDataset.from_generator(_failing), "reading its rows failed (RuntimeError)"),
    "wrong row": (rows_of([*ROWS, {"text": " "}]), "row 6: column 'text' is empty"),
    "splits": (datasets.IterableDatasetDict({"a": 1, "b": 2}), "splits of this data set: a, b. Name one"),
    "no splits": (datasets.IterableDatasetDict(), "splits of this data set: none"),
}


@pytest.mark.parametrize("case", FAILING, ids=str)
def test_nothing_stays_after_an_error(shared: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    result, words = FAILING[case]
    loading = Loading(result)
    monkeypatch.setattr(datasets, "load_dataset", loading)
    with pytest.raises(InputError) as caught:
        check_nothing_stays(lambda name: read(name, "forget"), "hub:owner/rows", shared, loading)
    assert str(caught.value).startswith("hub:owner/rows") and words in str(caught.value)
    assert SECRET not in str(caught.value)


def test_nothing_stays_check_rejects_a_cache_left_behind(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary `cache_dir` alone is not enough: the hub's own cache keeps the files."""
    loading = Loading(rows_of(ROWS))
    monkeypatch.setattr(datasets, "load_dataset", loading)

    def only_cache_dir(source: str) -> Any:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as folder:
            return list(datasets.load_dataset("owner/rows", None, split="train", cache_dir=folder))

    with pytest.raises(AssertionError):
        check_nothing_stays(only_cache_dir, "hub:owner/rows", shared, loading)


def test_offline_is_one_clear_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"hub:owner/rows:train: the hub data set cannot be loaded \(.*reach"):
        read("hub:owner/rows:train", "forget")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "name", ["hub:rows", "hub:owner/rows:", "hub:a/b/c/d", "hub:../rows", "hub:owner/r:a[:9]", "hub:"]
)
def test_other_syntax_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="Write hub:owner/name:split"):
        read(name, "forget")


def test_local_paths_are_never_guessed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_dataset` would take a local folder of that name; a path that is called like a hub data set is the path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "rows").mkdir(parents=True)
    with pytest.raises(InputError, match="also a local path"):
        read("hub:owner/rows:train", "forget")
    (tmp_path / "hub:owner").mkdir()
    (tmp_path / "hub:owner" / "rows.jsonl").write_text(json.dumps(ROWS[0]))
    assert len(read("hub:owner/rows.jsonl", "forget")) == 1


REVISION = "a" * 40
CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: rows.jsonl\n---\n"
STORED = {"README.md": CARD.encode(), "rows.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode()}


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as `datasets` asks for: one data set of one file."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        stored = re.fullmatch(r"/datasets/owner/rows/resolve/[^/]+/(.+)", path)
        tree = [{"type": "file", "oid": "0" * 40, "size": len(data), "path": name} for name, data in STORED.items()]
        if stored and stored[1] in STORED:
            self._answer(STORED[stored[1]], ETag=f'"{stored[1]}"', **{"X-Repo-Commit": REVISION})
        elif path.startswith("/api/datasets/owner/rows/tree"):
            self._answer(json.dumps(tree).encode())
        elif path.startswith("/api/datasets/owner/rows/paths-info"):
            self._answer(json.dumps(tree[1:]).encode())
        elif path.startswith("/api/datasets/owner/rows"):
            files = [{"rfilename": name} for name in STORED]
            self._answer(json.dumps({"_id": "1", "id": "owner/rows", "sha": REVISION, "siblings": files}).encode())
        else:
            self._answer(b"", 404, **{"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_POST = do_GET

    def _answer(self, body: bytes, code: int = 200, **headers: str) -> None:
        span = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if span and code == 200:
            begin, end = int(span[1]), min(int(span[2] or len(body) - 1), len(body) - 1)
            headers["Content-Range"] = f"bytes {begin}-{end}/{len(body)}"
            body, code = body[begin : end + 1], 206
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


OURS = "from expunge.data.rows import read; print(len(read('hub:owner/rows:train', 'forget')))"
CARELESS = (
    "import datasets, tempfile\nwith tempfile.TemporaryDirectory() as folder:\n"
    "    print(len(datasets.load_dataset('owner/rows', split='train', cache_dir=folder)))"
)


def check_real_library(program: str, home: Path, hub: str) -> None:
    """A process of its own against the local hub: all rows come, and no file stays below the user's folder."""
    (home / "temporary").mkdir(parents=True)
    own = {"HOME": home, "XDG_CACHE_HOME": home / "cache", "TMPDIR": home / "temporary", "HF_ENDPOINT": hub}
    own["XDG_STATE_HOME"] = home / "state"
    unset = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    environment = kept | {name: str(value) for name, value in own.items()}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["5"], done.stderr
    assert files(home) == []


def test_the_real_library_keeps_nothing(tmp_path: Path, hub: str) -> None:
    check_real_library(OURS, tmp_path / "ours", hub)
    with pytest.raises(AssertionError, match="hub"):  # the files that stay are those of the hub's own cache
        check_real_library(CARELESS, tmp_path / "careless", hub)
