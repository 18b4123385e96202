"""The record of a claim: its statement, its test, its result and its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lens_steer._display import Shown

HOLDS, FAILS, REPORTED = "HOLDS", "FAILS", "REPORTED"
REFUTED, NOT_SHOWN, EXCLUDED, INSENSITIVE = "REFUTED", "NOT SHOWN", "EXCLUDED BEYOND", "ASSAY INSENSITIVE"
TIED = f"{NOT_SHOWN} (a tie at nothing on select)"  # a value that was chosen among values of no effect says nothing


@dataclass(frozen=True, kw_only=True)
class Claim(Shown, view="claims"):
    """One tested claim of a paper or of this project.

    Attributes:
        id: Short, stable identifier.
        statement: What is claimed, in the words of this project, with its place in the paper.
        formula: The quantity that was computed, as a formula.
        level: One of ``formula``, ``basis``, ``dtype``, ``published``, ``recorded``, ``downstream``, ``geometry`` and
            ``behaviour``.
        domain: The vectors, angles, bases and prompts on which the claim was tested.
        quantity: The meaning of ``value``.
        criterion: The condition under which the claim holds. It is fixed before the measurement.
        value: The measured value; None where nothing was measured.
        n: The number of independent units behind the value.
        verdict: ``HOLDS``, ``FAILS``, ``HOLDS UNDER …`` or ``REPORTED``; ``REFUTED`` where the interval lies beyond the
            criterion on the other side; ``EXCLUDED BEYOND d`` for an effect that is smaller than d; ``NOT SHOWN``, with
            the reason in brackets where nothing was measured; ``ASSAY INSENSITIVE`` where the positive control shows no
            effect, so that the absence of one says nothing.
        interval: 95 % interval of ``value``, or of the rate named in ``quantity``. None where no interval applies, as
            for an extremum.
        witness: The shortest counterexample, or the tightest bound found.
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
        """Return the record as plain values, in the form in which ``propositions.json`` stores it."""
        found = asdict(self)
        return found | {
            "interval": None if self.interval is None else list(self.interval),
            "witness": dict(self.witness),
        }


def verdict(holds: bool) -> str:
    """Return ``HOLDS`` if the criterion is met, else ``FAILS``.

    >>> verdict(1 > 2)
    'FAILS'
    """
    return HOLDS if holds else FAILS


def shown(value: float | str | None) -> str:
    """Return a value as text for a table; None becomes ``—``.

    >>> shown(1.23456e-7), shown(0.5), shown(None)
    ('1.2e-07', '0.5', '—')
    """
    if value is None:
        return "—"
    return value if isinstance(value, str) else f"{value:.2g}" if abs(value) < 0.01 else f"{value:.4g}"


def measured(claim: Claim) -> str:
    """Return the value and the interval of a claim as text for a table.

    >>> text = dict.fromkeys(("id", "statement", "formula", "level", "domain", "quantity", "criterion", "verdict"), "x")
    >>> measured(Claim(**text, value=0.5, n=9, interval=(0.25, 0.75)))
    '0.5 [0.25, 0.75]'
    """
    value = shown(claim.value)
    return value if claim.interval is None else f"{value} [{shown(claim.interval[0])}, {shown(claim.interval[1])}]"
