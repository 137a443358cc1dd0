"""The shape of the code: catalogues by file name, no module named after nothing, docs and code agree."""

import ast
import re
import tomllib
from pathlib import Path

import grimp
import pytest

from expunge import registry
from expunge.evaluation import rest, verdict
from expunge.files import code

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
ENTRIES = [(catalogue, name) for catalogue in registry.CATALOGUES for name in registry.names(catalogue)]


@pytest.mark.parametrize(("catalogue", "name"), ENTRIES)
def test_each_entry_is_found_by_its_file_name(catalogue: str, name: str) -> None:
    entry = registry.load(catalogue, name)
    assert entry.__module__ == f"expunge.{catalogue}.{name}"
    assert registry.summary(catalogue, name)
    assert entry()  # every option has a default


def test_no_module_is_named_after_nothing() -> None:
    assert not [file for file in SOURCES if file.stem in {"utils", "helpers", "common", "misc"}]


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_size_and_docstring(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 350
    if source.strip() and file.stem != "__init__":
        assert ast.get_docstring(ast.parse(source))


def test_only_one_file_touches_the_other_processes() -> None:
    found = [file.stem for file in SOURCES if re.search(r"torch\.distributed|\baccelerate import", file.read_text())]
    assert found == ["distributed"]


def test_few_files_at_the_top_few_rooms_few_levels() -> None:
    """Those of the plan of the house, with api and desk, which came after it (docs/decisions.md)."""
    top = {file.stem for file in (ROOT / "src" / "expunge").glob("*.py")}
    packages = {file.parent.relative_to(ROOT / "src" / "expunge") for file in SOURCES} - {Path()}
    assert len(top) <= 12 and len(top) + len(packages) <= 37, (sorted(top), sorted(map(str, packages)))
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    levels = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    assert len(levels) <= 15
    named = {name.strip().removeprefix("expunge.") for level in levels for name in re.split("[|:]", level)}
    assert named == top - {"__init__"} | {path.parts[0] for path in packages}  # nothing stands outside the levels


def test_what_a_cache_is_keyed_by_follows_from_the_imports() -> None:
    """As an independent reader of imports has it; what is loaded by name is named by the caller."""
    graph = grimp.build_graph("expunge")
    for module in ("comparison.cells", "demo.models", "loop.training"):
        upstream = {name for name in graph.find_upstream_modules(f"expunge.{module}") if name != "expunge"}
        expected = {f"expunge.{module}"} | {name for name in upstream if "." in name}
        found = {
            ".".join(file.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
            for file in code.made_by(module)
        }
        assert {name for name in found if not is_package(name)} == {name for name in expected if not is_package(name)}
    assert {"losses.py", "training.py"} <= {file.name for file in code.made_by("demo.models")}
    with pytest.raises(ValueError, match="no module"):
        code.made_by("loop.nothing")


def is_package(name: str) -> bool:
    return (ROOT / "src").joinpath(*name.split(".")).is_dir()


def test_thresholds_in_the_docs_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    documented = {name: float(value) for name, value in re.findall(r"^\| `([A-Z_]+)` \| ([\d.]+) \|", page, re.M)}
    in_code = {
        name: float(value)
        for name, value in (vars(verdict) | vars(rest)).items()
        if name.isupper() and isinstance(value, int | float)
    }
    assert documented == in_code


def test_words_that_claim_too_much_do_not_occur_in_what_is_shown() -> None:
    shown = [*SOURCES, *(ROOT / "src").rglob("*.jinja"), *(ROOT / "src").rglob("*.css")]
    for file in shown:
        assert not re.search(r"\b(proven|deleted|certified|compliant)\b", file.read_text(encoding="utf-8"), re.I), file


def test_no_paths_of_a_machine_and_no_benchmark_rows() -> None:
    for file in [
        *SOURCES,
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "recipes").glob("*"),
        *(ROOT / "benchmarks").glob("*.py"),
    ]:
        assert not re.search(r"/(work|root|home)/", file.read_text(encoding="utf-8")), file


def test_public_functions_are_not_hidden_by_packages_of_their_name() -> None:
    import expunge
    import expunge.pipeline  # imports every package below it

    assert all(callable(getattr(expunge, name)) for name in expunge.__all__)


FROM_A_TEST = re.compile(r"^\s*(?:from|import) (?:\w+\.)*test_", re.M)


def test_no_test_imports_a_test() -> None:
    """What several share stands in a file of its own: `problems.py`, `oracles.py`, `forked.py`, the helpers beside."""
    for broken in ("from test_a import b", "import e2e.test_a", "    from e2e.test_a import b"):
        assert FROM_A_TEST.search(broken)
    files = (ROOT / "tests").rglob("*.py")
    assert not [file.name for file in files if FROM_A_TEST.search(file.read_text(encoding="utf-8"))]
