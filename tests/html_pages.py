"""A page as tests read it: tags, attributes and visible text, and what may stand on no page."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from expunge.files import plain_json
from expunge.reporting import html, record

Record = dict[str, Any]  # as JSON has it, so that tests can spoil it; `typed` is what pages take
Make = Callable[..., Record]
Render = Callable[..., str]
FORBIDDEN = re.compile(r"proven|deleted|certified|compliant", re.IGNORECASE)
OUTSIDE = re.compile(r"https?:|//\w|\bsrc=|@import|url\((?!#)|<script|<link|<iframe|<object", re.IGNORECASE)
NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'  # names a vocabulary; a drawing that stands alone must give it
SCRIPT = (Path(html.__file__).parent / "templates" / "rows.js").read_text(encoding="utf-8")
VOID = {"meta", "br", "hr", "img", "input", "link"}


def typed(content: Record) -> record.Record:
    """The record of what JSON holds."""
    return record.decoded(plain_json.plain(content), "record.json")


def scriptless(page: str) -> str:
    """The page without the one script that belongs there."""
    return page.replace(f"<script>{SCRIPT}</script>", "", 1)


def outside(page: str) -> list[str]:
    """What on a page refers to something that does not stand on it."""
    return OUTSIDE.findall(scriptless(page).replace(NAMESPACE, ""))


def uneven(page: str) -> list[str]:
    """Lines of Markdown tables that have other numbers of cells than the head of their table."""
    found, header = [], None
    for line in page.splitlines():
        if not line.startswith("|"):
            header = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line)) - 1
        header = header or cells
        found += [line] if cells != header else []
    return found


class Page(HTMLParser):
    """Collects tags and visible text, and fails where tags do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(scriptless(page))
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "title"} & set(self.open):
            self.text.append(data)


def words(page: str) -> str:
    return " ".join("".join(Page(page).text).split())
