"""Paired timing: all variants of a case run in turn, again and again, in one process; ratios are taken within a
turn.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Variants = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Ratio:
    """How many times faster one variant is than another.

    Attributes:
        case: what was timed.
        of, to: the two variants; the ratio is the time of ``to`` over the time of ``of``.
        aim: what the project set itself beforehand; None where the ratio is only reported.
        median, low, high: over the turns (lowest and highest).
        seconds_of, seconds_to: median times.
        turns: how many.
    """

    case: str
    of: str
    to: str
    aim: float | None
    median: float
    low: float
    high: float
    seconds_of: float
    seconds_to: float
    turns: int


def run(variants: Variants, turns: int) -> dict[str, list[float]]:
    """Seconds of every variant in every turn; one turn before does not count, and each turn begins with another
    variant.
    """
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-1, turns):
        for k in range(len(names)):
            name = names[(k + turn) % len(names)]
            gc.collect()
            begin = time.perf_counter()
            variants[name]()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def ratio(case: str, seconds: dict[str, list[float]], of: str, to: str, aim: float | None = None) -> Ratio:
    """The ratio of two variants, turn by turn.

    >>> found = ratio("c", {"ours": [1.0, 2.0, 1.0], "theirs": [3.0, 4.0, 2.0]}, "ours", "theirs", 1.5)
    >>> found.median, found.low, found.high
    (2.0, 2.0, 3.0)
    """
    each = [b / a for a, b in zip(seconds[of], seconds[to], strict=True)]
    return Ratio(
        case,
        of,
        to,
        aim,
        statistics.median(each),
        min(each),
        max(each),
        statistics.median(seconds[of]),
        statistics.median(seconds[to]),
        len(each),
    )
