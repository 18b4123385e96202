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

import numpy as np
from jaxtyping import Bool, Float

from lens_steer.errors import LensSteerError
from lens_steer.stats.estimates import Estimate

HOLDS, REFUTED, NOT_SHOWN, INSENSITIVE = "HOLDS", "REFUTED", "NOT SHOWN", "ASSAY INSENSITIVE"
EXCLUDED = "EXCLUDED BEYOND"
TIED = f"{NOT_SHOWN} (a tie at nothing on select)"  # a value that was chosen among values of no effect says nothing
BROKEN = f"{NOT_SHOWN} (the choice breaks its bound)"
FEWEST = 10  # draws of a control below which nothing is said of them
FEWEST_SPLITS = 20  # draws of prompts below which 95 % of them is all of them
LARGEST_P = 0.05  # of a method's rank among draws, one-sided
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


def drawn_verdict(
    effect: Estimate,
    ranks: tuple[float, float],
    n_draws: int,
    *,
    below: bool = False,
    smallest: float | None = SMALLEST,
    seen: bool = True,
    largest_p: float = LARGEST_P,
) -> str:
    """Return the verdict on the claim that a method lies beyond the draws of a control.

    It holds where the interval of the difference from the mean of the draws lies on the claimed side and the rank of
    the method among the draws has a one-sided p of at most ``largest_p``; it is refuted where both hold on the other
    side. The interval alone would tell of the mean of such draws, the rank alone of these prompts. With fewer than ten
    draws nothing is shown, refuted or excluded.

    Args:
        effect: The method less the mean of the draws, with an interval over prompts and over draws.
        ranks: The one-sided p of the method's rank among the largest, and among the smallest.
        n_draws: The number of draws.
        below, smallest, seen: See :func:`effect_verdict`.
        largest_p: The largest p.

    >>> far = Estimate(0.7, 0.5, 0.8, 64)
    >>> [drawn_verdict(far, (1 / (1 + n), 1.0), n) for n in (19, 18, 9)]
    ['HOLDS', 'NOT SHOWN', 'NOT SHOWN (fewer than 10 draws)']
    """
    if n_draws < FEWEST:
        return f"{NOT_SHOWN} (fewer than {FEWEST} draws)"
    said = effect_verdict(effect, below=below, smallest=smallest, seen=seen)
    among_largest, among_smallest = ranks
    p = {HOLDS: among_smallest if below else among_largest, REFUTED: among_largest if below else among_smallest}
    return NOT_SHOWN if p.get(said, 0.0) > largest_p else said


def split_verdict(values: Float[np.ndarray, " draws"], least: float) -> str:
    """Return the verdict on the claim that a value is reached, from draws that deal the prompts anew.

    It holds where 95 % of the draws reach the value, and is refuted where 95 % do not. A draw without a value (NaN)
    counts for neither, and with fewer than 20 draws nothing is shown. All draws are of the same prompts: what they
    differ by is not how far other prompts would.

    >>> few = np.repeat([0.2, 0.3, 0.9], 10)
    >>> split_verdict(few, 0.1), split_verdict(few, 0.5), split_verdict(few, 1.0), split_verdict(few[:19], 0.1)
    ('HOLDS', 'NOT SHOWN', 'REFUTED', 'NOT SHOWN (fewer than 20 draws)')
    """
    if len(values) < FEWEST_SPLITS:
        return f"{NOT_SHOWN} (fewer than {FEWEST_SPLITS} draws)"
    if mostly(values >= least):
        return HOLDS
    return REFUTED if mostly(values < least) else NOT_SHOWN


def mostly(draws: Bool[np.ndarray, " draws"]) -> bool:
    """Return whether something is so in 95 % of the draws.

    >>> mostly(np.arange(20) > 0), mostly(np.arange(20) > 1)
    (True, False)
    """
    return float(np.mean(draws)) >= 0.95


def shows(control: Estimate, *, smallest: float = SMALLEST) -> bool:
    """Return whether a positive control shows an effect as large as the smallest one of interest.

    >>> shows(Estimate(0.6, 0.4, 0.8, 64)), shows(Estimate(0.05, -0.05, 0.15, 64))
    (True, False)
    """
    return control.low >= smallest


def _check(smallest: float | None) -> None:
    if smallest is not None and not smallest > 0:
        raise LensSteerError(f"smallest={smallest}: give the smallest effect of interest, above 0")
