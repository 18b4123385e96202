"""Assignment of prompts to the fit, select and report splits by groups, and random draws of prompts."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from lens_steer.errors import LensSteerError

FIRST = ",first"


def check_shares(shares: Sequence[float | int]) -> None:
    """Refuse shares that define no split.

    Raises:
        LensSteerError: If the shares are not three finite numbers of at least 0, or if all are 0.

    >>> check_shares((0, 0.5, 0.5))
    """
    if len(shares) != 3 or not all(math.isfinite(share) and share >= 0 for share in shares) or not any(shares):
        raise LensSteerError(
            f"split={tuple(shares)}: give three shares fit, select, report of at least 0, such as 0.5,0.25,0.25"
            " (0 for fit where a calibration is at hand)"
        )


def deal(
    groups: Sequence[str], shares: Sequence[float | int], *, seed: int = 0, placed: dict[str, int] | None = None
) -> list[int]:
    """Return the split (0 fit, 1 select, 2 report) of every row; rows of one group get the same split.

    Args:
        groups: The group of each row, in the order of the rows.
        shares: The shares of the three splits in the number of groups, relative to their sum. A split with share 0 gets
            no group.
        seed: The seed of the shuffle.
        placed: The splits of groups that are already assigned. They are kept, and new groups are added, so that two
            sides that are assigned one after the other agree. None: no group is assigned yet.

    Raises:
        LensSteerError: If the shares are not three numbers of at least 0, or if all are 0.

    >>> deal(["a", "b", "a", "c"], (0.5, 0.5, 0), seed=1)
    [1, 0, 1, 0]
    """
    check_shares(shares)
    placed = {} if placed is None else placed
    new = [g for g in dict.fromkeys(groups) if g not in placed]
    order = list(range(len(new)))
    random.Random(f"split/{seed}").shuffle(order)
    counts = [round(len(order) * shares[0] / sum(shares)), round(len(order) * shares[1] / sum(shares))]
    if shares[2] == 0:  # Groups that rounding leaves over go to a split with a share above 0.
        counts[1 if shares[1] > 0 else 0] = len(order) - (counts[0] if shares[1] > 0 else 0)
    counts.append(len(order) - sum(counts))
    # With few groups, rounding can leave a split with a share above 0 empty; it then takes a group from the largest
    # split.
    for split, share in enumerate(shares):
        while share > 0 and counts[split] < 1 and max(counts) > 1:
            counts[counts.index(max(counts))] -= 1
            counts[split] += 1
    first, second = counts[0], counts[0] + counts[1]
    for place, index in enumerate(order):
        placed[new[index]] = 0 if place < first else 1 if place < second else 2
    return [placed[g] for g in groups]


def parse_limit(limit: int | str) -> tuple[int, bool]:
    """Parse a limit into its number, and True if it means the first prompts instead of a draw.

    Raises:
        LensSteerError: If the limit is neither a whole number of at least 1 nor one followed by ``,first``.

    >>> parse_limit(128), parse_limit("32,first")
    ((128, False), (32, True))
    """
    text = str(limit).replace(" ", "")
    number = text.removesuffix(FIRST)
    if not (number.isascii() and number.isdigit() and int(number) >= 1):
        raise LensSteerError(f"limit={limit!r}: give a number of prompts of at least 1, or 'N,first' for the first N")
    return int(number), text.endswith(FIRST)


def limits_of_parts(limit: int | str | None) -> tuple[int | str | None, ...]:
    """Return the limits of fit, select and report: three with slashes, or one for all.

    Raises:
        LensSteerError: If there are neither one nor three, or one is refused by :func:`parse_limit`.

    >>> limits_of_parts("128/32/64,first"), limits_of_parts(32)
    (('128', '32', '64,first'), (32, 32, 32))
    """
    if limit is None:
        return (None,) * 3
    parts = str(limit).split("/")
    if len(parts) not in (1, 3):
        raise LensSteerError(f"limit={limit!r}: give one number, or three for fit, select and report (128/32/64)")
    for part in parts:
        parse_limit(part)
    return tuple(parts) if len(parts) == 3 else (limit,) * 3


def draw(n: int, limit: int | str, *, seed: int = 0) -> list[int]:
    """Return which of ``n`` rows a limit keeps, in order.

    The rows are drawn without replacement, or they are the first ones. If the limit is not below ``n``, all rows are
    kept. The draw depends only on ``n``, the limit and the seed. Two files that are paired row by row therefore stay
    paired, and a larger limit contains the rows of a smaller one.

    Raises:
        LensSteerError: See :func:`parse_limit`.

    >>> draw(10, 3), draw(10, "3,first"), draw(2, 3)
    ([1, 4, 8], [0, 1, 2], [0, 1])
    """
    count, first = parse_limit(limit)
    order = list(range(n))
    if not first:
        random.Random(f"limit/{seed}").shuffle(order)
    return sorted(order[:count])
