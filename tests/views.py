"""What every notebook's view must keep to, what is read from it, and small results to look at."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import torch

from lens_steer._io.rowstore import Rows
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.sweep_rows import COLUMNS
from lens_steer.inference.record import Activations
from tests.made import origin

SITES = tuple(f"blocks.{b}.{k}.hook_out" for b in range(4) for k in ("ln1", "ln2"))
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
    """A view's text and its tables' rows; only plain markup is in it, all of it closed, nothing that is loaded, and no
    colour that a dark ground would swallow.
    """
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


def made(n_positive: int = 14, n_negative: int = 12, seed: int = 0, **other: Any) -> Activations:
    """Eight sites of d_model 10; the classes part further with depth."""
    rng = torch.Generator().manual_seed(7)
    direction = torch.randn(10, generator=rng)
    growth = torch.linspace(0.2, 1.5, 8)[:, None] * (direction + 0.3 * torch.randn(8, 10, generator=rng))
    rng = torch.Generator().manual_seed(seed)
    sides = [
        sign * growth + 0.5 * torch.randn(n, 8, 10, generator=rng) for n, sign in ((n_positive, 1), (n_negative, -1))
    ]
    groups = [tuple(f"{seed} {side} {i}" for i in range(n)) for side, n in (("+", n_positive), ("-", n_negative))]
    grouped: dict[str, Any] = {"groups_positive": groups[0], "groups_negative": groups[1]}
    return Activations(SITES, sides[0], sides[1], **grouped | origin(**other))


def rows_of(values: tuple[float | None, ...] = (0.0, 90.0), condition: str = "selective") -> Rows:
    """Made-up rows of a sweep, without steering too; one prompt more is complied with at each value."""
    numbers: dict[str, Any] = dict.fromkeys(COLUMNS, 0.5)
    return Rows(
        {
            **numbers,
            "condition": name,
            "variant": "",
            "value": v,
            "split": "report",
            "side": "positive",
            "prompt": i,
            "text": "<b>It</b> is.",
            "grade": "correct",
            "right": int(i < n),
            "refused": 0,
            "broken": 0,
        }
        for name, own in ((NONE, (None,)), (condition, values))
        for n, v in enumerate(own)
        for i in range(4)
    )
