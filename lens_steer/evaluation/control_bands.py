"""Bands of the draws of a control, and the rank of a method among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lens_steer.errors import LensSteerError
from lens_steer.evaluation.selection import Setting


@dataclass(frozen=True, kw_only=True)
class Band:
    """The band of a control's draws, and the rank of a method's value among them.

    Attributes:
        n: The number of draws.
        median, minimum, maximum: The median, minimum and maximum of the draws.
        low, high: The 2.5 % and 97.5 % quantiles of the draws.
        p_at_least: ``(1 + #{draws ≥ value}) / (1 + n)``, the share of values at least this high among the draws, with
            the value itself counted as one.
        p_at_most: The same share for values at most this high (``≤``).
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
    """Return the band of some draws and the rank of a value among them.

    Raises:
        LensSteerError: If there are no draws.

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
    """Return the band of every quantity and every drawn control, by quantity and control.

    A draw without the quantity is not counted.

    Args:
        method: The method's setting at the value at which it is reported.
        controls: The settings of the controls on the same split. The draws of a control are its variants; a control
            without variants, such as the identity, runs once and is skipped.
    """
    by_control: dict[str, list[Setting]] = {}
    for s in controls:
        if s.variant:
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
    """Return median, minimum, maximum and number of draws of one quantity, by control and value, for figures."""
    by_value: dict[tuple[str, float | None], list[float]] = {}
    for s in controls:
        if quantity in s.measured:
            by_value.setdefault((s.condition, s.value), []).append(s.measured[quantity].value)
    return {key: (float(np.median(v)), min(v), max(v), len(v)) for key, v in by_value.items()}
