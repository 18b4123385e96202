"""A claim and its verdict: what is said, how it is tested, what was found, and what shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lens_steer._display import Shown

HOLDS, FAILS, REPORTED = "HOLDS", "FAILS", "REPORTED"


@dataclass(frozen=True)
class Claim(Shown, view="claims"):
    """One claim of a paper or of this project, tested.

    Attributes:
        id: short and stable.
        statement: what is claimed, in this project's words, with its place.
        formula: what was computed.
        level: ``formula``, ``basis``, ``dtype``, ``published``, ``recorded``, ``downstream``, ``geometry`` or
            ``behaviour``.
        domain: which vectors, angles, bases, prompts.
        quantity: what ``value`` is.
        criterion: when the claim holds, fixed before the measurement.
        value: what was measured.
        n: how many independent units stand behind it.
        interval: 95 % interval of ``value``, or of the rate named in ``quantity``; None where none applies (an
            extremum).
        verdict: ``HOLDS``, ``FAILS``, ``HOLDS UNDER …`` or ``REPORTED``.
        witness: the shortest counterexample, or the tightest bound found.
    """

    id: str
    statement: str
    formula: str
    level: str
    domain: str
    quantity: str
    criterion: str
    value: float | str | None
    n: int
    verdict: str
    interval: tuple[float, float] | None = None
    witness: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Claim({self.id!r}: {self.verdict}, {shown(self.value)})"

    def row(self) -> dict[str, Any]:
        """The record as plain values, as ``propositions.json`` holds it."""
        found = asdict(self)
        return found | {
            "interval": None if self.interval is None else list(self.interval),
            "witness": dict(self.witness),
        }


def verdict(holds: bool) -> str:
    """``HOLDS`` or ``FAILS``.

    >>> verdict(1 > 2)
    'FAILS'
    """
    return HOLDS if holds else FAILS


def shown(value: float | str | None) -> str:
    """A value as a table shows it.

    >>> shown(1.23456e-7), shown(0.5), shown(None)
    ('1.2e-07', '0.5', '—')
    """
    if value is None:
        return "—"
    return value if isinstance(value, str) else f"{value:.2g}" if abs(value) < 0.01 else f"{value:.4g}"


def measured(claim: Claim) -> str:
    """A claim's value and interval, as a table shows them.

    >>> measured(Claim("a", "x", "f", "formula", "all", "q", "at most 1", 0.5, 9, "HOLDS", (0.25, 0.75)))
    '0.5 [0.25, 0.75]'
    """
    value = shown(claim.value)
    return value if claim.interval is None else f"{value} [{shown(claim.interval[0])}, {shown(claim.interval[1])}]"
