"""Calibrations from few prompts, each compared with one from as many others of the same source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_steer.geometry.resampling import Options, Recalibrated, Samples, recalibrate
from lens_steer.inference.record import Activations
from lens_steer.stats.areas import auroc

Rows = Int[np.ndarray, "_ _"]  # the prompts of every draw, in its order


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
    sides = [torch.cat([getattr(part, side) for part in (one, other)]) for side in ("positive", "negative")]
    samples = [Samples(s.double(), None) for s in sides]
    rng = np.random.default_rng([seed, 0])
    orders = [np.stack([rng.permutation(len(s)) for _ in range(draws)]) for s in sides]
    halves = [len(s) // 2 for s in sides]
    whole = _calibrated(samples, orders, [(0, h) for h in halves], one.sites)
    full = [_area(whole, i, sides, orders, halves) for i in range(draws)]
    found = []
    for n in sorted({*(n for n in sizes if n <= min(halves)), min(halves)}):
        first = _calibrated(samples, orders, [(0, n)] * 2, one.sites)
        second = _calibrated(samples, orders, [(h, h + n) for h in halves], one.sites)
        area = np.array([_area(first, i, sides, orders, halves) for i in range(draws)])
        masks = first.discriminative.numpy(), second.discriminative.numpy()
        differences = [_difference(sides, orders, halves, n, i, int(first.selected[i])) for i in range(draws)]
        found.append(
            Draws(
                name,
                n,
                min(halves),
                sum(len(s) - h for s, h in zip(sides, halves, strict=True)),
                np.array([cosine(first.direction[i], d) for i, d in enumerate(differences)]),
                np.array(
                    [jaccard(set(np.flatnonzero(a)), set(np.flatnonzero(b))) for a, b in zip(*masks, strict=True)]
                ),
                np.array([chance(int(a.sum()), int(b.sum()), len(a)) for a, b in zip(*masks, strict=True)]),
                area,
                area - np.array(full),
                (first.selected == second.selected).numpy(),
            )
        )
    return found


def _calibrated(
    samples: Sequence[Samples], orders: Sequence[Rows], parts: Sequence[tuple[int, int]], names: Sequence[str]
) -> Recalibrated:
    """Calibrate every draw on a part of each class: the prompts from ``start`` to ``stop`` in the draw's order."""
    counts = []
    for order, (start, stop) in zip(orders, parts, strict=True):
        rows = torch.zeros(order.shape, dtype=torch.float64)
        rows.scatter_(1, torch.from_numpy(order[:, start:stop]), 1.0)
        counts.append(rows)
    return recalibrate(samples[0], samples[1], (counts[0], counts[1]), names, Options(), planes=False)


def _area(
    found: Recalibrated, draw: int, sides: Sequence[Tensor], orders: Sequence[Rows], halves: Sequence[int]
) -> float:
    """Return the area of the second halves, projected on a draw's direction; ½ where there is no direction."""
    at = int(found.selected[draw])
    if at < 0:
        return 0.5
    direction = found.direction[draw].double()
    rest = [torch.from_numpy(order[draw, half:]) for order, half in zip(orders, halves, strict=True)]
    scores = [(side[rows, at].double() @ direction).numpy() for side, rows in zip(sides, rest, strict=True)]
    return auroc(scores[0], scores[1]).value


def _difference(
    sides: Sequence[Tensor], orders: Sequence[Rows], halves: Sequence[int], n: int, draw: int, at: int
) -> Float[Tensor, " d_model"]:
    """Return the difference of the class means of a draw's second calibration at a site."""
    rows = [torch.from_numpy(order[draw, half : half + n]) for order, half in zip(orders, halves, strict=True)]
    positive, negative = (side[r, at].double().mean(dim=0) for side, r in zip(sides, rows, strict=True))
    return positive - negative


def cosine(a: Float[Tensor, " d_model"], b: Float[Tensor, " d_model"]) -> float:
    """Return the cosine of two vectors; NaN where one is zero or not a number.

    >>> cosine(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]))
    0.7071067811865475
    """
    lengths = float(a.double().norm() * b.double().norm())
    return float(a.double() @ b.double()) / lengths if lengths > 0 else float("nan")


def jaccard(one: set[object], other: set[object]) -> float:
    """Return the size of the intersection over that of the union; 1 for two empty sets.

    >>> jaccard({"a", "b"}, {"b", "c"}), jaccard(set(), set())
    (0.3333333333333333, 1.0)
    """
    return len(one & other) / len(one | other) if one | other else 1.0


def chance(one: int, other: int, total: int) -> float:
    """Return the Jaccard index of two random sets of these sizes, from the mean size of their intersection.

    >>> chance(4, 6, 48), chance(35, 34, 48), chance(0, 0, 48)
    (0.05263157894736842, 0.5607917059377946, 1.0)
    """
    both = one * other / total
    return both / (one + other - both) if one + other else 1.0
