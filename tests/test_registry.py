"""Catalogues: the file name is the registration, and listing imports nothing heavy."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge import registry
from expunge.errors import InputError

SOURCE = Path(expunge.__file__).parent
ENTRIES = [(catalogue, name) for catalogue in registry.CATALOGUES for name in registry.names(catalogue)]
LIST = "[registry.summary(c, n) for c in registry.CATALOGUES for n in registry.names(c)]"
HEAVY = ("torch", "transformers", "peft", "numpy", "scipy")


@pytest.mark.parametrize("catalogue", registry.CATALOGUES)
def test_entries_are_the_files(catalogue: str) -> None:
    files = {file.stem for file in (SOURCE / catalogue).iterdir() if file.suffix == ".py"}
    assert set(registry.names(catalogue)) == files - {"__init__"}
    assert list(registry.names(catalogue)) == sorted(registry.names(catalogue))


def test_known_entries_are_listed() -> None:
    assert {"loss_matching", "gradient_ascent"} <= set(registry.names("methods"))
    assert {"knowledge", "loss_attack", "regurgitation"} <= set(registry.names("metrics"))


@pytest.mark.parametrize(("catalogue", "name"), ENTRIES)
def test_summaries_are_one_sentence(catalogue: str, name: str) -> None:
    summary = registry.summary(catalogue, name)
    assert len(summary) > 20 and "\n" not in summary


CLASSES = {
    ("metrics", "loss_attack"): "LossAttack",
    ("methods", "ng_diff"): "NGDiff",
    ("methods", "kl_minimisation"): "KLMinimisation",
    ("methods", "libu_as_published"): "LIBUAsPublished",
    ("curvatures", "ggn"): "GGN",
}


def check_classes(load: Callable[[str, str], Any]) -> None:
    for (catalogue, name), wanted in CLASSES.items():
        assert load(catalogue, name).__name__ == wanted


def test_an_entry_is_its_class_whatever_its_capitals() -> None:
    check_classes(registry.load)


def test_capitals_by_a_rule_would_be_seen() -> None:
    def by_words(catalogue: str, name: str) -> Any:
        module = sys.modules[registry.load(catalogue, name).__module__]
        return getattr(module, "".join(part.capitalize() for part in name.split("_")), type(None))

    with pytest.raises(AssertionError):
        check_classes(by_words)


@pytest.mark.parametrize(
    ("catalogue", "name", "words"),
    [
        ("methods", "loss_match", ("there is no method 'loss_match'", "did you mean 'loss_matching'?", "Known: ")),
        ("metrics", "zzzzzzz", ("there is no metric 'zzzzzzz'.", "knowledge")),
        ("methods", "", ("there is no method ''",)),
        ("methods", "../demo", ("there is no method",)),
        ("methods", "__init__", ("there is no method",)),
        ("method", "npo", ("there is no catalogue 'method'", "did you mean 'methods'?")),
    ],
)
def test_near_misses_are_suggested(catalogue: str, name: str, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        registry.load(catalogue, name)
    assert all(word in str(caught.value) for word in words)


def check_light(code: str) -> None:
    """Runs the code in a fresh interpreter and looks for heavy packages there."""
    program = f"import sys; from expunge import registry; {code}; print([n for n in {HEAVY} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_listing_imports_nothing_heavy() -> None:
    check_light(LIST)


def test_light_check_rejects_loading() -> None:
    with pytest.raises(AssertionError):
        check_light("registry.load('metrics', 'loss')")


ENTRY = '''"""Mine: {what}.

More of it.
"""

from dataclasses import dataclass

from expunge.method import Method

RUNS = []
RUNS.append(1)


class Other:
    """Stands before it."""


@dataclass(frozen=True)
class {kind}(Method):
    """Options."""

    rate: float = {rate}
'''


def written(folder: Path, name: str, **changes: Any) -> Path:
    """A file with a method, as a user has one."""
    folder.mkdir(exist_ok=True)
    content = ENTRY.format(**{"what": "a method", "kind": "MyDiff", "rate": 0.5} | changes)
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def check_by_path(load: Callable[[str, str], Any], folder: Path) -> None:
    """Relative and whole, each file by itself and once."""
    one, two = written(folder / "one", "my_diff.py"), written(folder / "two", "my_diff.py", rate=0.25)
    kind, other = load("methods", "./one/my_diff.py"), load("methods", str(two))
    assert (kind.__name__, kind().rate, other().rate) == ("MyDiff", 0.5, 0.25)
    assert load("methods", str(one)) is kind is load("methods", "one/my_diff.py")
    assert sys.modules[kind.__module__].RUNS == [1]
    assert load("methods", str(written(folder, "my__diff.py", kind="mydiff"))).__name__ == "mydiff"


def test_a_file_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_by_path(registry.load, tmp_path)
    path = "./one/my_diff.py"
    assert registry.title(path) == "my_diff" and registry.title("npo") == "npo"
    assert registry.summary("methods", path) == "Mine: a method."
    assert registry.source("methods", path) == tmp_path / "one" / "my_diff.py"
    assert path not in registry.names("methods")


def test_files_that_are_mixed_up_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept by their names alone, as modules in `sys.modules` usually are."""
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}

    def by_name(catalogue: str, name: str) -> Any:
        return known.setdefault(Path(name).name, registry.load(catalogue, name))

    with pytest.raises(AssertionError):
        check_by_path(by_name, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.py", None, ("missing.py: there is no such file",)),
        ("folder.py", "", ("there is no such file",)),
        ("mine.py", "class Yours: ...", ("mine.py: the file holds no class Mine", "an entry named mine must have")),
        ("my_own.py", "", ("holds no class MyOwn",)),
        ("broken.py", "def (", ("broken.py: running the file failed (SyntaxError",)),
        ("fails.py", "1 / 0", ("running the file failed (ZeroDivisionError",)),
        ("imports.py", "import nothing_of_this_name", ("running the file failed (ModuleNotFoundError",)),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    name: str, content: str | None, words: tuple[str, ...], tmp_path: Path
) -> None:
    if name == "folder.py":
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        registry.load("methods", str(tmp_path / name))
    assert all(word in str(caught.value) for word in words)


def test_a_file_that_failed_can_be_mended(tmp_path: Path) -> None:
    file = tmp_path / "my_diff.py"
    file.write_text("1 / 0", encoding="utf-8")
    with pytest.raises(InputError):
        registry.load("methods", str(file))
    assert registry.load("methods", str(written(tmp_path, "my_diff.py")))().rate == 0.5


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another distribution with a method of its own, and one with a name of ours."""
    written(tmp_path / "theirs", "my_diff.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [
        EntryPoint("my_diff", "theirs.my_diff", "expunge.methods"),
        EntryPoint("npo", "theirs.my_diff", "expunge.methods"),
        EntryPoint("gone", "theirs.gone", "expunge.metrics"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in points if point.group == group])
    yield
    for name in [name for name in sys.modules if name.startswith("theirs")]:
        del sys.modules[name]


@pytest.mark.usefixtures("distribution")
def test_entries_of_other_distributions_stand_beside_ours() -> None:
    names = registry.names("methods")
    assert names[-1] == "my_diff" and names.count("npo") == 1
    assert list(names[:-1]) == sorted(names[:-1])
    kind = registry.load("methods", "my_diff")
    assert (kind.__module__, kind.__name__) == ("theirs.my_diff", "MyDiff")
    assert registry.summary("methods", "my_diff") == "Mine: a method."
    assert registry.load("methods", "npo").__module__ == "expunge.methods.npo"
    assert "my_diff" not in registry.names("metrics") and "gone" in registry.names("metrics")
    with pytest.raises(InputError, match="did you mean 'my_diff'"):
        registry.load("methods", "my_dif")
    with pytest.raises(InputError, match=r"gone: importing theirs\.gone.*expunge\.metrics.*ModuleNotFoundError"):
        registry.load("metrics", "gone")


@pytest.mark.usefixtures("distribution")
def test_the_files_of_an_entry_that_are_not_ours(tmp_path: Path) -> None:
    """For hashes: its own, and those that its options name."""
    mine = str(written(tmp_path, "curve.py", kind="Curve"))
    theirs = tmp_path / "theirs" / "my_diff.py"
    assert registry.sources("methods", "npo", {"beta": 0.1}) == []
    assert registry.sources("methods", "libu", {"curvature": mine}) == [Path(mine)]
    assert registry.sources("methods", "my_diff", {"curvature": mine, "rate": 1.0}) == [theirs, Path(mine)]
