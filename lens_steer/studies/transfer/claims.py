"""The claims of the study: a direction holds on another source's prompts, and few prompts are enough.

Their first criteria were written before any result; what was changed after a look is marked *post hoc*
(:data:`lens_steer.studies.claim.POST_HOC`).
"""

from __future__ import annotations

from math import hypot
from statistics import NormalDist

import numpy as np

from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import middle
from lens_steer.stats.rates import Z_95
from lens_steer.studies.claim import Claim
from lens_steer.studies.transfer.few import Draws
from lens_steer.studies.transfer.study import Pair, Transfer
from lens_steer.studies.verdicts import HOLDS, INSENSITIVE, NOT_SHOWN, SMALLEST, effect_verdict, split_verdict

FEW = 33  # prompts of a class
LOSS = 0.05  # of the area
ALIKE = 0.8  # Jaccard index of two choices of sites that count as the same
LEVEL = 0.9  # of the middle of the draws
BY_CHANCE = 0.5  # where random sets of the same sizes agree as far, agreement says nothing


def claims(found: Transfer) -> list[Claim]:
    """Return the claims of the study.

    Args:
        found: The results of :func:`lens_steer.studies.transfer.study.transfer`.
    """
    between = [p for p in found.pairs if p.fitted != p.on]
    z = NormalDist().inv_cdf(1 - 0.025 / max(1, len(between)))
    made = [_transfers(p, z) for p in between]
    for source in found.sources:
        own = [d for d in found.draws if d.source == source.name]
        made += [_same_sites(d, f"same-sites-{d.source}") for d in own if d.n == d.half]
        few = [d for d in own if d.n == FEW and d.half >= 2 * FEW]  # more would share most prompts with the half
        made += [claim for d in few for claim in (_few_direction(d), _same_sites(d, f"few-sites-{d.source}"))]
    return made


def less(one: Estimate, other: Estimate) -> Estimate:
    """Return a difference of two areas with an interval from theirs, by adding squares (Newcombe).

    The areas are of the same prompts and therefore correlated, so the interval is wider than it need be.

    >>> print(less(Estimate(0.9, 0.8, 0.95, 60), Estimate(0.95, 0.88, 0.98, 60)))
    -0.050 [-0.154, 0.036] (n = 60)
    """
    value = one.value - other.value
    below = hypot(one.value - one.low, other.high - other.value)
    above = hypot(one.high - one.value, other.value - other.low)
    return Estimate(value, value - below, value + above, min(one.n, other.n))


def _transfers(pair: Pair, z: float) -> Claim:
    effects = [less(pair.area(at), pair.own(at)) for at in (Z_95, z)]
    said = [_beside_random(e, pair, at) for e, at in zip(effects, (Z_95, z), strict=True)]
    effect = effects[0]
    shared = ", with the same prompts without the feature as for the direction" if pair.shared else ""
    return Claim(
        id=f"transfers-{pair.fitted}-on-{pair.on}",
        statement=f"on prompts of {pair.on} the direction from {pair.fitted} loses less than {SMALLEST:g} of the area "
        f"under the ROC curve against that from {pair.on}",
        formula="AUROC of held-out projections on the one direction less that on the other, each at its selected site",
        level="geometry",
        domain=f"held-out prompts of {pair.on}{shared}, without {pair.left_out} that the direction was made from",
        quantity="difference of the areas under the ROC curves",
        criterion=f"95 % interval above {-SMALLEST:g}, and both areas' intervals above all random directions",
        value=effect.value,
        n=effect.n,
        verdict=said[0],
        interval=(effect.low, effect.high),
        witness={
            "area": pair.area().value,
            "own": pair.own().value,
            "random": list(pair.random),
            "surface": dict(pair.surface),
            "cosine": pair.cosine,
            "jaccard": pair.jaccard,
            "surely_worse": effect.high < 0,
            "holds_jointly": said[1] == HOLDS,
        },
    )


def _beside_random(effect: Estimate, pair: Pair, z: float) -> str:
    """Return the verdict: nothing where the own direction is no better than random ones, which then are as good."""
    if pair.own(z).low <= pair.random[1]:
        return INSENSITIVE
    verdict = effect_verdict(effect, criterion=-SMALLEST, smallest=None)
    return NOT_SHOWN if verdict == HOLDS and pair.area(z).low <= pair.random[1] else verdict


def _same_sites(d: Draws, key: str) -> Claim:
    """Return the claim that two calibrations from different prompts have the same discriminative sites."""
    low, value, high = middle(d.jaccard, level=LEVEL)
    by_chance = float(np.median(d.chance))
    verdict = INSENSITIVE if by_chance >= BY_CHANCE else split_verdict(d.jaccard, ALIKE)
    return Claim(
        id=key,
        statement=f"{d.n} prompts of a class of {d.source} give the discriminative sites that {d.n} others give "
        "(published rule)",
        formula="|L ∩ L'| / |L ∪ L'|",
        level="geometry",
        domain=f"{len(d.jaccard)} draws of two sets of {d.n} prompts of a class that share none",
        quantity="median Jaccard index",
        criterion=f"at least {ALIKE:g} in 95 % of the draws; sets of these sizes agree by chance below {BY_CHANCE:g}",
        value=value,
        n=2 * d.n,
        verdict=verdict,
        witness={"middle_90": [low, high], "by_chance": by_chance, "holds_jointly": False},
    )


def _few_direction(d: Draws) -> Claim:
    low, value, high = middle(d.lost, level=LEVEL)
    return Claim(
        id=f"few-direction-{d.source}",
        statement=f"{d.n} prompts of a class of {d.source} give a direction that separates other prompts as that of "
        f"{d.half} does",
        formula="AUROC of the other half's projections, of the few less of the whole half",
        level="geometry",
        domain=f"{len(d.lost)} draws of {d.n} prompts of a class, out of {d.half} that are drawn too",
        quantity="loss that 95 % of the draws stay above",
        criterion=f"in 95 % of the draws at least {-LOSS:g}",
        value=low,
        n=d.held_out,
        verdict=split_verdict(d.lost, -LOSS),
        witness={
            "median": value,
            "middle_90": [low, high],
            "same_site": float(d.same_site.mean()),
            "cosine": float(np.nanmedian(d.cosine)),
            "holds_jointly": False,
        },
    )
