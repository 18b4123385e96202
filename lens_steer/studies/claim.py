"""The record of a claim: its statement, its test, its result and its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lens_steer._display import Shown
from lens_steer.studies.verdicts import HOLDS, REFUTED

REPORTED = "REPORTED"  # the verdict of a claim that was not tested
# The claims, by the beginning of their id, whose criterion was changed after a result was seen, with the commit.
# Against random controls: at first a single draw; since ffee20b beyond every draw; then a rank, over prompts and draws.
_AGAINST_DRAWS = ("against-random-half", "against-random-sites", "second-axis", "the-plane")
# Transfer: random directions and agreement by chance came in, and draws that share no prompt, after a first look.
_TRANSFER = ("transfers-", "same-sites-", "few-direction-", "few-sites-")
# Angle transfer: that the effect of which a share is kept is more than that of random planes.
_SHARES = ("angle-from-", "steering-from-")
POST_HOC = {
    "kl-flat-": "ca4d03e",
    **dict.fromkeys(_TRANSFER, "3695266"),
    **dict.fromkeys(_SHARES, "5c000a0"),
    "sign-score-": "360fa1f",  # a finer outcome of the choice of sites
    **{f"nominal-{outcome}{key}": "55299ea" for outcome in ("", "surprise-", "capable-") for key in _AGAINST_DRAWS},
}


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
        verdict: One of :mod:`lens_steer.studies.verdicts`, ``HOLDS UNDER …``, or ``REPORTED`` where nothing was tested.
        interval: 95 % interval of ``value``, and of nothing else. None where no interval applies, as for an extremum or
            for a share of one model's blocks.
        witness: The shortest counterexample, or the tightest bound found; ``holds_jointly`` tells whether the claim
            holds at the level that is joint for its family too.
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

    @staticmethod
    def of(row: Mapping[str, Any]) -> Claim:
        """Build a claim from the values that :meth:`row` returned."""
        return Claim(**{**row, "interval": row["interval"] and tuple(row["interval"])})


def verdict(holds: bool) -> str:
    """Return the verdict on a claim that is computed and not sampled: a single counterexample refutes it.

    >>> verdict(1 > 2)
    'REFUTED'
    """
    return HOLDS if holds else REFUTED


def marked(claim: Claim, text: str) -> str:
    """Return a text for a Markdown table: bold where the claim holds at the level that is joint for its family.

    Families are those of the claims about behaviour; the others are computed, or each stands for itself.

    >>> words = dict.fromkeys(("id", "statement", "formula", "level", "domain", "quantity", "criterion"), "behaviour")
    >>> for jointly in (False, True):
    ...     witness = {"holds_jointly": jointly}
    ...     print(marked(Claim(**words, value=0.5, n=9, verdict="HOLDS", witness=witness), "holds"))
    holds
    **holds**
    """
    holds = claim.verdict.startswith(HOLDS) and claim.witness.get(
        "holds_jointly", claim.interval is None or claim.level != "behaviour"
    )
    return f"**{text}**" if holds else text


def shown(value: float | str | None) -> str:
    """Return a value as text for a table; None becomes ``—``.

    >>> shown(1.23456e-7), shown(0.5), shown(None)
    ('1.2e-07', '0.5', '—')
    """
    if value is None:
        return "—"
    return value if isinstance(value, str) else f"{value:.2g}" if abs(value) < 0.01 else f"{value:.4g}"


def changed_at(key: str) -> str | None:
    """Return the commit at which a claim's criterion was changed, or the claim added, after a result was seen.

    >>> changed_at("kl-flat-benign-json"), changed_at("norm")
    ('ca4d03e', None)
    """
    return next((commit for start, commit in POST_HOC.items() if key.startswith(start)), None)


def criterion_of(key: str, criterion: str) -> str:
    """Return a claim's criterion as text for a table, marked where it was changed after a result was seen.

    >>> criterion_of("kl-flat-benign-json", "within ± 5 %"), criterion_of("norm", "at most 1")
    ('within ± 5 % (post hoc, ca4d03e)', 'at most 1')
    """
    changed = changed_at(key)
    return criterion if changed is None else f"{criterion} (post hoc, {changed})"


def measured(claim: Claim) -> str:
    """Return the value and the interval of a claim as text for a table.

    >>> text = dict.fromkeys(("id", "statement", "formula", "level", "domain", "quantity", "criterion", "verdict"), "x")
    >>> measured(Claim(**text, value=0.5, n=9, interval=(0.25, 0.75)))
    '0.5 [0.25, 0.75]'
    """
    value = shown(claim.value)
    return value if claim.interval is None else f"{value} [{shown(claim.interval[0])}, {shown(claim.interval[1])}]"
