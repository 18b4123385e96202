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
from lens_steer.stats import Estimate

HOLDS, REFUTED, NOT_SHOWN, INSENSITIVE = "HOLDS", "REFUTED", "NOT SHOWN", "ASSAY INSENSITIVE"
EXCLUDED = "EXCLUDED BEYOND"
SMALLEST = 0.10  # the smallest effect of interest of a rate, unless a claim names another


def effect_verdict(
    effect: Estimate,
    *,
    criterion: float = 0.0,
    below: bool = False,
    smallest: float | None = SMALLEST,
    control: Estimate | None = None,
) -> str:
    """Return the verdict on a claim that an effect lies above a criterion.

    Args:
        effect: The effect with its interval, at the level at which the claim is made.
        criterion: The value above which the effect lies if the claim holds.
        below: Whether the claim is that the effect lies below the criterion.
        smallest: The smallest effect of interest d > 0, in the effect's unit; None where none is fixed, so that nothing
            can be excluded.
        control: The effect of the positive control in the claimed direction, with its interval; None where the assay
            needs no control, as for a quantity that is computed and not sampled.

    Returns:
        One of the verdicts of this module.

    Raises:
        LensSteerError: If the smallest effect of interest is not above 0.

    >>> effect_verdict(Estimate(0.3, 0.1, 0.5, 64))
    'HOLDS'
    >>> effect_verdict(Estimate(0.01, -0.04, 0.06, 64))
    'EXCLUDED BEYOND 0.1'
    >>> effect_verdict(Estimate(0.01, -0.04, 0.06, 64), control=Estimate(0.05, -0.1, 0.2, 64))
    'ASSAY INSENSITIVE'
    """
    if smallest is not None and not smallest > 0:
        raise LensSteerError(f"smallest={smallest}: give the smallest effect of interest, above 0")
    low, high = (criterion - effect.high, criterion - effect.low) if below else (
        effect.low - criterion, effect.high - criterion
    )  # fmt: skip
    if low > 0:
        return HOLDS
    if high < 0:
        return REFUTED
    if control is not None and control.low < (smallest or 0.0):
        return INSENSITIVE
    return f"{EXCLUDED} {smallest:g}" if smallest is not None and high < smallest else NOT_SHOWN


def no_effect_verdict(effect: Estimate, *, smallest: float = SMALLEST, control: Estimate | None = None) -> str:
    """Return the verdict on a claim that there is no effect, in either direction.

    It holds where every effect as large as d, the smallest effect of interest, is excluded. It is refuted where the
    interval excludes 0 and is not within ±d. Without a control that could have been seen it cannot hold.

    Args:
        effect, smallest, control: See :func:`effect_verdict`; the control's effect is counted without its sign.

    Raises:
        LensSteerError: If the smallest effect of interest is not above 0.

    >>> no_effect_verdict(Estimate(0.01, -0.04, 0.06, 64)), no_effect_verdict(Estimate(0.3, 0.1, 0.5, 64))
    ('HOLDS', 'REFUTED')
    """
    if not smallest > 0:
        raise LensSteerError(f"smallest={smallest}: give the smallest effect of interest, above 0")
    if -smallest < effect.low and effect.high < smallest:
        seen = control is None or max(control.low, -control.high) >= smallest
        return HOLDS if seen else INSENSITIVE
    return REFUTED if effect.low > 0 or effect.high < 0 else NOT_SHOWN


def is_decided(verdict: str) -> bool:
    """Return whether a verdict says something about the effect: it holds, is refuted, or is excluded beyond a size.

    >>> [is_decided(v) for v in ("HOLDS", "EXCLUDED BEYOND 0.1", "NOT SHOWN", "ASSAY INSENSITIVE")]
    [True, True, False, False]
    """
    return verdict not in (NOT_SHOWN, INSENSITIVE)
