"""Writes docs/methods/, curvatures/, metrics/ and attacks/: one page an entry, and an index each, from docstrings; and
records/record.schema.json, the form of a record, from its classes.

    python docs/catalogue.py           writes what has changed (`make docs`)
    python docs/catalogue.py --check   writes nothing; exit code 1 where a page is not what the code says

A page holds the module's docstring (formula, source, departures, when to use it), the options with their docstrings,
what a method needs, the card of a metric, and how an attack is judged. Pages that nobody made here, such as
methods/papers.md, are left alone.
"""

import ast
import dataclasses
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from expunge import registry
from expunge.config.bounds import bounds_of, parts
from expunge.config.options import described
from expunge.data.rows import Row
from expunge.reporting import record
from expunge.reporting.words import span

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SOURCE = "../../src/expunge"
SCHEMA = ROOT / "src" / "expunge" / "records" / "record.schema.json"
MADE = "<!-- Made by docs/catalogue.py from {source}. Change that, then: make docs -->"
WHEN = "When to use it:"
DEPTH = 32  # layers of the model that pages give as an example
ASKED = {"attacks": "what it asks", "metrics": "range"}  # the heading of an index's last column
HEADINGS = {"Departure": "Departures", WHEN: "When to use it"}  # what a paragraph begins with: the heading above it
INTRODUCTIONS = {
    "methods": """# Methods

What `expunge unlearn --method NAME` runs; `--method NAME --help` shows the options. The first line of each page is what
`expunge list methods` says. What the papers say, what their code does and what ours does: [papers.md](papers.md).

Losses are minimised by AdamW (betas 0.9 and 0.99, no weight decay, gradients clipped to norm 1; our choice) unless the
page names another; what moves is `--subspace`, a LoRA or full weights, or what a method moves of it. Figures stand in
[the results](../results), with the commands that make them; a page below links to those that name the method, and one
without such a link has no figures there yet.
""",
    "curvatures": """# Curvatures

What stands for the retain loss's second derivative in the [methods](../methods/README.md) that have a `curvature`
option; `expunge list curvatures` lists them. Their own options go into `curvature_options`. The damping is the
method's: relative to the mean of the spectrum over coordinates with a gradient, or absolute on request. Each
label source makes another matrix: see [papers.md](../methods/papers.md#empirical-and-gauss-newton-fisher).
""",
    "metrics": """# Metrics

What a report says of each model, side by side; every one is a pure function of the evidence. Each page is the metric's
card: what it computes, unit, direction and range, what the original and a retrained model get, and how it can be
fooled. None is a verdict by itself: that is reached by [the rules](../concepts.md). A metric gives no figure for a set
that has nothing for it to measure.
""",
    "attacks": """# Attacks

What somebody may do to a model that seems to have forgotten, or to its prompts, before the same rows are looked at
again: `--evidence full` of `expunge unlearn` and `expunge evaluate` runs some, `--evidence audit` all, and `expunge
plan` says what that takes. What an attack shows is compared with a retrained model under the same attack, or with rows
that the model never saw ([how](../concepts.md#under-attack)). At most 64 forget rows are looked at, spread evenly;
where no retrained model stands beside, twice as many never-seen rows of their kinds too, at least 16 of a kind.
""",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a catalogue: its class, and the docstrings of its module and of its fields."""

    catalogue: str
    name: str
    kind: type[Any]
    text: str
    options: Mapping[str, str]

    @property
    def summary(self) -> str:
        return self.text.split("\n", 1)[0]

    @property
    def body(self) -> str:
        return self.text.partition("\n")[2].strip("\n")


def entry(catalogue: str, name: str) -> Entry:
    """Of the package that is installed. Docstrings of fields are read from the source: Python does not keep them."""
    kind = registry.load(catalogue, name)
    source = Path(sys.modules[kind.__module__].__file__ or "").read_text(encoding="utf-8")
    return read(catalogue, name, kind, source)


def read(catalogue: str, name: str, kind: type[Any], source: str) -> Entry:
    """The docstrings of a module's source and of the fields of its class."""
    tree = ast.parse(source)
    declared = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    return Entry(catalogue, name, kind, ast.get_docstring(tree) or "", described(declared))


def page(one: Entry, results: Mapping[str, str]) -> str:
    """The Markdown page of an entry; `results`: texts of the result pages by name, searched for the entry's."""
    source = f"src/expunge/{one.catalogue}/{one.name}.py"
    parts = [MADE.format(source=source), f"# {one.name}", one.summary, _sections(one.body)]
    own = {"metrics": _card, "attacks": _judged}.get(one.catalogue)
    parts += own(one) if own else ["## Options", _options(one), *_needs(one)]
    parts += ["## See also", _links(one, results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def index(catalogue: str, entries: list[Entry]) -> str:
    """The page that lists a catalogue."""
    say = span_of if catalogue == "metrics" else when
    lines = [
        INTRODUCTIONS[catalogue],
        f"| {catalogue.removesuffix('s')} | what it is | {ASKED.get(catalogue, 'when to use it')} |",
        "| --- | --- | --- |",
    ]
    for one in entries:
        lines.append(f"| [`{one.name}`]({one.name}.md) | {_cell(one.summary)} | {_cell(say(one))} |")
    made = MADE.format(source=f"src/expunge/{catalogue}")
    return f"{made}\n\n" + "\n".join(lines) + "\n"


def when(one: Entry) -> str:
    """The entry's paragraph on when to use it, in one line; of an attack what it asks."""
    if one.catalogue == "attacks":
        return str(one.kind.question)
    found = next((paragraph for paragraph in one.body.split("\n\n") if paragraph.startswith(WHEN)), "")
    return " ".join(_without(found, WHEN).split())


def span_of(one: Entry) -> str:
    """The range of a metric, in words."""
    return span(one.kind.card.least, one.kind.card.most)


def _card(one: Entry) -> list[str]:
    """What a metric says of itself, beside the docstring of its class."""
    unit, _, direction = one.kind.direction.partition("; ")
    card = one.kind.card
    lines = {
        "on pages": one.kind.title,
        "unit": unit,
        "direction": direction,
        "range": span_of(one),
        "sets": ", ".join(one.kind.sets),
        "the original model gets": card.original,
        "a retrained model gets": card.retrained,
        "how it can be fooled": card.fooled,
    }
    table = ["| | |", "| --- | --- |", *(f"| {name} | {_cell(text)} |" for name, text in lines.items())]
    return [inspect.cleandoc(one.kind.__doc__), "## Card", "\n".join(table)]


def _sections(body: str) -> str:
    """The docstring with a heading above the paragraphs that have one, its formulas as code blocks."""
    parts: list[str] = []
    for paragraph in body.split("\n\n"):
        heading = next((title for start, title in HEADINGS.items() if paragraph.startswith(start)), None)
        parts += [f"## {heading}"] if heading else []
        for label in (WHEN, "Departures:", "Departure:"):
            paragraph = _without(paragraph, label) if paragraph.startswith(label) else paragraph
        parts.append(_fenced(paragraph))
    return "\n\n".join(parts)


def _without(paragraph: str, label: str) -> str:
    text = paragraph.removeprefix(label).lstrip()
    return text[:1].upper() + text[1:]


def _fenced(paragraph: str) -> str:
    """An indented paragraph as a fenced block; those in a list keep the list's indent."""
    lines = paragraph.split("\n")
    if not all(line.startswith("    ") for line in lines):
        return paragraph
    inner = textwrap.dedent(paragraph)
    indent = "  " if all(line.startswith("      ") for line in lines) else ""
    return textwrap.indent(f"```text\n{inner}\n```", indent)


def _options(one: Entry) -> str:
    fields = dataclasses.fields(one.kind)
    if not fields:
        return "None."
    lines = ["| option | values | default | meaning |", "| --- | --- | --- | --- |"]
    for field in fields:
        cells = (f"`{field.name}`", _values(field.type), _default(field), one.options[field.name])
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _values(declared: Any) -> str:
    """What an option may hold, in words, with its bounds."""
    inner, _ = parts(declared)
    if get_origin(inner) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(inner))
    if get_origin(inner) is tuple:
        return "list of texts"
    if alternatives := get_args(inner):
        return " or ".join(_values(one) for one in alternatives)
    names = {
        int: "whole number",
        float: "number",
        str: "name",
        bool: "`true`, `false`",
        type(None): "none",
        Any: "keys and values",
    }
    return " ".join([names[inner], *(bound.words for bound in bounds_of(declared))])


def _default(field: "dataclasses.Field[Any]") -> str:
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is None or value == ():
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _judged(one: Entry) -> list[str]:
    """How an attack is judged, in words."""
    kind = one.kind
    levels = "`full` and `audit`" if kind.level == "full" else "`audit`"
    lines = [f"- Asks: {kind.question}", f"- Level of evidence: {levels}."]
    if kind.asks == "used":
        lines.append("- Words: *used*, *not used*, *cannot tell*: what stands in the prompt should be used.")
    if kind.beside_original:
        lines.append("- The original is attacked too: what it does not show then, the attack cannot show.")
    if kind.twin_only:
        lines.append("- Judged beside a retrained model only.")
    lines.append(f"- Margin: {kind.margin:g} of what is given back; of losses a fifth of the way from the original.")
    return ["## How it is judged", "\n".join(lines)]


def _needs(one: Entry) -> list[str]:
    """What a method says that it must be given, with its options as they are, in words."""
    if one.catalogue != "methods":
        return []
    needs, lines = one.kind().needs, []
    if needs.retain:
        lines.append("- Rows to keep (`--retain`): it is refused without them.")
    if needs.targets:
        lines.append("- Something to take targets from: `--holdout`, `--base`, or enough rows to recombine.")
    if needs.fewest_retain:
        lines.append(f"- At least {needs.fewest_retain} retain rows, the guard not counted.")
    if needs.parts:
        whole = sum(needs.parts.values())
        shares = ", ".join(f"{weight} in {whole} for {name}" for name, weight in needs.parts.items())
        lines.append(f"- It deals the retain rows out, by hash: {shares}. No row serves two of them.")
    if needs.replay:
        longest = f"{needs.replay.texts} texts of at most {needs.replay.tokens} tokens"
        lines.append(f"- Time to sample from the original: {longest}, the split replay.")
    for what in ("distributions", "states"):
        if splits := [name for name, kept in needs.kept.items() if kept == what]:
            lines.append(f"- Memory for the original's {what} on these rows: {', '.join(splits)}.")
    examples = (Row("", 1, "document", "", "text"), Row("", 1, "answer", "question", "answer"))
    for what in dict.fromkeys(needs.of_rows(row) for row in examples):
        if what:
            lines.append(f"- With every forget row: {what}. It is refused without, before any model is loaded.")
    if needs.layers:
        moved = ", ".join(map(str, needs.layers(DEPTH)))
        lines.append(f"- Of a model's layers only some move: of {DEPTH}, counted from the embeddings, {moved}.")
    return ["## Needs", "\n".join(lines)] if lines else []


def _links(one: Entry, results: Mapping[str, str]) -> str:
    lines = [f"- [The code]({SOURCE}/{one.catalogue}/{one.name}.py), which this page was made from."]
    if one.catalogue == "methods":
        lines.append("- [What the papers say, what their code does, what ours does](papers.md).")
    if "curvature" in one.options:
        lines.append("- [Curvatures](../curvatures/README.md), which `curvature` names.")
    found = [name for name, text in results.items() if re.search(rf"(?<![\w]){one.name}(?![\w])", text)]
    if found and one.catalogue == "methods":
        lines.append("- Measured in: " + ", ".join(f"[{name}](../results/{name}.md)" for name in found) + ".")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def pages() -> dict[Path, str]:
    """All pages by path, as they should be."""
    results = {file.stem: file.read_text(encoding="utf-8") for file in sorted((DOCS / "results").glob("*.md"))}
    found = {SCHEMA: _schema()}
    for catalogue in INTRODUCTIONS:
        entries = [entry(catalogue, name) for name in registry.names(catalogue)]
        found |= {DOCS / catalogue / f"{one.name}.md": page(one, results) for one in entries}
        found[DOCS / catalogue / "README.md"] = index(catalogue, entries)
    return found


def _schema() -> str:
    """A line for each class."""
    whole = record.schema()
    classes = ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in whole.pop("$defs").items())
    return f'{json.dumps(whole)[:-1]}, "$defs": {{\n{classes}\n}}}}\n'


def stale(wanted: Mapping[Path, str]) -> list[Path]:
    """Pages that are missing, differ, or were made here and belong to no entry any more."""
    differ = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    start = MADE.split("{", 1)[0]
    made = [
        path
        for folder in {path.parent for path in wanted}
        for path in folder.glob("*.md")
        if path.read_text(encoding="utf-8").startswith(start)
    ]
    return sorted({*differ, *(path for path in made if path not in wanted)})


def main(arguments: list[str]) -> int:
    """Writes or checks; returns the exit code."""
    wanted = pages()
    found = stale(wanted)
    if "--check" in arguments:
        print(
            "\n".join(f"{path.relative_to(ROOT)} is not what the code says: make docs" for path in found) or "as made"
        )
        return 1 if found else 0
    for path in found:
        if path in wanted:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
        else:
            path.unlink()
        print(f"{path.relative_to(ROOT)} {'written' if path in wanted else 'removed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
