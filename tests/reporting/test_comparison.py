"""A comparison's pages, sheets and drawing: content in, files out; hostile strings, crashed cells, missing models."""

import csv
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.files import plain_json
from expunge.files.typed import taken
from expunge.reporting import comparison_pages, findings, latex, likelihood, proposals, scatter, sheets, standings
from expunge.reporting import comparison_tables as tables
from expunge.reporting.content import Content
from expunge.reporting.plots import Plot
from html_pages import FORBIDDEN, Make, Page, Record, outside, uneven
from reporting.conftest import build_proposal

HOSTILE = "=<script>alert('x')</script> | `tick` \"q\"\nnext [a](b) \u202eRTL & **b** $x_1$ \\input{/x} %_#~^{ ]"
FILES = {"comparison.html", "comparison.md", "comparison.csv", "comparison.tex", "comparison.svg", "comparison.json"}
METHODS = {"close": (0.10, 0.90), "weak": (0.60, 0.90), "heavy": (0.00, 0.40)}


def column(
    key: str,
    side: str = "forget",
    group: str = "pooled",
    better: str | None = None,
    margin: float = 0.1,
    label: str | None = None,
) -> Record:
    found: Record = {"metric": "m", "set": "s", "label": label or key, "side": side, "group": group, "margin": margin}
    return found | {"relative": False, "better": better, "range": None, "key": key}


def cell(model: str, seed: int | None, forget: float, retain: float, error: str | None = None, n: int = 400) -> Record:
    """Shares of hits, the same rows first, so that methods differ from twins only where their shares do."""
    made: Record = {"model": model, "seed": seed, "settings": "learning rate 1e-4", "error": error, "seconds": 100.0}
    made |= {"unlearn_seconds": 60.0, "peak_memory_bytes": 2**30, "steps": 10, "tokens": 5000, "flags": [], "rows": {}}
    made |= {"verdict": {"forget": "forgotten", "rest": "kept", "reasons": ["s"]}, "scores": {}}
    made |= {"official": {}, "proposals": [], "sophia": [], "attacks": []}
    if error:
        return made | {"verdict": None}
    for key, share in (("know:forget", forget), ("know:retain", retain), ("term:a", forget), ("term:b", retain)):
        made["rows"][key] = [float(place < round(share * n)) for place in range(n)]
        made["scores"][key] = {"value": share, "low": share - 0.03, "high": share + 0.03, "count": n}
    made["scores"]["aggregate"] = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 12}
    made["scores"]["mmlu"] = {"missing": "no data for MMLU"}
    return made


def build(methods: Mapping[str, tuple[float, float]] = METHODS, twins: int = 2, crashed: bool = True) -> Record:
    cells = [cell("original", None, 1.0, 1.0)]
    cells += [cell("retrained", seed, 0.10, 0.90) for seed in range(twins)]
    for name, (forget, retain) in methods.items():
        cells += [cell(name, seed, forget, retain) for seed in (0, 1)]
        cells += [cell(name, 2, 0, 0, error="NumericalError: at step 3")] if crashed and name == "weak" else []
    columns = [
        column("know:forget", label="Answers known, forget"),
        column("know:retain", side="retain", better="higher", label="Answers known, retain"),
        column("term:a", group="term"),
        column("term:b", group="term", side="retain", better="higher"),
        column("aggregate", group="official", side="other", margin=0.2),
        column("mmlu", group="official", side="other"),
    ]
    return {
        "schema": 1, "kind": "comparison", "created": "2026-01-02T03:04:05+00:00", "benchmark": "rows",
        "machine": "2 cores", "versions": {"expunge": "0.1.0"}, "config": {"seeds": [0, 1]},
        "counts": {"forget": 400, "retain": 400}, "cells": cells, "columns": columns,
    }  # fmt: skip


@pytest.fixture
def content() -> Record:
    return build()


def whole(content: Record) -> Content:
    """What pages take, of what JSON holds."""
    return taken(plain_json.plain(content), Content, "comparison.json")


def of(content: Record) -> standings.Standings:
    return standings.of(whole(content))


def write(folder: Path, content: Record) -> None:
    comparison_pages.write(folder, whole(content))


def drawn(found: standings.Standings, **axes: Any) -> Plot:
    plot = scatter.draw(found, **axes)
    assert plot is not None
    return plot


def word(content: Record, model: str, key: str) -> str:
    return of(content).entries[model, key].word


def test_words_and_summaries(content: Record) -> None:
    found = of(content)
    assert [found.summary(model).place for model in found.methods] == ["in the band", *["outside the band"] * 2]
    assert word(content, "close", "know:forget") == "as retrained"
    assert word(content, "weak", "know:forget") == "short"
    assert word(content, "weak", "know:retain") == "as retrained"
    assert word(content, "heavy", "know:forget") == "cannot tell", "0.10 away, and 0.10 is the margin"
    assert word(content, "heavy", "know:retain") == "lost"
    assert word(content, "heavy", "mmlu") == "not measured"
    assert findings.headline(found) == (
        "Of 3 methods: 1 in the retrained band in every column, 2 outside it in at least one."
    )


def test_the_way_to_more_forgotten_is_from_the_original_to_the_retrained(content: Record) -> None:
    over = build({"over": (0.30, 0.90)})
    for each in over["cells"]:
        score = each["scores"]["know:forget"]
        score["value"] = 1 - score["value"]  # as a loss would go: higher is more forgotten
        score["low"], score["high"] = score["value"] - 0.01, score["value"] + 0.01
        each["rows"].pop("know:forget")
    assert word(over, "over", "know:forget") == "short"
    over["columns"][0]["better"] = "lower"
    assert word(over, "over", "know:forget") == "beyond", "a column that says its way is believed"
    same = build({"weak": (0.60, 0.90)}, crashed=False)
    same["cells"][0] = cell("original", None, 0.10, 1.0)
    assert word(same, "weak", "know:forget") == "differs", "the original does not know the rows either: no way to tell"


def test_a_retain_column_without_a_better_side_only_differs(content: Record) -> None:
    content["columns"][1]["better"] = None
    assert word(content, "heavy", "know:retain") == "differs"


def test_a_crashed_cell_is_a_cell_with_an_error(content: Record, tmp_path: Path) -> None:
    write(tmp_path, content)
    lines = list(csv.DictReader((tmp_path / "cells.csv").open()))
    assert [line["error"] for line in lines if line["model"] == "weak"] == ["", "", "NumericalError: at step 3"]
    for page in ("comparison.html", "comparison.md"):
        text = (tmp_path / page).read_text()
        assert "2 of 3 seeds" in text and "weak, seed 2: NumericalError: at step 3" in text
    pooled = of(content).entries["weak", "know:forget"].pooled
    assert pooled is not None and pooled.seeds == 2
    alone = build({"weak": (0.1, 0.9)})
    alone["cells"] = [each | {"error": "out of memory"} if each["model"] == "weak" else each for each in alone["cells"]]
    entry = of(alone).entries["weak", "know:forget"]
    assert (entry.word, entry.missing) == ("not measured", "every cell ended with an error")
    write(tmp_path, alone)


def test_without_retrained_models_nothing_is_placed(tmp_path: Path) -> None:
    bare = build(twins=0)
    write(tmp_path, bare)
    page = (tmp_path / "comparison.html").read_text()
    assert "No retrained model was scored, so none of 3 methods can be placed" in page
    assert word(bare, "close", "know:forget") == "no band"
    assert "Retrained band" not in (tmp_path / "comparison.svg").read_text()


def test_one_retrained_model_is_said_to_make_a_narrow_band(content: Record) -> None:
    assert not any("too narrow" in note for note in findings.notes(of(content)))
    assert any("too narrow" in note for note in findings.notes(of(build(twins=1))))


def test_null_is_a_score_that_is_not_finite_and_missing_is_none(content: Record) -> None:
    for each in content["cells"]:
        if each["model"] == "heavy":
            each["scores"]["aggregate"] = {"value": None, "low": None, "high": None, "count": 12}
    found = of(content)
    assert found.entries["heavy", "aggregate"].word == "not finite"
    assert "not finite" in found.summary(found.models[-1]).outside
    assert found.entries["heavy", "mmlu"].missing == "no data for MMLU"
    content["cells"][1]["scores"]["aggregate"] = {"value": None}
    assert word(content, "close", "aggregate") == "no band", "a twin that broke is no fault of the method"


def test_written_and_read_again_it_gives_the_same_bytes(content: Record, tmp_path: Path) -> None:
    before = json.dumps(content)
    write(tmp_path, content)
    assert {file.name for file in tmp_path.iterdir()} == FILES | {"cells.csv"}
    assert json.dumps(content) == before
    first = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    write(tmp_path, json.loads((tmp_path / "comparison.json").read_text()))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == first
    for name, page in first.items():
        assert not FORBIDDEN.search(page.decode()) and not outside(page.decode()), name


def test_a_drawing_of_an_earlier_state_does_not_stay(content: Record, tmp_path: Path) -> None:
    write(tmp_path, content)
    content["columns"] = content["columns"][:1]
    write(tmp_path, content)
    assert not (tmp_path / "comparison.svg").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, r"\$\.schema: none of"),
        ({"kind": "record"}, r"\$\.kind: none of"),
        ({"cells": [{"model": "x"}]}, r"\$\.cells\[0\]: .* missing required field seed"),
        ({"cells": [{k: v for k, v in cell("x", 0, 1.0, 1.0).items() if k != "sophia"}]}, r"cells\[0\]: .* sophia"),
        ({"columns": [{"key": "k"}]}, r"\$\.columns\[0\]: .* missing"),
        ({"columns": [column("k", side="left")]}, r"\$\.columns\[0\]\.side: none of the words"),
        ({"columns": [column("k", better="up")]}, r"\$\.columns\[0\]\.better: none of the words"),
    ],
)
def test_content_that_cannot_be_shown_is_refused_before_anything_is_written(
    content: Record, tmp_path: Path, change: Record, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        write(tmp_path, content | change)
    with pytest.raises(InputError, match="missing required field machine"):
        write(tmp_path, {key: value for key, value in content.items() if key != "machine"})
    assert not list(tmp_path.iterdir())


@pytest.fixture
def hostile(content: Record) -> Record:
    content["machine"] = content["benchmark"] = content["created"] = content["config"][HOSTILE] = HOSTILE
    content["cells"].append(cell(HOSTILE, 0, 0.5, 0.5) | {"settings": HOSTILE, "flags": [HOSTILE]})
    content["cells"].append(cell(HOSTILE, 1, 0.5, 0.5, error=HOSTILE))
    words = build_proposal(step=None, phase=HOSTILE, refused=HOSTILE, notes={"warning": HOSTILE, "damping": HOSTILE})
    content["cells"][-2]["proposals"] = [words]
    content["columns"][0]["label"] = content["columns"][1]["label"] = content["columns"][2]["label"] = HOSTILE
    for each in content["cells"]:
        each["scores"]["mmlu"] = {"missing": HOSTILE}
    return content


def test_hostile_strings_stay_text(hostile: Record, tmp_path: Path) -> None:
    write(tmp_path, hostile)
    html = (tmp_path / "comparison.html").read_text()
    assert "script" not in Page(html).tags
    assert "".join(Page(html).text).count("<script>alert('x')</script>") > 10
    for file in tmp_path.iterdir():
        if file.name not in ("comparison.json", "comparison.csv", "cells.csv", "comparison.tex"):
            assert "<script" not in file.read_text() and "\u202e" not in file.read_text(), file
    for svg in ((tmp_path / "comparison.svg").read_text(), drawn(of(hostile)).svg):
        tags = {element.tag.split("}")[-1] for element in ElementTree.fromstring(svg.encode()).iter()}
        assert tags <= {"svg", "g", "path", "use", "text", "tspan", "defs", "clipPath", "rect", "metadata"}, tags


def test_hostile_strings_cannot_break_a_markdown_table(hostile: Record, tmp_path: Path) -> None:
    write(tmp_path, hostile)
    page = (tmp_path / "comparison.md").read_text()
    assert not uneven(page) and uneven(page.replace("\\|", "|"))


def latex_faults(text: str) -> list[str]:
    """Commands that are not ours, braces that do not close, lines of a table of unequal width, open environments."""
    ours = {
        "begin",
        "end",
        "centering",
        "footnotesize",
        "setlength",
        "tabcolsep",
        "hline",
        "caption",
        "label",
        "mathrm",
    }
    ours |= {"textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar", "textquotedbl"}
    body = re.sub(r"(?<!\\)%.*", "", text)
    faults = sorted(set(re.findall(r"\\([a-zA-Z]+)", body)) - ours)
    bare = re.sub(r"\\[^a-zA-Z]", "", body)
    depth = 0
    for sign in bare:
        depth += (sign == "{") - (sign == "}")
        faults += ["brace"] if depth < 0 else []
    faults += ["brace"] if depth else []
    faults += ["special"] if re.search(r"[#~\"<>|]|(?<!\$)\^|_", re.sub(r"\$\^.*?\$", "", bare)) else []
    names = [(kind, name) for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body)]
    faults += ["environment"] if names.count(("begin", "table")) != names.count(("end", "table")) else []
    for table in re.findall(r"\\begin\{tabular\}\{(l+r*)\}(.*?)\\end\{tabular\}", body, re.DOTALL):
        lines = [line for line in table[1].split("\\\\\n") if line.replace(r"\hline", "").strip()]
        faults += ["width" for line in lines if len(re.findall(r"(?<!\\)&", line)) != len(table[0]) - 1]
    return faults


def test_latex_holds_only_our_commands_and_even_tables(content: Record, hostile: Record) -> None:
    assert latex_faults(latex.render(of(build()))) == []
    assert latex_faults(latex.render(of(hostile))) == []
    made = latex.render(of(build()))
    for broken, fault in [
        (made.replace(" & ", " ", 1), "width"), (made + "{", "brace"), (made + r"\input{x}", "input"),
        (made + "a_b", "special"), (made.replace(r"\end{table}", "", 1), "environment"),
    ]:  # fmt: skip
        assert fault in latex_faults(broken)


def test_latex_escapes() -> None:
    assert latex.escaped("50 % of a_b & $x$ {\\}\n~^") == (
        r"50 \% of a\_b \& \$x\$ \{\textbackslash{}\} \textasciitilde{}\textasciicircum{}"
    )


def test_csv_has_a_line_per_model_and_column_with_every_number(content: Record) -> None:
    lines = list(csv.DictReader(io.StringIO(sheets.columns(of(content)))))
    assert len(lines) == 5 * 6 and all(None not in line and None not in line.values() for line in lines)
    line = next(line for line in lines if (line["model"], line["column"]) == ("weak", "know:forget"))
    assert (line["value"], line["band"], line["difference"], line["word"], line["n"]) == (
        "0.6", "0.1", "0.5", "short", "400",
    )  # fmt: skip
    assert float(line["difference_low"]) < 0.5 < float(line["difference_high"]) and line["paired"] == "yes"
    assert next(line for line in lines if line["column"] == "mmlu")["missing"] == "no data for MMLU"


def test_csv_runs_no_formula(hostile: Record) -> None:
    names = {line["model"] for line in csv.DictReader(io.StringIO(sheets.columns(of(hostile))))}
    assert f"'{HOSTILE}" in names
    numbers = next(csv.reader(io.StringIO(sheets.cells(of(hostile)).split("\n", 1)[1])))
    assert not any(value.startswith("'-") for value in numbers)
    assert sheets._plain(-0.5) == "-0.5" and sheets._plain(math.inf) == ""


def test_the_retrained_line_is_the_honest_optimum_of_the_official_parts(content: Record) -> None:
    sections = {section.title: section.grid for section in tables.sections(of(content))}
    official = sections["Parts of the official score"]
    assert [line.detail for line in official.lines if line.is_band] == ["the honest optimum; 2 seeds"]
    assert all(line.cells[1].value == "not measured" and line.cells[1].note for line in official.lines)
    terms = sections["Every term beside the band"]
    assert terms.headers[0] == "Retrained" and terms.band_column == 0 and terms.lines[0].detail == "n = 400"


def test_twelve_methods_stay_apart_in_the_drawing() -> None:
    draw = np.random.default_rng(0)
    many = build({f"method {place}": tuple(draw.random(2)) for place in range(12)}, crashed=False)
    found = of(many)
    marks, lost = scatter._marks(found, *found.columns[:2])
    assert len({(mark.colour, mark.marker) for mark in marks}) == len(marks) == 14 and lost == 0
    svg = drawn(found).svg
    for place in range(12):
        assert f">method {place}<" in svg


def test_the_drawing_says_what_it_leaves_out(content: Record) -> None:
    found = of(content)
    plot = drawn(found)
    assert "Not drawn: 1 cell without" in plot.note and "Shaded" in plot.note
    assert "close 0.100 and 0.900" in plot.label
    assert drawn(found, x=found.columns[1], y=found.columns[0]).label != plot.label


def test_the_page_can_be_read_without_seeing_it(content: Record, tmp_path: Path) -> None:
    write(tmp_path, content)
    page = Page((tmp_path / "comparison.html").read_text())
    assert all("scope" in found for tag, found in page.attributes if tag == "th")
    names = [found["id"] for _, found in page.attributes if "id" in found]
    assert len(names) == len(set(names))
    links = [str(found["href"])[1:] for _, found in page.attributes if "href" in found]
    assert set(links) <= set(names)
    text = " ".join("".join(page.text).split())
    assert text.startswith("Of 3 methods") and "✗ outside the band" in text and "✓ in the band" in text
    assert "short: Answers known, forget; term:a" in text


def test_pages_come_without_torch(content: Record, tmp_path: Path) -> None:
    (tmp_path / "content.json").write_text(json.dumps(content))
    code = (
        "import sys, json, pathlib\n"
        "from expunge.reporting.comparison_pages import write\n"
        "from expunge.files.typed import taken; from expunge.reporting.content import Content\n"
        f"folder = pathlib.Path({str(tmp_path)!r}); "
        "content = json.loads((folder / 'content.json').read_text())\n"
        "write(folder, taken(content, Content, 'content'))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "comparison.html").exists()


def with_steps(content: Record, make_proposal: Make, make_sophia: Make) -> Record:
    """Of `close`, seed 0 takes two steps and seed 1 one of two; `weak` has a step without forecast."""
    close, again = (each for each in content["cells"] if each["model"] == "close")
    close |= {"proposals": [make_proposal(), make_proposal(step=0.25)], "sophia": make_sophia([0.2, 0.6, 0.3])}
    again |= {"proposals": [make_proposal(step=1.0), make_proposal(step=None)], "sophia": make_sophia([0.4])}
    weak = next(each for each in content["cells"] if each["model"] == "weak")
    weak["proposals"] = [make_proposal(predicted={"forget": None, "retain": None, "retain_kl": None}, notes={})]
    return content


def test_what_each_cell_proposed_is_one_table(
    content: Record, make_proposal: Make, make_sophia: Make, tmp_path: Path
) -> None:
    assert not any(table.title == proposals.TITLE for table in tables.overview(of(content)))
    found = tables.proposed(of(with_steps(content, make_proposal, make_sophia)))
    lines = [dict(zip(found.headers, line, strict=True)) for line in found.lines]
    assert [(line["Cell"], line["Proposal"], line["Step"].split(":")[0]) for line in lines] == [
        ("close, seed 0", "1 removal", "0.5"), ("close, seed 0", "2 removal", "0.25"),
        ("close, seed 0", "Sophia", "unclipped"),
        ("close, seed 1", "1 removal", "1"), ("close, seed 1", "2 removal", "refused"),
        ("close, seed 1", "Sophia", "unclipped"),
        ("weak, seed 0", "1 removal", "0.5"),
    ]  # fmt: skip
    assert lines[0]["Change of forget loss"] == "+1.200 (predicted +1.000)" and lines[0]["Damping"] == "0.00021"
    assert lines[0]["Cosine"] == "0.62" and lines[0]["Measurements"] == "9"
    assert lines[4]["Change of forget loss"] == "none"
    assert lines[2]["Step"].endswith("first 20 %, median 30 %, last 30 %; within 10 to 50 % at 2 of 3 checks")
    assert lines[6]["Change of forget loss"] == "+1.200 (no forecast)" and lines[6]["Damping"] == "none"
    write(tmp_path, content)
    for page in ("comparison.html", "comparison.md"):
        text = (tmp_path / page).read_text()
        assert proposals.TITLE in text and "+1.200 (predicted +1.000)" in text


def test_what_attacks_showed_stands_first_with_seeds_that_differ() -> None:
    content = build()
    words = iter(("forgotten", "comes back"))
    for one in content["cells"]:
        if one["model"] == "close" and not one["error"]:
            same = {"attack": "a", "question": "?", "asks": "forgotten", "settings": []}
            one["attacks"] = [
                same | {"title": "rounding", "verdict": next(words, "forgotten")},
                same | {"title": HOSTILE, "verdict": "cannot tell"},
            ]
    table = tables.overview(of(content))[0]
    assert table.title == "Under attack" and table.headers[:3] == ("Model", "Seeds", "Rounding")
    (line,) = table.lines
    assert line[0] == "close" and set(line[2].split(", ")) <= {"forgotten (1)", "forgotten (2)", "comes back (1)"}
    assert "comes back (1)" in line[2] and line[3] == "cannot tell"
    assert tables.overview(of(build()))[0].title != "Under attack"


def test_the_likelihood_attack_needs_two_retrained_models_and_the_losses_of_rows() -> None:
    draw = np.random.default_rng(0)
    levels = draw.uniform(2, 6, 50)
    found = build(crashed=False)
    for each in found["cells"]:
        away = {"original": 4.0, "weak": 2.0}.get(each["model"], 0.0)
        each["rows"]["loss:forget"] = (levels - away + draw.normal(0, 0.1, 50)).tolist()
    table = tables.told_apart(of(found))
    assert [line[:2] for line in table.lines] == [(name, str(seed)) for name in METHODS for seed in (0, 1)]
    areas = {line[0]: float(line[2].split()[0]) for line in table.lines}
    assert areas["weak"] == 1 and abs(areas["close"] - 0.5) < 0.2
    assert likelihood.TITLE in [one.title for one in tables.overview(of(found))]
    for spoilt in (build(twins=1), build()):
        assert not tables.told_apart(of(spoilt)).lines
    found["cells"][1]["rows"]["loss:forget"].pop()
    assert not tables.told_apart(of(found)).lines
