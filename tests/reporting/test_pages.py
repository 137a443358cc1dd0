"""What holds for every page: escaping, redaction, order, words, no outside references, the same bytes twice."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from expunge.reporting import card, html, markdown, plots, tables
from html_pages import FORBIDDEN, Make, Page, Record, Render, outside, scriptless, typed, uneven, words


def drawn(plot: plots.Plot | None) -> plots.Plot:
    assert plot is not None
    return plot


def found_in(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None
    return found[1]


PAGES = [html.render, markdown.render, card.render]


@pytest.mark.parametrize("render", PAGES)
def test_no_word_that_claims_more_than_the_evidence(make_record: Make, render: Render) -> None:
    assert not FORBIDDEN.search(render(typed(make_record())))


@pytest.mark.parametrize("render", PAGES)
def test_nothing_outside_is_referred_to(make_record: Make, render: Render) -> None:
    assert not outside(render(typed(make_record())))


@pytest.mark.parametrize(
    "broken",
    ['<img src="a.png">', "<a href='https://a.b'>a</a>", "url(//a.b)", "@import 'a'", "<script>", "<object>",
     'xmlns="http://a.b"', 'href="http://www.w3.org/"'],
)  # fmt: skip
def test_what_is_outside_is_noticed(broken: str) -> None:
    assert outside(f"<p>text</p>{broken}")


@pytest.mark.parametrize("render", PAGES)
def test_the_same_record_gives_the_same_bytes(make_record: Make, render: Render) -> None:
    record = make_record()
    before = json.dumps(record)
    first = render(typed(record))
    assert render(typed(json.loads(before))).encode() == first.encode()
    assert json.dumps(record) == before, "a page reads the record and leaves it as it was"


@pytest.mark.parametrize("render", PAGES)
@pytest.mark.parametrize("rows", [0, 1, 7, 500])
def test_any_number_of_rows_gives_a_page(make_record: Make, render: Render, rows: int) -> None:
    assert render(typed(make_record(rows=rows, forgotten=1.0)))


@pytest.mark.parametrize("render", PAGES)
def test_an_evaluation_with_one_model_gives_a_page(make_record: Make, render: Render) -> None:
    record = make_record(command="evaluate", retrained=False)
    record["scores"] = [score for score in record["scores"] if score["model"] == "original"]
    record["losses"] = {name: {"original": found["original"]} for name, found in record["losses"].items()}
    for row in record["rows"]:
        row |= {"loss": {"original": 0.1}, "known": {"original": True}, "rank": None, "target": None}
    page = render(typed(record))
    assert "not measured" in page or render is card.render


@pytest.mark.parametrize("render", PAGES)
def test_hostile_strings_stay_text(hostile_record: Record, render: Render) -> None:
    page = render(typed(hostile_record))
    assert "<script" not in scriptless(page) and "\u202e" not in page
    assert "[U+202E]" in page.replace("\\", "")
    page.encode("utf-8")


def test_hostile_strings_leave_the_html_well_formed(make_texts: Make, hostile_record: Record, hostile: str) -> None:
    page = html.render(typed(hostile_record), make_texts(hostile_record))
    parsed = Page(page)
    assert "script" not in parsed.tags and "a" in parsed.tags
    assert "".join(parsed.text).count("<script>alert('x')</script>") > 10, "each of them is shown, as text"


def test_no_string_of_a_record_enters_a_drawing(hostile_record: Record) -> None:
    hostile_record["rows"][0]["name"] = "SECRET"
    for plot in map(drawn, (plots.losses(typed(hostile_record)), plots.history(typed(hostile_record)))):
        for part in (plot.svg, plot.label, plot.note):
            assert "script" not in part and "SECRET" not in part and "alert" not in part


def test_hostile_strings_cannot_break_a_markdown_table(hostile_record: Record, make_texts: Make) -> None:
    page = markdown.render(typed(hostile_record), make_texts(hostile_record))
    assert not uneven(page) and uneven(page.replace("\\|", "|"))
    assert "\\`tick\\`" in page and "`tick`" not in page.replace("\\`", "")
    assert "[a](b)" not in page and "\\*\\*bold" in page


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("# not a heading", "\\# not a heading"), ("1. one", "1\\. one"), ("- x", "\\- x"), ("28 of 30", "28 of 30"),
     ("0.5 of it", "0.5 of it"), ("a_b _c_", "a_b \\_c\\_"), ("a\\|b", "a\\\\\\|b"), ("a\n\nb", "a b"),
     ("<b>&amp;", "&lt;b&gt;&amp;amp;"), ("http://a.b", "http\\://a.b"), ("WWW.a.b", "WWW\\.a.b"),
     ("at 1:2 of a@b.c", "at 1:2 of a\\@b.c")],
)  # fmt: skip
def test_markdown_escapes(text: str, escaped: str) -> None:
    assert markdown.paragraph(text) == escaped


@pytest.mark.parametrize("render", [html.render, markdown.render])
def test_row_text_only_when_asked(make_record: Make, make_texts: Make, render: Render) -> None:
    record = make_record(rows=7)
    redacted, shown = render(typed(record)), render(typed(record), make_texts(record))
    for secret in ("by the river", "Where does person", "says the unlearned"):
        assert secret not in redacted and secret in shown
    assert "shows row text" in shown and "shows row text" not in redacted


def test_the_verdict_comes_before_everything_else(make_record: Make) -> None:
    text = words(html.render(typed(make_record())))
    assert text.startswith("✗ does not pass 28 of 30 rows are forgotten")
    places = [
        text.index(part)
        for part in ("28 of 30 rows", "~ partly", "✓ kept", "What was asked for To remove 30", "What it was compared",
                     "What it cost Unlearning took 2 min 40 s", "What this evidence does not show Only the attacks",
                     "Forgetting against keeping", "Side by side", "Loss row by row", "How training went",
                     "Verdict row by row", "The record")
    ]  # fmt: skip
    assert places == sorted(places)
    assert markdown.render(typed(make_record())).startswith("# 28 of 30 rows are forgotten")


def test_colour_never_stands_alone(make_record: Make) -> None:
    text = words(html.render(typed(make_record(rows=8, forgotten=0.5))))
    for word in ("✓ 4 forgotten", "? 1 cannot tell", "» 1 over-forgotten", "~ 1 partly", "✗ 1 not forgotten"):
        assert word in text


def test_without_a_retrained_model_the_page_says_so(make_record: Make) -> None:
    text = words(html.render(typed(make_record(retrained=False))))
    assert "Not measured: the retrained model." in text
    assert "no retrained model to compare" in text


def test_long_tables_say_what_they_leave_out(make_record: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    page = re.sub("<.*?>", "", markdown.render(typed(make_record(rows=500))))
    assert "The 200 worst of 500 rows; the other 300 are in record.json" in page
    monkeypatch.setattr(tables, "MOST_ROWS", 5)
    page = re.sub("<.*?>", "", html.render(typed(make_record(rows=8))))
    assert "The 5 worst of 8 rows; the other 3 are in record.json" in page


def test_the_page_can_be_read_without_seeing_it(make_record: Make, make_texts: Make) -> None:
    record = make_record()
    attributes = Page(html.render(typed(record), make_texts(record))).attributes
    drawings = [found for tag, found in attributes if tag == "svg"]
    assert len(drawings) == 4
    assert all(found["role"] == "img" and "nats per token" in str(found["aria-label"]) for found in drawings)
    assert all("scope" in found for tag, found in attributes if tag == "th")
    names = [found["id"] for _, found in attributes if "id" in found]
    assert len(names) == len(set(names)), "two drawings on a page must not share names"
    links = [str(found["href"])[1:] for _, found in attributes if "href" in found]
    assert set(links) <= set(names)


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_stands_out_from_its_ground() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    style = (html.TEMPLATES / "report.css").read_text(encoding="utf-8")
    light, dark = style.split("@media screen and (prefers-color-scheme: dark) {")
    for part in (light, dark.split("\n}")[0]):
        tones = re.findall(r"--tone: (#\w{6}); --tint: (#\w{6});", part)
        assert len(tones) == 5
        names = ("soft", "page", "card", "ink", "none", "mine", "notice", "accent", "plot-faint")
        soft, page, card, ink, none, mine, notice, accent, faint = (
            found_in(rf"--{name}: (#\w{{6}})", part) for name in names
        )
        pairs = [*tones, *((tone, card) for tone, _ in tones), (soft, page), *((soft, tint) for _, tint in tones)]
        pairs += [(ink, page), (ink, card), (ink, notice), (none, mine), (none, card), (accent, card), (faint, card)]
        assert min(contrast(*pair) for pair in pairs) >= 4.5


def test_losses_that_are_not_finite_are_counted_and_not_drawn(make_record: Make) -> None:
    record = make_record(rows=7)
    record["losses"]["forget"]["unlearned"] = [math.nan, math.inf, None, 1.0, 2.0, 3.0, 900.0]
    plot = drawn(plots.losses(typed(record)))
    assert "3 losses were not finite" in plot.note and "squeezed beyond 12" in plot.note
    assert "unlearned 2.50" in plot.label, "median of 1, 2, 3, 900"


def test_many_rows_do_not_make_the_page_heavy(make_record: Make) -> None:
    assert len(html.render(typed(make_record(rows=500, retain=5000)))) < 600_000
    assert "160 rows spread evenly" in drawn(plots.losses(typed(make_record(rows=500)))).note


def test_nothing_measured_draws_nothing(make_record: Make) -> None:
    record = make_record() | {"losses": {}, "history": [], "scores": []}
    record["attacks"]["results"] = []
    assert plots.losses(typed(record)) is None and plots.history(typed(record)) is None
    assert "<svg" not in html.render(typed(record))
    nothing = dict.fromkeys(("target", "arrived", "retain", "guard"))
    record["history"] = [{"phase": "descent", "step": 1, "forget": 0.5} | nothing]
    assert "forget from 0.50 to 0.50" in drawn(plots.history(typed(record))).label


def test_the_card_is_a_model_card(make_record: Make) -> None:
    page = card.render(typed(make_record()))
    front, body = page.removeprefix("---\n").split("\n---\n")
    assert front == "library_name: transformers\ntags:\n- unlearning"
    assert make_record()["hashes"]["model"] in body and "(expunge/report.html)" in body
    assert "28 of 30 rows are forgotten" in body and "Only the attacks named here" in body
    assert "forget.jsonl" not in page


def test_the_card_says_how_it_is_served(make_record: Make) -> None:
    """The rank that vLLM is given is the least of those it takes that holds the adapter's largest."""
    assert "vllm serve OUT\n" in (page := card.render(typed(make_record()))) and "convert_hf_to_gguf.py OUT " in page
    over = make_record()
    over["save"] |= {"form": "adapter", "ranks": {"q": 9, "k": 33}}
    page = card.render(typed(over))
    assert "--max-lora-rank 64\n" in page and "convert_lora_to_gguf.py OUT --base BASE" in page
    over["save"]["ranks"] = {"q": 8}
    assert "--max-lora-rank 8\n" in card.render(typed(over))
    del over["save"]["ranks"]
    assert "--max-lora-rank RANK\n" in card.render(typed(over))


def test_pages_need_no_torch() -> None:
    code = (
        "import sys; from expunge.reporting import html, markdown, card; "
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'transformers')"
        " or m.startswith('expunge.') and m != 'expunge.errors'"
        " and not m.startswith(('expunge.report', 'expunge.files'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


WITHOUT_TORCH = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers", "peft", "accelerate"):
            raise ImportError(f"{name} is not there")
sys.meta_path.insert(0, Absent())
from expunge.cli.command_line import main
code = main(sys.argv[1:])
try:
    import expunge.pipeline
except ImportError:
    sys.exit(code)
sys.exit("torch was there all the same")
"""


def test_report_needs_no_torch(make_record: Make, tmp_path: Path) -> None:
    """The command, from a record alone, where torch cannot be imported; what loads models cannot be imported there."""
    (tmp_path / "record.json").write_text(json.dumps(make_record(rows=5)), encoding="utf-8")
    command = ["report", "--record", str(tmp_path), "--output", str(tmp_path / "pages")]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in (tmp_path / "pages").iterdir()) == ["report.html", "report.md"]
