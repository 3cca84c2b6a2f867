"""What must hold of the finished site: it loads nothing from elsewhere, and every link arrives."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

ELSEWHERE = ("http:", "https:", "//")
UNREAD_MARKDOWN = re.compile(r"(?m)^\s*(\|.*\|\s*$|[-*] \w|```|\d\. \w)")
"""How a line of a table, a list or a block begins that was taken for text."""


class Page(HTMLParser):
    """What the checks need of one page.

    Attributes:
        loaded: Addresses that the browser loads by itself.
        links: Addresses that a reader may follow.
        anchors: Places on the page that a link may name.
        paragraphs: The text of each paragraph.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.paragraphs: list[str] = []
        self._is_in_paragraph = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the addresses and the anchor of a tag."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if "src" in values:
            self.loaded.append(values["src"])
        if tag == "link" and values.get("rel") != "canonical":
            self.loaded.append(values.get("href", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "p":
            self._is_in_paragraph = True
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        """Note the end of a paragraph."""
        if tag == "p":
            self._is_in_paragraph = False

    def handle_data(self, data: str) -> None:
        """Note the text of a paragraph."""
        if self._is_in_paragraph:
            self.paragraphs[-1] += data


def problems_of_site(site: Path) -> list[str]:
    """Everything that is wrong with a finished site, one line each."""
    pages: dict[Path, Page] = {}
    for path in sorted(site.rglob("*.html")):
        # the page for missing pages has addresses of a server, and is not reached on files
        if path.name != "404.html":
            pages[path.resolve()] = Page(path.read_text(encoding="utf-8"))

    found: list[str] = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve()).as_posix()
        for address in page.loaded:
            if address.startswith(ELSEWHERE):
                found.append(f"{name} loads {address}")
        for address in [*page.loaded, *page.links]:
            if not leads_somewhere(address, path, pages):
                found.append(f"{name} leads to {address}, which does not exist")
        for text in page.paragraphs:
            if UNREAD_MARKDOWN.search(text):
                found.append(f"{name} shows Markdown as text: {text[:80]!r}")
    return found


def leads_somewhere(address: str, path: Path, pages: dict[Path, Page]) -> bool:
    """Whether the file of an address exists, and the place in it; other sites are not asked."""
    target, anchor = urldefrag(address)
    if re.match(r"\w+:|//", target):
        return True
    place = path
    if target:
        place = (path.parent / unquote(target).partition("?")[0]).resolve()
    if not place.exists():
        return False
    is_page = place in pages and anchor and not anchor.startswith("__")
    return not is_page or unquote(anchor) in pages[place].anchors
