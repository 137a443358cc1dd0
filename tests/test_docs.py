"""Pages: those made from the code are what the code says, every option names its source, and every link resolves."""

import dataclasses
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest

from expunge import registry
from expunge.cli import command_line
from expunge.config.bounds import Above, AtLeast, Between, parts
from expunge.method import Method, Needs, Replay

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
CATALOGUES = ("methods", "curvatures", "metrics")
ENTRIES = [(catalogue, name) for catalogue in CATALOGUES for name in registry.names(catalogue)]
SOURCE = re.compile(r"our choice|as loss_matching|organisers|author|released|paper|TOFU's|Optimal BERT Surgeon", re.I)


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_catalogue", DOCS / "catalogue.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


catalogue = _load()


def test_pages_are_what_the_code_says() -> None:
    found = [str(path.relative_to(ROOT)) for path in catalogue.stale(catalogue.pages())]
    assert not found, f"run `make docs`: {', '.join(found)}"


def test_every_entry_has_its_page() -> None:
    wanted = catalogue.pages()
    for kind, name in ENTRIES:
        assert DOCS / kind / f"{name}.md" in wanted
        assert f"]({name}.md)" in wanted[DOCS / kind / "README.md"]


def _entry(name: str = "npo", **replaced: str) -> Any:
    """An entry whose source has other words."""
    kind = registry.load("methods", name)
    source = (ROOT / "src" / "expunge" / "methods" / f"{name}.py").read_text(encoding="utf-8")
    for old, new in replaced.items():
        assert old in source
        source = source.replace(old, new)
    return catalogue.read("methods", name, kind, source)


def test_changed_docstrings_defaults_and_files_would_be_seen(tmp_path: Path) -> None:
    text = catalogue.page(_entry(), {})
    assert text == catalogue.page(_entry(), {})
    for old in ("equation", "Inverse", "slows"):  # of the formula's source, of an option, of when to use it
        assert catalogue.page(_entry(**{old: "Umbrella"}), {}) != text
    kind = dataclasses.make_dataclass("Npo", [("beta", float, 0.3)], bases=(Method,))
    assert "| `beta` | number | `0.3` |" in catalogue.page(dataclasses.replace(_entry(), kind=kind), {})
    path, left = tmp_path / "npo.md", tmp_path / "gone.md"
    assert catalogue.stale({path: text}) == [path]
    path.write_text(text, encoding="utf-8")
    (tmp_path / "papers.md").write_text("# By hand\n", encoding="utf-8")
    assert catalogue.stale({path: text}) == []
    left.write_text(text, encoding="utf-8")  # of an entry that is no more
    assert catalogue.stale({path: text}) == [left]


VALUES: list[tuple[Any, str]] = [
    (float, "number"),
    (Annotated[float, Above(0)], "number above 0"),
    (Annotated[int, AtLeast(0)], "whole number 0 or more"),
    (Annotated[float, Above(0)] | None, "number above 0 or none"),
    (Annotated[float, Between(0, 1)], "number between 0 and 1"),
    (Literal["a", "b"], "`a`, `b`"),
    (bool, "`true`, `false`"),
    (Any, "keys and values"),
]


def check_values(values: Callable[[Any], str]) -> None:
    for declared, wanted in VALUES:
        assert values(declared) == wanted


def test_options_are_shown_with_their_bounds() -> None:
    check_values(catalogue._values)
    with pytest.raises(AssertionError):
        check_values(lambda declared: catalogue._values(parts(declared)[0]))


def needing(needs: Needs) -> str:
    """The section of a page on what a method with these needs must be given."""
    kind = type("Needing", (), {"needs": needs})
    return "\n".join(catalogue._needs(dataclasses.replace(_entry(), kind=kind)))


def test_needs_are_said_each_by_itself() -> None:
    every = [
        (Needs(retain=True), "Rows to keep"),
        (Needs(targets=True), "targets from: `--holdout`, `--base`"),
        (Needs(fewest_retain=16), "At least 16 retain rows"),
        (Needs(parts={"retain": 2, "acceptance": 1}), "2 in 3 for retain, 1 in 3 for acceptance"),
        (Needs(replay=Replay(texts=9, tokens=5)), "9 texts of at most 5 tokens"),
        (Needs(kept={"unseen": "distributions", "retain": "states"}), "distributions on these rows: unseen."),
        (Needs(kept={"unseen": "distributions", "retain": "states"}), "states on these rows: retain."),
        (Needs(of_rows=lambda row: "a rhyme"), "With every forget row: a rhyme."),
        (Needs(layers=lambda count: [count - 2, count - 1]), "of 32, counted from the embeddings, 30, 31"),
    ]
    for needs, words in every:
        shown = needing(needs)
        assert words in shown
        assert shown.count("\n- ") == len(needs.kept) or shown.count("\n- ") == 1
    assert needing(Needs()) == ""


@pytest.mark.parametrize(("kind", "name"), [entry for entry in ENTRIES if entry[0] != "metrics"])
def test_a_page_has_formula_source_departures_and_use(kind: str, name: str) -> None:
    entry = catalogue.entry(kind, name)
    text = catalogue.page(entry, {})
    assert "```text\n" in text
    assert re.search(r"\b\d{4}\.\d{4,5}\b|Our own method|our control", text)
    assert "## Departures" in text or "to depart from" in text or name == "identity"
    assert "## When to use it" in text and catalogue.when(entry)
    assert "    " not in re.sub(r"```text.*?```", "", text, flags=re.S)  # no block by accident


def check_card(text: str) -> None:
    """What a metric computes, in what unit and range, who gets what, and how it is fooled, each with words."""
    for line in ("unit", "direction", "range", "sets", "the original model gets", "a retrained model gets"):
        assert re.search(rf"^\| {line} \| [^|]+ \|$", text, re.M), line
    assert re.search(r"^\| how it can be fooled \| [^|]{30,} \|$", text, re.M)
    assert "## Options" not in text and "## Card" in text


@pytest.mark.parametrize("name", registry.names("metrics"))
def test_a_metric_has_its_card(name: str) -> None:
    entry = catalogue.entry("metrics", name)
    check_card(catalogue.page(entry, {}))
    said = {"__doc__": entry.kind.__doc__, "card": dataclasses.replace(entry.kind.card, fooled="no")}
    with pytest.raises(AssertionError):
        check_card(catalogue.page(dataclasses.replace(entry, kind=type("Mute", (entry.kind,), said)), {}))


def unsourced(entry: Any) -> list[str]:
    """Options with a value of their own whose docstring does not say where it comes from."""
    fields = {field.name: field for field in dataclasses.fields(entry.kind)}
    chosen = [name for name, field in fields.items() if field.default not in (None, dataclasses.MISSING)]
    return [name for name in chosen if not SOURCE.search(entry.options[name])]


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_option_names_its_source(kind: str, name: str) -> None:
    entry = catalogue.entry(kind, name)
    assert set(entry.options) >= {field.name for field in dataclasses.fields(entry.kind)}
    assert not unsourced(entry)


def test_an_option_without_a_source_would_be_seen() -> None:
    assert unsourced(_entry(**{"(the paper's value)": ""})) == ["beta"]


def broken_links(page: Path, text: str) -> list[str]:
    """Links of a page to files that are not there, or to headings that their page does not have."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        whole = target.read_text(encoding="utf-8") if target.suffix == ".md" and target.is_file() else ""
        if not target.exists() or (anchor and anchor not in _anchors(text if target == page else whole)):
            found.append(link)
    return found


def _anchors(text: str) -> set[str]:
    """Of headings, as code hosts make them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.M)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    assert not broken_links(page, page.read_text(encoding="utf-8"))


def test_broken_links_would_be_seen() -> None:
    page = DOCS / "methods" / "papers.md"
    text = "# One\n[a](npo.md) [b](npo.md#options) [c](#one) [d](nop.md) [e](npo.md#opinions) [f](#two) [g](https://x)"
    assert broken_links(page, text) == ["nop.md", "npo.md#opinions", "#two"]


def test_claims_about_ours_name_a_test_of_this_repository() -> None:
    text = (DOCS / "methods" / "papers.md").read_text(encoding="utf-8")
    linked = re.findall(r"\[`(test_\w+\.py)`\]\(([^)]+)\)", text)
    assert len(linked) > 40
    assert all(Path(link).name == name for name, link in linked)


@pytest.mark.parametrize("kind", registry.CATALOGUES)
def test_list_shows_every_catalogue(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(registry.names(kind))
    for line in lines:
        name, shown = line.split(maxsplit=1)
        assert shown == registry.summary(kind, name)


def test_help_of_list_names_every_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["list", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(kind in shown for kind in (*registry.CATALOGUES, "recipes"))
