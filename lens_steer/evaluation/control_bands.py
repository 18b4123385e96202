"""Where the draws of a control lie, and where a method stands among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lens_steer.errors import LensSteerError
from lens_steer.evaluation.selection import Setting

DRAW = "draw"  # a drawn control's variant is this and its number, from 1


@dataclass(frozen=True, kw_only=True)
class Band:
    """Where the draws of a control lie, and a method's value among them.

    Attributes:
        n: draws.
        median, minimum, maximum: over them.
        low, high: their 2.5 % and 97.5 % quantiles.
        p_at_least: ``(1 + #{draws ≥ value}) / (1 + n)``: how rare a value this high is among draws, the value itself
            counted as one.
        p_at_most: the same of ``≤``.
    """

    n: int
    median: float
    minimum: float
    maximum: float
    low: float
    high: float
    p_at_least: float
    p_at_most: float


def band(draws: Sequence[float], value: float) -> Band:
    """The band of some draws.

    Raises:
        LensSteerError: no draws.

    >>> found = band([0.1, 0.2, 0.3], 0.9)
    >>> found.median, found.p_at_least, found.p_at_most
    (0.2, 0.25, 1.0)
    """
    if not len(draws):
        raise LensSteerError("draws is empty: a band needs at least one")
    at = np.asarray(draws, dtype=np.float64)
    low, median, high = (float(q) for q in np.quantile(at, [0.025, 0.5, 0.975]))
    above, below = int((at >= value).sum()), int((at <= value).sum())
    n = len(at)
    return Band(
        n=n,
        median=median,
        minimum=float(at.min()),
        maximum=float(at.max()),
        low=low,
        high=high,
        p_at_least=(1 + above) / (1 + n),
        p_at_most=(1 + below) / (1 + n),
    )


def bands(method: Setting, controls: Sequence[Setting]) -> dict[str, dict[str, Band]]:
    """Quantity → control → band, for every quantity of a method's setting and every control that was drawn; a draw
    without the quantity is not counted.

    Args:
        method: at the value that it is reported at.
        controls: settings of the same split; those without a draw's number, such as the identity's, are passed over.
    """
    by_control: dict[str, list[Setting]] = {}
    for s in controls:
        if s.variant.startswith(f"{DRAW} "):
            by_control.setdefault(s.condition, []).append(s)
    found: dict[str, dict[str, Band]] = {}
    for quantity, estimate in method.measured.items():
        for control, drawn in by_control.items():
            values = [s.measured[quantity].value for s in drawn if quantity in s.measured]
            if values:
                found.setdefault(quantity, {})[control] = band(values, estimate.value)
    return found


def ranges(
    controls: Sequence[Setting], quantity: str
) -> dict[tuple[str, float | None], tuple[float, float, float, int]]:
    """(control, value) → median, least, greatest and number of draws of one quantity: what a figure draws."""
    by_value: dict[tuple[str, float | None], list[float]] = {}
    for s in controls:
        if quantity in s.measured:
            by_value.setdefault((s.condition, s.value), []).append(s.measured[quantity].value)
    return {key: (float(np.median(v)), min(v), max(v), len(v)) for key, v in by_value.items()}
