"""Rates as rows of dots: one row a condition, one colour and marker a quantity, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lens_steer.figures.core import Value


def rate_rows(
    axis: Any,
    rows: Sequence[Mapping[str, Value]],
    looks: Mapping[str, tuple[str, str, str]],
    labels: Sequence[str],
    *,
    apart: float,
) -> None:
    """Draw rates in percent, the first row on top.

    Args:
        axis: The axes to draw in.
        rows: The rows, with ``NAME``, ``NAME_low`` and ``NAME_high`` for each quantity; one whose ``NAME`` is None is
            left out.
        looks: Colour, marker and label by quantity.
        labels: The name of each row.
        apart: The distance between the dots of neighbouring quantities, in rows.
    """
    middle = (len(looks) - 1) / 2
    for offset, (name, (color, marker, label)) in enumerate(looks.items()):
        kept = [(i, r) for i, r in enumerate(rows) if r[name] is not None]
        y = [i + apart * (offset - middle) for i, _ in kept]
        value, low, high = ([100 * float(r[f"{name}{e}"]) for _, r in kept] for e in ("", "_low", "_high"))  # type: ignore[arg-type]
        error = [[v - a for v, a in zip(value, low, strict=True)], [b - v for v, b in zip(value, high, strict=True)]]
        axis.errorbar(value, y, xerr=error, color=color, marker=marker, ls="none", ms=3.5, lw=0.8, label=label)
    axis.set(yticks=range(len(rows)), yticklabels=labels, xlim=(-3, 103), xlabel="share (%)")
    axis.invert_yaxis()
