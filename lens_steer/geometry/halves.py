"""Prompts that are dealt into two halves, several times: calibrations of one half, tested on the other.

The two calibrations of a draw, one of each half, share no prompt. How far they agree is how far a calibration depends
on its prompts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_steer.geometry.resampling import Options, Recalibrated, Samples, recalibrate
from lens_steer.stats.areas import auroc

Rows = Int[np.ndarray, "draws _"]  # the prompts of a class in every draw, in its order
Side = Float[Tensor, "_ n_sites d_model"]


@dataclass(frozen=True, eq=False)
class Dealt:
    """The order of the prompts of both classes in every draw. The first half of an order is the first half.

    Attributes:
        positive, negative: The orders.
    """

    positive: Rows
    negative: Rows

    @property
    def n_draws(self) -> int:
        """The number of draws."""
        return len(self.positive)

    @property
    def halves(self) -> tuple[int, int]:
        """The number of prompts of each class in the first half; an odd one goes to the second."""
        return self.positive.shape[1] // 2, self.negative.shape[1] // 2

    @property
    def held_out(self) -> int:
        """The number of prompts of both classes in the second half."""
        return self.positive.shape[1] + self.negative.shape[1] - sum(self.halves)

    def calibrated(
        self, positive: Side, negative: Side, names: Sequence[str], n: int | None = None, *, second: bool = False
    ) -> Recalibrated:
        """Calibrate every draw on prompts of one of its halves.

        Args:
            positive, negative: The activations of all prompts of both classes, in the order before they were dealt.
            names: The names of the sites.
            n: The number of prompts of each class; None takes as many as the first half has.
            second: Whether they are of the second half.
        """
        counts = []
        for order, half in zip((self.positive, self.negative), self.halves, strict=True):
            rows = torch.zeros(order.shape, dtype=torch.float64)
            rows.scatter_(1, torch.from_numpy(_part(order, half, n, second)), 1.0)
            counts.append(rows)
        first, other = (Samples(side.double(), None) for side in (positive, negative))
        return recalibrate(first, other, (counts[0], counts[1]), names, Options(), planes=False)

    def second(
        self, positive: Side, negative: Side, draw: int, site: int
    ) -> tuple[Float[Tensor, "n_positive d_model"], Float[Tensor, "n_negative d_model"]]:
        """Return the activations of the second half of a draw at one site, in float64."""
        first, other = (
            side[torch.from_numpy(order[draw, half:]), site].double()
            for side, order, half in zip((positive, negative), (self.positive, self.negative), self.halves, strict=True)
        )
        return first, other

    def area(self, positive: Side, negative: Side, draw: int, found: Recalibrated) -> float:
        """Return the area under the ROC curve of the second half of a draw, on the direction that was calibrated.

        It is ½ where there is no direction.
        """
        site = int(found.selected[draw])
        if site < 0:
            return 0.5
        direction = found.direction[draw].double()
        first, other = ((side @ direction).numpy() for side in self.second(positive, negative, draw, site))
        return auroc(first, other).value

    def difference(
        self, positive: Side, negative: Side, draw: int, site: int, n: int | None = None, *, second: bool = False
    ) -> Float[Tensor, " d_model"]:
        """Return the difference of the class means at a site, of the prompts that :meth:`calibrated` takes."""
        means = [
            side[torch.from_numpy(_part(order, half, n, second)[draw]), site].double().mean(dim=0)
            for side, order, half in zip((positive, negative), (self.positive, self.negative), self.halves, strict=True)
        ]
        return means[0] - means[1]


def deal_halves(n_positive: int, n_negative: int, *, draws: int, seed: int) -> Dealt:
    """Deal the prompts of both classes into halves, several times.

    >>> dealt = deal_halves(7, 4, draws=3, seed=0)
    >>> dealt.halves, dealt.held_out, dealt.positive.shape
    ((3, 2), 6, (3, 7))
    """
    rng = np.random.default_rng([seed, 0])
    orders = [np.stack([rng.permutation(n) for _ in range(draws)]) for n in (n_positive, n_negative)]
    return Dealt(*orders)


def _part(order: Rows, half: int, n: int | None, second: bool) -> Rows:
    start = half if second else 0
    return order[:, start : start + (half if n is None else n)]


def cosine(a: Float[Tensor, " d_model"], b: Float[Tensor, " d_model"]) -> float:
    """Return the cosine of two vectors; NaN where one is zero or not a number.

    >>> cosine(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]))
    0.7071067811865475
    """
    lengths = float(a.double().norm() * b.double().norm())
    return float(a.double() @ b.double()) / lengths if lengths > 0 else float("nan")


def jaccard(one: Collection[object], other: Collection[object]) -> float:
    """Return the size of the intersection over that of the union; 1 for two empty sets.

    >>> jaccard({"a", "b"}, ["b", "c"]), jaccard((), ())
    (0.3333333333333333, 1.0)
    """
    first, second = set(one), set(other)
    return len(first & second) / len(first | second) if first | second else 1.0


def chance(one: int, other: int, total: int) -> float:
    """Return the Jaccard index of two random sets of these sizes, from the mean size of their intersection.

    >>> chance(4, 6, 48), chance(35, 34, 48), chance(0, 0, 48)
    (0.05263157894736842, 0.5607917059377946, 1.0)
    """
    both = one * other / total
    return both / (one + other - both) if one + other else 1.0
