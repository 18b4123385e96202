"""The claims of the study: a direction holds on another source's prompts, and 33 prompts of a class are enough.

The criteria were written before any result.
"""

from __future__ import annotations

from math import hypot
from statistics import NormalDist

import numpy as np

from lens_steer.stats.estimates import Estimate
from lens_steer.stats.rates import Z_95
from lens_steer.studies.claim import Claim, verdict
from lens_steer.studies.transfer.study import Draws, Pair, Source, Transfer, jaccard
from lens_steer.studies.verdicts import HOLDS, INSENSITIVE, SMALLEST, effect_verdict

CLEAR = 0.75  # the area that a source's own direction must surely have, so that a loss could be seen
FEW = 33  # prompts of a class
LOSS = 0.05  # of the area, in 95 % of the draws
ALIKE = 0.8  # Jaccard index of two choices of sites that count as the same


def claims(found: Transfer) -> list[Claim]:
    """Return the claims of the study.

    Args:
        found: The results of :func:`lens_steer.studies.transfer.study.transfer`.
    """
    between = [p for p in found.pairs if p.fitted != p.on]
    z = NormalDist().inv_cdf(1 - 0.025 / max(1, len(between)))
    made = [_transfers(p, z) for p in between]
    own = {p.on: p for p in found.pairs if p.fitted == p.on}
    for source in found.sources:
        made.append(_halves(source))
        few = next((d for d in found.draws if d.source == source.name and d.n == FEW), None)
        if few is not None:
            made += [_few_direction(few, own[source.name]), _few_sites(few)]
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
    seen = pair.own().low >= CLEAR
    # Where even the own direction hardly separates, another is as good without being any good.
    said = [effect_verdict(e, criterion=-SMALLEST, smallest=None) if seen else INSENSITIVE for e in effects]
    effect = effects[0]
    return Claim(
        id=f"transfers-{pair.fitted}-on-{pair.on}",
        statement=f"the direction from {pair.fitted} separates the classes of {pair.on} as that from {pair.on} does",
        formula="AUROC of held-out projections on the one direction less that on the other, each at its selected site",
        level="geometry",
        domain=f"held-out prompts of {pair.on}, without {pair.left_out} that the direction was made from",
        quantity="difference of the areas under the ROC curves",
        criterion=f"95 % interval above {-SMALLEST:g}; the own direction's interval above {CLEAR:g}",
        value=effect.value,
        n=effect.n,
        verdict=said[0],
        interval=(effect.low, effect.high),
        witness={
            "area": pair.area().value,
            "own": pair.own().value,
            "random": list(pair.random),
            "cosine": pair.cosine,
            "jaccard": pair.jaccard,
            **({"holds_jointly": said[1] == HOLDS} if said[0] == HOLDS else {}),
        },
    )


def _halves(source: Source) -> Claim:
    one, other = (set(c.discriminative_sites) for c in (source.calibration, source.other))
    value = jaccard(one, other)
    return Claim(
        id=f"same-sites-{source.name}",
        statement=f"two halves of the prompts of {source.name} give the same discriminative sites (published rule)",
        formula="|L ∩ L'| / |L ∪ L'|",
        level="geometry",
        domain=f"{source.fit.n_positive} and {source.held_out.n_positive} positive prompts, drawn once",
        quantity="Jaccard index",
        criterion=f"at least {ALIKE:g}",
        value=value,
        n=len(one | other),
        verdict=verdict(value >= ALIKE),
        witness={"one": len(one), "other": len(other), "both": len(one & other)},
    )


def _few_direction(few: Draws, own: Pair) -> Claim:
    lost = few.area - own.area().value
    low, value, high = (float(np.quantile(lost, q)) for q in (0.05, 0.5, 0.95))
    return Claim(
        id=f"few-direction-{few.source}",
        statement=f"{few.n} prompts of a class of {few.source} give a direction that separates as that of all does",
        formula="AUROC of held-out projections, of the few less of all",
        level="geometry",
        domain=f"{len(few.area)} draws of {few.n} prompts without replacement; the same held-out prompts for all",
        quantity="median difference of the areas",
        criterion=f"in 95 % of the draws at least {-LOSS:g}",
        value=value,
        n=len(few.area),
        verdict=verdict(low >= -LOSS),
        witness={
            "middle_90": [low, high],
            "same_site": float(few.same_site.mean()),
            "cosine": float(np.nanmedian(few.cosine)),
        },
    )


def _few_sites(few: Draws) -> Claim:
    low, value, high = (float(np.quantile(few.jaccard, q)) for q in (0.05, 0.5, 0.95))
    return Claim(
        id=f"few-sites-{few.source}",
        statement=f"{few.n} prompts of a class of {few.source} give the discriminative sites that other prompts give",
        formula="|L ∩ L'| / |L ∪ L'|",
        level="geometry",
        domain=f"{len(few.area)} draws of {few.n} prompts without replacement, against the held-out prompts",
        quantity="median Jaccard index",
        criterion=f"at least {ALIKE:g} in half of the draws",
        value=value,
        n=len(few.jaccard),
        verdict=verdict(value >= ALIKE),
        witness={"middle_90": [low, high]},
    )
