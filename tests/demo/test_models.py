"""The demo's models are kept until the code that makes them changes, and no longer."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.demo import models
from expunge.files import code

MADE = ["model/losses.py", "loop/training.py", "loop/minimise.py", "gradients/summed.py", "data/fiction.py"]
BESIDE = ["reporting/words.py", "methods/npo.py", "evaluation/verdict.py"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, whose files are those that keys are made of; models are empty folders."""
    copy = tmp_path / code.PACKAGE.name
    shutil.copytree(code.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", copy)
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "make_models", lambda folder, world, say: (folder / "made").touch())
    return copy


def check_key(package: Path, folder_of: Callable[[], Path]) -> None:
    """Another folder where a file of the makers changes, the same where any other does."""
    first = folder_of()
    assert (first / "made").is_file() and folder_of() == first
    for name in BESIDE:
        with (package / name).open("a", encoding="utf-8") as file:
            file.write("# changed\n")
        assert folder_of() == first, name
    seen = {first}
    for name in MADE:
        with (package / name).open("a", encoding="utf-8") as file:
            file.write("# changed\n")
        assert folder_of() not in seen, name
        seen.add(folder_of())


def test_the_key_changes_with_the_code_that_makes_them(package: Path) -> None:
    check_key(package, lambda: models.cached_models(0, lambda line: None))


def _own_files(*modules: str) -> list[Path]:
    """As a list kept by hand: what lies beside the demo."""
    return sorted((code.PACKAGE / "demo").glob("*.py"))


def _everything(*modules: str) -> list[Path]:
    return sorted(code.PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("broken", [_own_files, _everything])
def test_another_key_would_be_seen(broken: Any, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "made_by", broken)
    with pytest.raises(AssertionError):
        check_key(package, lambda: models.cached_models(0, lambda line: None))


def test_seeds_have_models_of_their_own(package: Path) -> None:
    one, two = (models.cached_models(seed, lambda line: None) for seed in (0, 1))
    assert one != two and one.name.removeprefix("demo-0") == two.name.removeprefix("demo-1")
