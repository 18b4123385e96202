"""HTML for the notebook views.

All text from prompts, models and files is escaped here, and nothing is loaded from elsewhere. The colours of text,
background and table lines are left to the notebook's theme, so a view is readable on light and dark backgrounds. There
is no style sheet and no script, so a view is also readable where a viewer removes styles. (pandas' ``Styler`` writes a
style sheet, and its ``to_html`` takes no style for a cell.)
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lens_steer.stats.estimates import Estimate

LIMIT, DEPTH = 12, 24  # the most rows that are shown: of any table, and of sites over depth
WIDTH = 200  # the most characters of a text that are shown
_MUTED, _TABLE = "opacity:.7", "margin:.4em 0"
_CELL = "vertical-align:top;padding:.2em .6em"
_TEXT, _NUMBER = f"{_CELL};text-align:left;white-space:pre-wrap", f"{_CELL};text-align:right;white-space:nowrap"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

Rows = Sequence[Mapping[str, Any]]


def escaped(text: object) -> str:
    """Return text as HTML, with markup and quotes escaped.

    Control characters, which HTML cannot hold, become �; lone surrogates become ``?``.

    >>> escaped("<b title='x'>")
    '&lt;b title=&#x27;x&#x27;&gt;'
    """
    clean = str(text).encode("utf-8", "replace").decode() if not str(text).isascii() else str(text)
    return html.escape(_CONTROL.sub("�", clean))


def cut(text: str, width: int = WIDTH) -> str:
    """Return the beginning of a text, and say how much is left out.

    >>> cut("abcdef", 4)
    'abcd … (+2 characters)'
    """
    return text if len(text) <= width else f"{text[:width]} … (+{len(text) - width:,} characters)"


def shown(value: object, width: int = WIDTH) -> str:
    """Return a value as text.

    Numbers have four digits, an estimate has its interval, a truth value is a word, and long sequences and texts are
    cut short.

    >>> shown(0.123456), shown(None), shown(True), shown(Estimate(0.5, 0.4, 0.6, 9)), shown(("a", "b"))
    ('0.1235', '—', 'yes', '0.5 [0.4, 0.6], n = 9', 'a, b')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Estimate):
        return f"{value:.3g}, n = {value.n}"
    if isinstance(value, list | tuple):
        more = f", … ({len(value)})" if len(value) > LIMIT else ""
        return ", ".join(map(shown, value[:LIMIT])) + more
    return cut(str(value), width)


def heading(text: str) -> str:
    """Return the first line of a view."""
    return f'<div style="font-weight:bold">{escaped(cut(text, 4 * WIDTH))}</div>'


def note(text: str) -> str:
    """Return a line in a lighter tone."""
    return f'<div style="{_MUTED}">{escaped(text)}</div>'


def facts(found: Mapping[str, Any]) -> str:
    """Return names beside their values, one on each line; empty values are left out."""
    lines = [
        f'<tr><td style="{_TEXT};{_MUTED}">{escaped(name)}</td><td style="{_TEXT}">{escaped(shown(value))}</td></tr>'
        for name, value in found.items()
        if value is not None and value != ""
    ]
    return f'<table style="{_TABLE}">{"".join(lines)}</table>' if lines else ""


def grid(
    rows: Rows, *, of: int | None = None, what: str = "rows", strong: Sequence[str] = (), width: int = WIDTH
) -> str:
    """Return rows as a table whose heads are the columns of the first row.

    Args:
        rows: The rows, all of which are shown; see :func:`first` and :func:`spread`.
        of: The number of rows that there are in all; None where all are given.
        what: The word for the rows, for the line that says how many are left out.
        strong: The columns in bold.
        width: The most characters of a text that are shown.
    """
    if not rows:
        return note(f"no {what}")
    names = list(rows[0])
    numbers = {
        name: all(isinstance(r[name], int | float | None) and not isinstance(r[name], bool) for r in rows)
        for name in names
    }
    head = "".join(
        f'<th style="{_CELL};text-align:{"right" if numbers[n] else "left"}">{escaped(n)}</th>' for n in names
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="{_NUMBER if numbers[n] else _TEXT}{";font-weight:bold" if n in strong else ""}">'
            f"{'' if row[n] is False else escaped(shown(row[n], width))}</td>"
            for n in names
        )
        + "</tr>"
        for row in rows
    )
    left = 0 if of is None else of - len(rows)
    more = note(f"… and {left:,} more {what}; to_pandas() has all") if left > 0 else ""
    return f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}'


def first(rows: Rows, what: str = "rows", *, limit: int = LIMIT, strong: Sequence[str] = ()) -> str:
    """Return the first rows as a table, with a line that says how many are left out."""
    return grid(rows[:limit], of=len(rows), what=what, strong=strong)


def depth(rows: Rows, n: int, *, what: str = "rows", strong: Sequence[str] = ()) -> str:
    """Return rows of some of ``n`` sites as a table, see :func:`spread`, with a line that says how many there are."""
    left_out = f"{len(rows)} of {n} sites, spread over depth; to_pandas() has all"
    return grid(rows, what=what, strong=strong) + (note(left_out) if len(rows) < n else "")


def spread(n: int, limit: int = DEPTH) -> list[int]:
    """Return the indices of the rows to show where the order matters.

    All ``n`` rows are shown if there are at most ``limit``. Otherwise ``limit`` evenly spread rows are, with the first
    and the last among them.

    >>> spread(3), spread(100, 4)
    ([0, 1, 2], [0, 33, 66, 99])
    """
    return list(range(n)) if n <= limit else [round(i * (n - 1) / (limit - 1)) for i in range(limit)]
