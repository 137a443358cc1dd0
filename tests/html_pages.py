"""A report page as tests read it: tags, attributes and visible text, and what may stand on no page."""

import re
from html.parser import HTMLParser

FORBIDDEN = re.compile(r"proven|deleted|certified|compliant", re.IGNORECASE)
OUTSIDE = re.compile(r"https?:|//\w|\bsrc=|@import|url\((?!#)|<script|<link|<iframe|<object", re.IGNORECASE)
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Collects tags and visible text, and fails where tags do not nest."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(page)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "title"} & set(self.open):
            self.text.append(data)


def words(page):
    return " ".join("".join(Page(page).text).split())
