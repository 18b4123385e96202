"""What every notebook's view must keep to, and what is read from it."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

TAGS = {"div", "span", "small", "table", "thead", "tbody", "tr", "th", "td"}
ATTRIBUTES = {"style", "title"}
EVIL = "<script>alert(1)</script><img src='x' onerror=\"y\">&amp;\x00"


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.cells: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, f"<{tag}> in a view"
        for name, value in attrs:
            assert name in ATTRIBUTES, f"{name}= in a view"
            assert name != "style" or not any(bad in str(value) for bad in ("url", "@", "expression", "/")), value
        self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1][-1] += data


def read(result: Any) -> tuple[str, list[list[str]]]:
    """A view's text and its tables' rows; only plain markup is in it, all of it closed, nothing that is loaded, and no colour that a dark ground would swallow."""
    markup = result._repr_html_()
    reader = _Reader()
    reader.feed(markup)
    reader.close()
    assert reader.open == []
    assert "\x00" not in markup
    for style in markup.split("style=")[1:]:
        own = style.split(style[0])[1]
        assert ("color:black" in own) == ("background:#" in own), f"text and ground are not set together: {own}"
    return "".join(reader.text), reader.cells


def checked(result: Any, *, longest: int = 300) -> tuple[str, Any]:
    """A result's view as text, and its table; its ``repr`` is one short line with its type's name."""
    shown = repr(result)
    assert shown.startswith(type(result).__name__)
    assert len(shown) <= longest
    assert "\n" not in shown
    frame = result.to_pandas()
    assert frame.columns.is_unique
    return read(result)[0], frame
