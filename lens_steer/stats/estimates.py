"""Estimates with their intervals, and how they are written."""

from __future__ import annotations

from dataclasses import dataclass

from lens_steer._display import Shown


@dataclass(frozen=True)
class Estimate(Shown, view="estimates"):
    """A value with its 95 % interval.

    Attributes:
        value: The estimate.
        low, high: The ends of the interval.
        n: The number of units; of groups where only they are independent.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self:.3f} (n = {self.n})"

    def __float__(self) -> float:
        return float(self.value)

    def __format__(self, spec: str) -> str:
        """Format value and interval with a float format; without a format, as ``str`` does.

        >>> f"{Estimate(0.9, 0.6, 0.98, 10):.0%}"
        '90% [60%, 98%]'
        """
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]" if spec else str(self)


def percent(
    share: float | Estimate | None,
    low: float | None = None,
    high: float | None = None,
    *,
    form: str = ".0f",
    unit: str = "",
) -> str:
    """Write a share in percent, with its interval if it has one.

    Args:
        share: A share between 0 and 1, or an estimate of one; None is written as a dash.
        low: The lower end of the interval, as a share. None: no interval is written.
        high: The upper end of the interval, as a share. None: no interval is written.
        form: The format of each number.
        unit: The text after the value, such as " %".

    >>> percent(Estimate(0.5, 0.25, 0.75, 8)), percent(0.125, form=".1f", unit=" %"), percent(None)
    ('50 [25, 75]', '12.5 %', '—')
    """
    if isinstance(share, Estimate):
        share, low, high = share.value, share.low, share.high
    if share is None:
        return "—"
    interval = "" if low is None or high is None else f" [{100 * low:{form}}, {100 * high:{form}}]"
    return f"{100 * share:{form}}{unit}{interval}"


def columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """Return the three columns of an estimate in a table: its value and both ends of its interval.

    >>> columns("rate", Estimate(0.5, 0.25, 0.75, 8))
    {'rate': 0.5, 'rate_low': 0.25, 'rate_high': 0.75}
    """
    e = estimate
    return {name: e and e.value, f"{name}_low": e and e.low, f"{name}_high": e and e.high}


def points(difference: Estimate) -> str:
    """Write a difference of shares in signed percentage points, in bold (Markdown) if its interval excludes 0.

    >>> points(Estimate(0.5, 0.25, 0.75, 8)), points(Estimate(0.5, -0.25, 0.75, 8))
    ('**+50 [+25, +75]**', '+50 [-25, +75]')
    """
    text = percent(difference, form="+.0f")
    return f"**{text}**" if difference.low > 0 or difference.high < 0 else text
