"""The wheel: built from a copy of the tree, installed into an empty environment, and run from there, without make.

The new environment's only packages are expunge's own; its dependencies are those of the environment that runs the test,
reached through a path file. A path file is not searched for path files, so an editable expunge is not reached.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reporting.conftest import build_record

ROOT = Path(__file__).parent.parent
SHIPPED = ("templates", "recipes")
OUR_RULES = (
    'expunge = ["py.typed", "records/record.schema.json", "reporting/templates/*"]',
    '"share/expunge/recipes" = ["recipes/*.yaml"]',
)
WHERE = "import expunge; print(expunge.__file__)"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is made of, without leftovers of an earlier build."""
    folder = tmp_path_factory.mktemp("copy") / "tree"
    leftovers = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "recipes"):
        shutil.copytree(ROOT / name, folder / name, ignore=leftovers)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tree, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with expunge from the wheel."""
    folder = tmp_path_factory.mktemp("installed") / "environment"
    checked([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    checked([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)])
    own = Path(checked([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip())
    (own / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")) + "\n")
    return folder


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """Runs a program of the new environment in an empty folder that is not the checkout."""
    (tmp_path / "elsewhere").mkdir()

    def call(program: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [str(installed / "bin" / program), *arguments]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
        own = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "EXPUNGE_CACHE": str(tmp_path / "cache")}
        settings: dict[str, Any] = {"cwd": tmp_path / "elsewhere", "env": kept | own | more}
        return subprocess.run(command, capture_output=True, text=True, check=False, **settings)

    return call


def test_everything_travels(tree: Path, wheel: Path) -> None:
    assert missing(tree, wheel) == []


def test_a_wheel_without_templates_and_recipes_is_noticed(tree: Path, tmp_path: Path) -> None:
    """The same tree without the two lines of pyproject.toml that let them travel."""
    broken = shutil.copytree(tree, tmp_path / "broken", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    rules = (broken / "pyproject.toml").read_text(encoding="utf-8")
    for rule in OUR_RULES:
        assert rule in rules
        rules = rules.replace(rule, "")
    (broken / "pyproject.toml").write_text(rules, encoding="utf-8")
    absent = missing(broken, build(broken, tmp_path))
    assert {Path(name).parent.name for name in absent} >= set(SHIPPED)
    assert not [name for name in absent if name.endswith(".py")]


def test_it_is_the_installed_package(run: Run, installed: Path) -> None:
    """What is imported lies in the new environment; with the checkout's source on the path, the check fails."""

    def from_wheel(**environment: str) -> bool:
        done = run("python", "-c", WHERE, **environment)
        return Path(done.stdout.strip()).is_relative_to(installed)

    assert from_wheel()
    assert not from_wheel(PYTHONPATH=str(ROOT / "src"))


def test_what_answers_at_once(run: Run) -> None:
    version = run("expunge", "--version")
    assert version.returncode == 0 and version.stdout.startswith("expunge 0.")
    assert "loss_matching " in run("expunge", "list", "methods").stdout
    listed = run("expunge", "list", "recipes").stdout
    assert {line.split()[0] for line in listed.splitlines()} == {file.stem for file in ROOT.glob("recipes/*.yaml")}
    unknown = run("expunge", "plan", "--recipe", "lume_smal")
    assert unknown.returncode == 2 and "did you mean 'lume_small'?" in unknown.stderr


def test_plan(run: Run, saved_llama: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"Who is number {n}?", "completion": f"Person {n}."} for n in range(4)]
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("expunge", "plan", "--model", str(saved_llama), "--forget", str(tmp_path / "forget.jsonl"))
    assert done.returncode == 0, done.stderr
    assert "forget: 4 rows" in done.stdout


def test_report(run: Run, tmp_path: Path) -> None:
    """The pages of a stored record: their templates and styles are there."""
    (tmp_path / "record.json").write_text(json.dumps(build_record(rows=5, retain=20)), encoding="utf-8")
    done = run("expunge", "report", "--record", str(tmp_path / "record.json"), "--output", "pages")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "elsewhere" / "pages" / "report.html").read_text(encoding="utf-8")
    assert "<style" in page and page.rstrip().endswith("</html>")


def build(tree: Path, folder: Path) -> Path:
    """The wheel of a tree, made with the setuptools that is here: nothing is downloaded."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    checked([*pip, "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder), str(tree)])
    (made,) = folder.glob("expunge-*.whl")
    return made


def missing(tree: Path, wheel: Path) -> list[str]:
    """Files of the package and recipes that are not in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    package = [file for file in (tree / "src" / "expunge").rglob("*") if file.is_file()]
    wanted = [str(file.relative_to(tree / "src")) for file in package if "__pycache__" not in file.parts]
    wanted += [f"share/expunge/recipes/{file.name}" for file in (tree / "recipes").iterdir()]
    return [name for name in wanted if not any(has == name or has.endswith(f"/{name}") for has in names)]


def checked(command: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done
