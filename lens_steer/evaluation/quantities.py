"""Quantities: what is measured of a setting, by neutral names to which each study gives its own labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lens_steer.errors import LensSteerError
from lens_steer.evaluation.sweep_protocol import CAPABILITY, NEGATIVE, POSITIVE
from lens_steer.evaluation.sweep_rows import METRICS

# The side and the column from which each rate is counted. An answer counts in *_answered if it is not refused, not
# broken, and not cut off in a thought.
RATES = {
    "positive_right": (POSITIVE, "right"), "negative_right": (NEGATIVE, "right"), "capable": (CAPABILITY, "right"),
    "positive_refused": (POSITIVE, "refused"), "negative_refused": (NEGATIVE, "refused"),
    "positive_answered": (POSITIVE, "answered"), "negative_answered": (NEGATIVE, "answered"),
    "positive_degenerate": (POSITIVE, "broken"), "negative_degenerate": (NEGATIVE, "broken"),
    "positive_cut_off": (POSITIVE, "cut_off"), "negative_cut_off": (NEGATIVE, "cut_off"),
}  # fmt: skip
MEANS = (*METRICS, "refusal_score")
PERPLEXITIES = {
    "perplexity_ref": (POSITIVE, "surprise_ref"), "perplexity_self": (POSITIVE, "surprise_self"),
    "negative_perplexity_ref": (NEGATIVE, "surprise_ref"), "negative_perplexity_self": (NEGATIVE, "surprise_self"),
}  # fmt: skip
VIOLATIONS = ("violation", "violation_share")
# The names of an earlier version, which stand in its files and are taken as options.
FORMER = {
    "complied": "positive_right", "helped": "negative_right",
    "refused_harmful": "positive_refused", "refused_harmless": "negative_refused",
    "answered_harmful": "positive_answered", "answered_harmless": "negative_answered",
    "broken_harmful": "positive_degenerate", "broken_harmless": "negative_degenerate",
    "degenerate_harmful": "positive_degenerate", "degenerate_harmless": "negative_degenerate",
    "cut_off_harmful": "positive_cut_off", "cut_off_harmless": "negative_cut_off",
    "perplexity_ref_harmless": "negative_perplexity_ref", "perplexity_self_harmless": "negative_perplexity_self",
}  # fmt: skip
ENDS = ("_low", "_high", "_n")  # the ends of an interval and the number of prompts have these after the name


def quantity(name: str, what: str) -> str:
    """Return the name of a quantity, given this name or that of an earlier version.

    >>> quantity("helped", "objective")
    'negative_right'

    Raises:
        LensSteerError: If nothing is measured under this name; the message lists the known names.
    """
    known = {*RATES, *MEANS, *PERPLEXITIES, *VIOLATIONS}
    if FORMER.get(name, name) not in known:
        raise LensSteerError(f"{what} {name!r} is not measured: use one of {', '.join(sorted(known))}")
    return FORMER.get(name, name)


def objective_of(text: str) -> str:
    """Return an objective with its quantity's name of today; after a ``-`` it is minimised.

    >>> objective_of("-refused_harmless")
    '-negative_refused'

    Raises:
        LensSteerError: If the quantity is not measured.
    """
    return "-" * text.startswith("-") + quantity(text.removeprefix("-"), "objective")


def renamed(value: Any) -> Any:
    """Return plain values from a file of an earlier version with the quantities' names of today.

    Names of columns (``complied_low``) are renamed too; everything else is returned as it is.

    >>> renamed({"complied_low": 0.5, "quantities": ["helped", "perplexity_ref"]})
    {'positive_right_low': 0.5, 'quantities': ['negative_right', 'perplexity_ref']}
    """
    if isinstance(value, Mapping):
        return {renamed(key): renamed(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [renamed(v) for v in value]
    if not isinstance(value, str):
        return value
    end = next((e for e in ENDS if value.endswith(e)), "")
    name = value.removesuffix(end)
    return FORMER[name] + end if name in FORMER else value
