"""The verdicts on a claim about an effect: four, and a fifth where the experiment could not have seen any effect.

A claim says that an effect lies above a criterion. Its interval decides between

- ``HOLDS``: the whole interval lies above the criterion;
- ``REFUTED``: the whole interval lies below the criterion;
- ``EXCLUDED BEYOND d``: the interval holds the criterion, and no effect that is larger by d, the smallest effect of
  interest;
- ``NOT SHOWN``: the interval holds both.

A claim that is neither shown nor refuted needs an assay that could have seen an effect. The interval of
its positive control, which is chosen on the select split like everything else, must lie above the smallest effect of
interest. Where it does not, the verdict is ``ASSAY INSENSITIVE``.
"""

from __future__ import annotations

from lens_steer.errors import LensSteerError
from lens_steer.stats.estimates import Estimate

HOLDS, REFUTED, NOT_SHOWN, INSENSITIVE = "HOLDS", "REFUTED", "NOT SHOWN", "ASSAY INSENSITIVE"
EXCLUDED = "EXCLUDED BEYOND"
TIED = f"{NOT_SHOWN} (a tie at nothing on select)"  # a value that was chosen among values of no effect says nothing
SMALLEST = 0.10  # the smallest effect of interest of a rate, unless a claim names another


def effect_verdict(
    effect: Estimate,
    *,
    criterion: float = 0.0,
    below: bool = False,
    smallest: float | None = SMALLEST,
    seen: bool = True,
) -> str:
    """Return the verdict on a claim that an effect lies above a criterion.

    Args:
        effect: The effect with its interval, at the level at which the claim is made.
        criterion: The value above which the effect lies if the claim holds.
        below: Whether the claim is that the effect lies below the criterion.
        smallest: The smallest effect of interest d > 0, in the effect's unit; None where none is fixed, so that nothing
            can be excluded.
        seen: Whether the positive control was seen (:func:`shows`); True where the assay needs none.

    Returns:
        One of the verdicts of this module.

    Raises:
        LensSteerError: If the smallest effect of interest is not above 0.

    >>> effect_verdict(Estimate(0.3, 0.1, 0.5, 64))
    'HOLDS'
    >>> effect_verdict(Estimate(0.01, -0.04, 0.06, 64))
    'EXCLUDED BEYOND 0.1'
    >>> effect_verdict(Estimate(0.01, -0.04, 0.06, 64), seen=False)
    'ASSAY INSENSITIVE'
    """
    _check(smallest)
    low, high = (criterion - effect.high, criterion - effect.low) if below else (
        effect.low - criterion, effect.high - criterion
    )  # fmt: skip
    if low > 0:
        return HOLDS
    if high < 0:
        return REFUTED
    if not seen:
        return INSENSITIVE
    return f"{EXCLUDED} {smallest:g}" if smallest is not None and high < smallest else NOT_SHOWN


def change_verdict(effect: Estimate, *, smallest: float = SMALLEST, seen: bool = True) -> str:
    """Return the verdict on a claim that there is an effect, in either direction.

    It holds where the interval excludes 0. It cannot be refuted; an effect is excluded beyond d where every effect as
    large as d is, in both directions.

    Args:
        effect, smallest, seen: See :func:`effect_verdict`.

    Raises:
        LensSteerError: If the smallest effect of interest is not above 0.

    >>> change_verdict(Estimate(0.01, -0.04, 0.06, 64)), change_verdict(Estimate(-0.3, -0.5, -0.1, 64))
    ('EXCLUDED BEYOND 0.1', 'HOLDS')
    """
    _check(smallest)
    if effect.low > 0 or effect.high < 0:
        return HOLDS
    if -smallest < effect.low and effect.high < smallest:
        return f"{EXCLUDED} {smallest:g}" if seen else INSENSITIVE
    return NOT_SHOWN


def shows(control: Estimate, *, smallest: float = SMALLEST) -> bool:
    """Return whether a positive control shows an effect as large as the smallest one of interest.

    >>> shows(Estimate(0.6, 0.4, 0.8, 64)), shows(Estimate(0.05, -0.05, 0.15, 64))
    (True, False)
    """
    return control.low >= smallest


def _check(smallest: float | None) -> None:
    if smallest is not None and not smallest > 0:
        raise LensSteerError(f"smallest={smallest}: give the smallest effect of interest, above 0")
