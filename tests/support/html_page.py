"""What a page of HTML holds."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """What a page shows and where it would look for more."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.open, self.addresses, self.policy = "", [], [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "input", "rect"):
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag == "meta" and ("http-equiv", "Content-Security-Policy") in attrs:
            assert self.open == ["html", "head"]  # elsewhere a browser ignores it
            self.policy += dict(attrs)["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "
