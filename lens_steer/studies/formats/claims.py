"""The claims of the study: another format moves a direction and its sites no more than other prompts do.

Their criteria were written before any result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lens_steer.stats.means import middle
from lens_steer.studies.claim import Claim
from lens_steer.studies.formats.study import Compared, Formats, PerDraw
from lens_steer.studies.verdicts import HOLDS, INSENSITIVE, NOT_SHOWN, SMALLEST, split_verdict

LOSS = 0.05  # of the area
BY_CHANCE = 0.5  # where random sets of the same sizes agree as far, agreement says nothing
LEVEL = 0.9  # of the middle of the draws that stands beside a median


def claims(found: Formats) -> list[Claim]:
    """Return the claims of the study.

    Args:
        found: The results of :func:`lens_steer.studies.formats.study.formats`.
    """
    return [claim for of in found.others for claim in (_separates(found, of), _turns(found, of), _moves(found, of))]


def _separates(found: Formats, of: Compared) -> Claim:
    lost = of.area - of.area_there
    verdict = split_verdict(lost, -LOSS)
    if split_verdict(of.area_there - of.random, 0.0) != HOLDS:
        verdict = INSENSITIVE
    elif verdict == HOLDS and split_verdict(of.area - of.random, 0.0) != HOLDS:
        verdict = NOT_SHOWN
    return Claim(
        id=f"separates-{of.format.name}",
        statement=f"on prompts in the format {of.format.name!r} the direction of the model's own format separates as "
        "that of this format does",
        formula="AUROC of the other half's projections on the one direction less that on the other",
        level="geometry",
        domain=_domain(found),
        quantity="difference of the areas under the ROC curves, median",
        criterion=f"at least {-LOSS:g} in 95 % of the draws, and both areas above all random directions in as many",
        value=float(np.median(lost)),
        n=found.held_out,
        verdict=verdict,
        witness=_beside(lost) | {"area": float(np.median(of.area)), "random": float(np.median(of.random))},
    )


def _turns(found: Formats, of: Compared) -> Claim:
    excess = of.cosine - found.prompts_cosine
    return Claim(
        id=f"direction-{of.format.name}",
        statement=f"the format {of.format.name!r} turns the direction no more than other prompts do",
        formula="cos(d, d in the other format) − cos(d, d from the other half)",
        level="geometry",
        domain=_domain(found),
        quantity="difference of the cosines, median",
        criterion=f"at least {-SMALLEST:g} in 95 % of the draws",
        value=_median(excess),
        n=2 * found.n,
        verdict=split_verdict(excess, -SMALLEST),
        witness=_beside(excess) | {"cosine": _median(of.cosine), "other_prompts": _median(found.prompts_cosine)},
    )


def _moves(found: Formats, of: Compared) -> Claim:
    excess = of.jaccard - found.prompts_jaccard
    by_chance = float(np.median(found.prompts_chance))
    return Claim(
        id=f"sites-{of.format.name}",
        statement=f"the format {of.format.name!r} changes the discriminative sites no more than other prompts do "
        "(published rule)",
        formula="Jaccard(L, L in the other format) − Jaccard(L, L from the other half)",
        level="geometry",
        domain=_domain(found),
        quantity="difference of the Jaccard indices, median",
        criterion=f"at least {-SMALLEST:g} in 95 % of the draws; sets of these sizes agree by chance below "
        f"{BY_CHANCE:g}",
        value=float(np.median(excess)),
        n=2 * found.n,
        verdict=INSENSITIVE if by_chance >= BY_CHANCE else split_verdict(excess, -SMALLEST),
        witness=_beside(excess)
        | {
            "jaccard": float(np.median(of.jaccard)),
            "other_prompts": float(np.median(found.prompts_jaccard)),
            "by_chance": by_chance,
        },
    )


def _domain(found: Formats) -> str:
    return f"{len(found.prompts_cosine)} draws that deal the prompts into halves of {found.n} of a class"


def _median(values: PerDraw) -> float | None:
    return middle(values)[1]


def _beside(values: PerDraw) -> Mapping[str, Any]:
    low, _, high = middle(values, level=LEVEL)
    return {"middle_90": [low, high], "holds_jointly": False}
