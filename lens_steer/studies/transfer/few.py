"""Calibrations from few prompts, each compared with one from as many others of the same source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from lens_steer.geometry.halves import chance, cosine, deal_halves, jaccard
from lens_steer.inference.record import Activations

SIDES = ("positive", "negative")


@dataclass(frozen=True, eq=False)
class Draws:
    """Calibrations of one source from ``n`` prompts of each class.

    In every draw the source's prompts are dealt into two halves. One calibration comes from ``n`` prompts of a class of
    the first half, another from ``n`` of the second, so that the two share no prompt.

    Attributes:
        source: The name of the source.
        n: The number of prompts of each class.
        half: The number of prompts of each class in a half (the smaller one).
        held_out: The number of prompts in the second half, of both classes.
        cosine: The cosine of the first direction with the second calibration's mean difference at the same site.
        jaccard: The Jaccard index of the two sets of discriminative sites; 1 where both are empty.
        chance: The Jaccard index that random sets of the same sizes have on average.
        area: The area under the ROC curve of the whole second half, projected on the first direction.
        lost: This area less that of the direction from the whole first half.
        same_site: Whether the two calibrations selected the same site.
    """

    source: str
    n: int
    half: int
    held_out: int
    cosine: Float[np.ndarray, " draws"]
    jaccard: Float[np.ndarray, " draws"]
    chance: Float[np.ndarray, " draws"]
    area: Float[np.ndarray, " draws"]
    lost: Float[np.ndarray, " draws"]
    same_site: Bool[np.ndarray, " draws"]


def draw_few(
    name: str, one: Activations, other: Activations, sizes: Sequence[int], *, draws: int, seed: int
) -> list[Draws]:
    """Deal the prompts of a source into halves, several times, and calibrate on few prompts of each half.

    Args:
        name: The name of the source.
        one, other: The activations of its prompts; the two are put together.
        sizes: Numbers of prompts of a class. Those above the size of a half are left out, and the whole half is added.
        draws: The number of times that the prompts are dealt.
        seed: The seed.
    """
    positive, negative = (torch.cat([getattr(of, side) for of in (one, other)]).double() for side in SIDES)
    dealt = deal_halves(len(positive), len(negative), draws=draws, seed=seed)
    smaller = min(dealt.halves)
    whole = dealt.calibrated(positive, negative, one.sites)
    full = [dealt.area(positive, negative, i, whole) for i in range(draws)]
    found = []
    for n in sorted({*(n for n in sizes if n <= smaller), smaller}):
        first, second = (dealt.calibrated(positive, negative, one.sites, n, second=of) for of in (False, True))
        area = np.array([dealt.area(positive, negative, i, first) for i in range(draws)])
        masks = first.discriminative.numpy(), second.discriminative.numpy()
        differences = [
            dealt.difference(positive, negative, i, int(first.selected[i]), n, second=True) for i in range(draws)
        ]
        found.append(
            Draws(
                name,
                n,
                smaller,
                dealt.held_out,
                np.array([cosine(first.direction[i], d) for i, d in enumerate(differences)]),
                np.array([jaccard(np.flatnonzero(a), np.flatnonzero(b)) for a, b in zip(*masks, strict=True)]),
                np.array([chance(int(a.sum()), int(b.sum()), len(a)) for a, b in zip(*masks, strict=True)]),
                area,
                area - np.array(full),
                (first.selected == second.selected).numpy(),
            )
        )
    return found
