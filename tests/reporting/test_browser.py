"""The page in a headless Chromium: no complaint, no request, sorted and filtered by keyboard, printed, in the dark."""

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import chromium
from expunge.reporting import html
from html_pages import typed
from reporting.conftest import HOSTILE, build_record, build_texts

PROGRAM = chromium.found()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")
PAPER = 703  # pixels between the margins of A4 at 96 to the inch
NAMES = "Array.from(document.querySelectorAll('#row-table tbody th'), (cell) => cell.firstChild.textContent)"
STATUS = "document.getElementById('row-status').textContent"
FOCUS = "document.activeElement.name || document.activeElement.textContent"
TOO_WIDE = """Array.from(document.querySelectorAll('table, svg, dl, .panels'), (part) => part.getBoundingClientRect())
  .filter((box) => box.right > innerWidth + 1 || box.left < -1).length"""
ROWS = 260


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Tab]:
    assert PROGRAM is not None
    with chromium.tab(PROGRAM, tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 260 rows with hostile text, of which one was asked for earlier."""
    record = build_record(rows=ROWS, forgotten=0.9, retain=20)
    texts = dict(list(build_texts(record).items())[:3])
    record["limits"].append(HOSTILE)
    row = record["rows"][9] | {"name": f"old.jsonl:1 {HOSTILE}", "id": "f" * 16}
    row["loss"] = row["loss"] | {"first": 0.1}
    record["earlier"] = {"verdict": "forgotten", "reasons": [HOSTILE], "counts": {}, "rows": [row], "came_back": []}
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(html.render(typed(record), texts), encoding="utf-8")
    return file


def other(page: Path, change: Callable[[str], str]) -> Path:
    """The page with something changed, beside it."""
    file = page.with_name("other.html")
    file.write_text(change(page.read_text(encoding="utf-8")), encoding="utf-8")
    return file


def check_quiet(tab: chromium.Tab, file: Path) -> None:
    """Nothing in the console, nothing asked for, no scrolling to the side at any width, in light and in dark."""
    for _ in tab.looked_at(file):
        assert tab.run(STATUS).startswith("Showing the first 250 of 261 rows;")


def test_quiet_and_of_the_width_of_the_window(tab: chromium.Tab, page: Path) -> None:
    check_quiet(tab, page)


@pytest.mark.parametrize(
    "broken",
    [
        lambda text: text.replace("<main>", "<main><script>document.title = 'mine'</script>"),  # the policy refuses it
        lambda text: text.replace("<main>", "<main><img src='https://example.invalid/a.png'>"),
        lambda text: text.replace("<main>", "<main style='width: 1400px'>"),
        lambda text: text.replace('id="row-filters"', 'id="filters"'),
    ],
)
def test_a_page_that_is_not_quiet_is_noticed(tab: chromium.Tab, page: Path, broken: Callable[[str], str]) -> None:
    with pytest.raises(AssertionError):
        check_quiet(tab, other(page, broken))
    assert tab.run("document.title") != "mine"


def go_to(tab: chromium.Tab, wanted: str) -> None:
    """Tab by tab, as somebody without a mouse."""
    for _ in range(60):
        tab.press("Tab")
        if tab.run(FOCUS) == wanted:
            return
    raise AssertionError(f"no way to {wanted} by keyboard")


def test_filtered_by_keyboard(tab: chromium.Tab, page: Path) -> None:
    tab.open(page)
    go_to(tab, "verdict")
    tab.press("p")  # of "partly"
    count = tab.run("document.querySelectorAll('#row-table tbody tr').length")
    assert tab.run("document.querySelectorAll('#row-table tbody tr[data-verdict=partly]').length") == count > 0
    assert tab.run(STATUS) == f"Showing {count} rows that fit, of 261; the worst first."
    go_to(tab, "role")
    tab.press("e")  # of "earlier request"
    assert tab.run(NAMES) == [] or all("old.jsonl" in name for name in tab.run(NAMES))
    go_to(tab, "text")
    go_to(tab, "clear")
    tab.press("Enter")
    assert tab.run(STATUS).startswith("Showing the first 250 of 261 rows;")
    tab.run("document.querySelector('[name=text]').focus()")
    for letter in "l:25":
        tab.press(letter)
    assert tab.run(STATUS).startswith("Showing 11 rows that fit, of 261;")  # 25 and 250 to 259
    tab.press("Enter")
    assert tab.run("location.href") == page.as_uri(), "nothing is sent"


def test_sorted_by_keyboard(tab: chromium.Tab, page: Path) -> None:
    tab.open(page)
    before = tab.run(NAMES)
    go_to(tab, "Row")
    tab.press("Enter")
    sorted_ = "Array.from(document.querySelectorAll('th[aria-sort]'), (head) => [head.dataset.name, head.ariaSort])"
    assert tab.run(sorted_) == [["Row", "ascending"]]
    names = tab.run(NAMES)
    assert names[:11] == [f"forget.jsonl:{place}" for place in range(1, 12)], "2 comes before 10"
    assert tab.run(STATUS).endswith("sorted by Row, ascending.")
    tab.press(" ")
    assert tab.run(sorted_) == [["Row", "descending"]] and tab.run(NAMES)[1] == "forget.jsonl:260"
    tab.press("Enter")
    assert tab.run(sorted_) == [] and tab.run(NAMES) == before
    go_to(tab, "Original")
    tab.press("Enter")
    losses = tab.run("Array.from(document.querySelectorAll('#row-table tbody tr'), (row) => row.cells[2].textContent)")
    assert [float(loss) for loss in losses] == sorted(map(float, losses))
    go_to(tab, "Show all 261")
    tab.press("Enter")
    assert len(tab.run(NAMES)) == 261 and tab.run("document.activeElement.id") == "row-status"


def test_what_was_not_measured_comes_last(tab: chromium.Tab, page: Path) -> None:
    swap = 'class="n">5.200</td>', 'class="n"><span class="none">not measured</span></td>'
    tab.open(
        other(page, lambda text: text.replace(*swap, 5).replace('class="n">5.200</td>', 'class="n">-1,000</td>', 1))
    )
    button = "document.querySelector('[data-name=Target] button')"
    column = "Array.from(document.querySelectorAll('#row-table tbody tr'), (row) => row.cells[5].textContent)"
    tab.run("dispatchEvent(new Event('beforeprint'))")  # which shows all
    for ends in (("-1,000", "not measured"), ("5.200", "not measured")):
        tab.run(f"{button}.click()")
        shown = tab.run(column)
        assert (shown[0], shown[-1]) == ends and shown[-5:] == ["not measured"] * 5


def test_whole_without_its_script(tab: chromium.Tab, page: Path) -> None:
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(page)
        assert len(tab.run(NAMES)) == 261
        assert tab.run("document.getElementById('row-filters').getClientRects().length") == 0
        assert tab.run("document.querySelectorAll('th button').length") == 0, "no button that does nothing"
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)


def style(tab: chromium.Tab, selector: str, name: str) -> Any:
    return tab.run(f"getComputedStyle(document.querySelector('{selector}'))['{name}']")


def check_printed(tab: chromium.Tab, file: Path) -> None:
    """On A4 nothing is cut, headers repeat, links are ink, what cannot be used on paper is not there."""
    tab.size(PAPER)
    tab.media("print", "dark")
    try:
        tab.open(file)
        assert tab.run(TOO_WIDE) == 0
        assert (
            style(tab, "thead", "display") == "table-header-group"
            and style(tab, "#row-table tr", "breakInside") == "avoid"
        )
        assert style(tab, ".scores a", "color") == style(tab, "body", "color") == "rgb(31, 41, 51)"
        assert style(tab, "body", "backgroundColor") == "rgb(255, 255, 255)"
        assert style(tab, ".filters", "display") == style(tab, "#row-more", "display") == "none"
        assert tab.run("document.querySelector('details dd').getClientRects().length") > 0, "cards are open"
    finally:
        tab.media()


def test_printed(tab: chromium.Tab, page: Path) -> None:
    check_printed(tab, page)
    tab.open(page)
    paper = base64.b64decode(tab.send("Page.printToPDF", **chromium.A4)["data"])
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", paper)
    assert len(boxes) > 10 and all(abs(float(width) - 595) < 1 and abs(float(high) - 842) < 1 for width, high in boxes)
    assert len(tab.run(NAMES)) == 261, "all rows are printed"


RULES = [
    ".rows { min-width: 800px !important }",
    "@media print { .filters { display: flex } }",
    "thead { display: table-row-group !important }",
    "a { color: blue !important }",
]


@pytest.mark.parametrize("rule", RULES)
def test_a_bad_print_is_noticed(tab: chromium.Tab, page: Path, rule: str) -> None:
    with pytest.raises(AssertionError):
        check_printed(tab, other(page, lambda text: text.replace("</style>", f"{rule}</style>", 1)))


def test_pictures_are_dark_in_the_dark(tab: chromium.Tab, page: Path) -> None:
    inks = []
    tab.open(page)
    for scheme in ("light", "dark"):
        tab.media(scheme=scheme)
        inks.append(style(tab, "#balance-axes_1 text", "fill"))
        ground = "document.querySelector('#balance-patch_1 path')"
        assert tab.run(f"getComputedStyle({ground}).fill") == style(tab, "section", "backgroundColor")
    assert inks == ["rgb(91, 102, 115)", "rgb(169, 179, 191)"]
