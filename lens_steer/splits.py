"""Dealing prompts to the fit, select and report splits, with what belongs together kept together."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lens_steer.errors import LensSteerError


def deal(
    groups: Sequence[str], shares: Sequence[float | int], *, seed: int = 0, placed: dict[str, int] | None = None
) -> list[int]:
    """The split (0 fit, 1 select, 2 report) of every row; rows of one group get the same one.

    Args:
        groups: of each row, in the rows' order.
        shares: of the three splits, by number of groups, relative to their sum.
        seed: of the shuffle.
        placed: where groups are already; it is kept to and added to, so that two sides dealt one after the other agree.

    Raises:
        LensSteerError: shares that are not three numbers of at least 0, the first above it.

    >>> deal(["a", "b", "a", "c"], (0.5, 0.5, 0), seed=1)
    [1, 0, 1, 0]
    """
    if len(shares) != 3 or any(share < 0 for share in shares) or shares[0] <= 0:
        raise LensSteerError(
            f"split={tuple(shares)}: give three shares fit, select, report, that of fit above 0, such as 0.5,0.25,0.25"
        )
    placed = {} if placed is None else placed
    new = [g for g in dict.fromkeys(groups) if g not in placed]
    order = list(range(len(new)))
    random.Random(f"split/{seed}").shuffle(order)
    counts = [round(len(order) * shares[0] / sum(shares)), round(len(order) * shares[1] / sum(shares))]
    counts.append(len(order) - sum(counts))
    for split, share in enumerate(shares):  # of few groups none is left without one by rounding
        while share > 0 and counts[split] < 1 and max(counts) > 1:
            counts[counts.index(max(counts))] -= 1
            counts[split] += 1
    first, second = counts[0], counts[0] + counts[1]
    for place, index in enumerate(order):
        placed[new[index]] = 0 if place < first else 1 if place < second else 2
    return [placed[g] for g in groups]
