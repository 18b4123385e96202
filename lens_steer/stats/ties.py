"""The rule that breaks every tie of a choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def middle_of_best(items: Sequence[T], scores: Sequence[Any]) -> tuple[T, int]:
    """Return the item that represents those with the highest score, and the number of items with this score.

    Among equals it is the middle one in their order. This is the middle of a plateau, and not the identity at its edge,
    where nothing has an effect. Every choice of an angle, a coefficient, a layer or a setting on the select
    split breaks ties by this rule. What is fitted has rules of its own: of equal penalties a probe takes the strongest,
    and of equal candidates the first site gives the selected direction.

    Args:
        items: The items, in an order in which neighbours are adjacent.
        scores: One score per item; scores must be comparable with each other.

    Raises:
        ValueError: If there are no items, or if the numbers of items and scores differ.

    >>> middle_of_best([0, 30, 60, 90, 120], [1, 5, 5, 5, 2])
    (60, 3)
    """
    if not len(items) or len(items) != len(scores):
        raise ValueError(f"{len(items)} items and {len(scores)} scores: one score an item is needed, at least one")
    best = max(scores)
    equals = [item for item, score in zip(items, scores, strict=True) if score == best]
    return equals[len(equals) // 2], len(equals)
