"""The claims of the study: another format changes a direction and its sites little more than other prompts do.

Their criteria were written before any result on a real model.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lens_steer.stats.means import middle
from lens_steer.studies.claim import Claim
from lens_steer.studies.formats.study import Compared, Formats, PerDraw
from lens_steer.studies.verdicts import HOLDS, INSENSITIVE, NOT_SHOWN, REFUTED, SMALLEST, mostly, split_verdict

LOSS = 0.05  # of the area
AGREED = 0.5  # cosine of two halves below which their directions say nothing of a third
LEVEL = 0.9  # of the middle of the draws that stands beside a median


def claims(found: Formats) -> list[Claim]:
    """Return the claims of the study; none of a format with the token ids of the model's own.

    Args:
        found: The results of :func:`lens_steer.studies.formats.study.formats`.
    """
    others = [of for of in found.others if of.same_ids < 1]
    return [claim for of in others for claim in (_separates(found, of), _turns(found, of), _moves(found, of))]


def _separates(found: Formats, of: Compared) -> Claim:
    lost = of.area - of.area_there
    verdict = _seen(split_verdict(lost, -LOSS), mostly(of.area_there > of.random_there))
    if verdict == HOLDS and not mostly(of.area > of.random):
        verdict = NOT_SHOWN
    return Claim(
        id=f"separates-{of.format.name}",
        statement=f"on prompts in the format {of.format.name!r} the direction of the model's own format loses at most "
        f"{LOSS:g} of the area under the ROC curve against that of this format",
        formula="AUROC of the other half's projections on the one direction less that on the other",
        level="geometry",
        domain=_domain(found),
        quantity="difference of the areas under the ROC curves, median",
        criterion=f"at least {-LOSS:g} in 95 % of the draws, and in as many both areas above all random directions",
        value=float(np.median(lost)),
        n=found.held_out,
        verdict=verdict,
        witness=_beside(lost) | {"area": float(np.median(of.area)), "random": float(np.median(of.random))},
    )


def _turns(found: Formats, of: Compared) -> Claim:
    reference, excess = found.own.cosine_other, of.cosine_other - found.own.cosine_other
    return Claim(
        id=f"direction-{of.format.name}",
        statement=f"between two halves of the prompts, the format {of.format.name!r} takes at most {SMALLEST:g} from "
        "the cosine of their directions",
        formula="cos(d, d of the other half in the other format) − cos(d, d of the other half)",
        level="geometry",
        domain=_domain(found),
        quantity="difference of the cosines, median",
        criterion=f"at least {-SMALLEST:g} in 95 % of the draws, and in as many both halves at least {AGREED:g} in the "
        "own format",
        value=_median(excess),
        n=sum(found.halves) + found.held_out,
        verdict=_seen(split_verdict(excess, -SMALLEST), mostly(reference >= AGREED)),
        witness=_beside(excess) | {"cosine": _median(of.cosine_other), "own_format": _median(reference)},
    )


def _moves(found: Formats, of: Compared) -> Claim:
    reference, excess = found.own.jaccard_other, of.jaccard_other - found.own.jaccard_other
    return Claim(
        id=f"sites-{of.format.name}",
        statement=f"between two halves of the prompts, the format {of.format.name!r} takes at most {SMALLEST:g} from "
        "the Jaccard index of their discriminative sites (published rule)",
        formula="Jaccard(L, L of the other half in the other format) − Jaccard(L, L of the other half)",
        level="geometry",
        domain=_domain(found),
        quantity="difference of the Jaccard indices, median",
        criterion=f"at least {-SMALLEST:g} in 95 % of the draws, and in as many both halves above chance in the own "
        "format",
        value=float(np.median(excess)),
        n=sum(found.halves) + found.held_out,
        verdict=_seen(split_verdict(excess, -SMALLEST), mostly(reference > found.own.chance_other)),
        witness=_beside(excess)
        | {
            "jaccard": float(np.median(of.jaccard_other)),
            "own_format": float(np.median(reference)),
            "by_chance": float(np.median(found.own.chance_other)),
        },
    )


def _seen(verdict: str, seen: bool) -> str:
    """Return the verdict; where the reference shows nothing, only a refutation is one."""
    return verdict if seen or verdict == REFUTED else INSENSITIVE


def _domain(found: Formats) -> str:
    halves = " and ".join(map(str, found.halves))
    return f"{len(found.own.area)} draws that deal the prompts of these files into halves, of {halves} of the classes"


def _median(values: PerDraw) -> float | None:
    return middle(values)[1]


def _beside(values: PerDraw) -> dict[str, Any]:
    low, _, high = middle(values, level=LEVEL)
    return {"middle_90": [low, high], "holds_jointly": False}
