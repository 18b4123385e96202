"""Refinement of grids on the select split: further values between those that were tried, the same number for each
condition.

A coarse grid understates a method whose good values lie between two of its values, such as an addition between no
effect and a broken model. Each round halves the gaps that matter most (bisection), and every condition gets the same
number of settings in all, so that no method is helped more than another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from lens_steer.errors import LensSteerError
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.selection import Constraint, Setting, choose, objective_value
from lens_steer.steer.method_table import METHODS

A_ROUND = 4  # of them in one round, at most


def check_refine(n: int) -> None:
    """Refuse anything but a whole number of at least 0.

    Raises:
        LensSteerError: If it is something else.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise LensSteerError(
            f"refine={n!r}: give how many settings every condition gets beyond the largest grid, at least 0 (0: none)"
        )


def budget_of(grids: Sequence[Grid], refine: int) -> int:
    """Return the number of settings of every condition: those of the largest grid and ``refine`` more; 0 for no more.

    >>> circle = Grid("selective", None, (0.0, 90.0, 180.0, 270.0), method="selective")
    >>> budget_of([Grid("none"), circle, replace(circle, condition="standard", values=(0.0,))], 2)
    6
    """
    return max(_sizes(grids).values(), default=0) + refine if refine else 0


def further_settings(grids: Sequence[Grid], budget: int) -> dict[str, int]:
    """Return the number of settings that each condition gets beyond its grid; a condition without a parameter has none.

    >>> circle = Grid("selective", None, (0.0, 90.0, 180.0, 270.0), method="selective")
    >>> further_settings([circle, replace(circle, condition="standard", values=(0.0, 90.0))], 6)
    {'selective': 2, 'standard': 4}
    """
    return {name: max(0, budget - size) for name, size in _sizes(grids).items() if size > 1}


def _sizes(grids: Sequence[Grid]) -> dict[str, int]:
    """Return the number of settings in the grid of each condition with a parameter."""
    found: dict[str, int] = {}
    for g in grids:
        if None not in g.values:
            found[g.condition] = found.get(g.condition, 0) + len(g.values)
    return found


def further(
    grids: Sequence[Grid],
    found: Sequence[Setting],
    base: Setting,
    objective: str,
    constraints: Sequence[Constraint],
    n: int,
) -> list[Grid]:
    """Return the next settings of one condition, as its grids at only these values.

    Each new value halves a gap between two neighbours that were tried, in this order of the gaps:

    1. the gaps on both sides of the choice (at the end of a grid the new value lies outside, at the distance of the
       neighbour inside);
    2. gaps in which the constraints stop being met, where the setting that does not meet them has a better objective
       than the choice: what is good may lie in between; the best objective first;
    3. all others, those beside the best settings first.

    Angles are taken around the circle. A value at which the method changes nothing counts as tried, as no steering.

    Args:
        grids: The grids of the condition, one for each variant.
        found: All settings of the condition that were measured.
        base: The setting without steering.
        objective, constraints: The arguments of :func:`lens_steer.evaluation.selection.choose`.
        n: The number of new values.

    Returns:
        One grid for each variant that has new values. It is empty for a condition without a parameter, and may have
        fewer than ``n`` values where there are fewer gaps.

    >>> from lens_steer.stats.estimates import Estimate
    >>> grid = Grid("act-add", None, (-4.0, -2.0, -1.0), method="act-add")
    >>> none, *found = [
    ...     Setting("act-add", "", v, "select", {"positive_right": Estimate(rate, 0.0, 1.0, 10)})
    ...     for v, rate in zip((None, *grid.values), (0.0, 0.1, 0.2, 0.7))
    ... ]
    >>> further([grid], found, none, "positive_right", (), 2)[0].values
    (-1.5, -0.5)
    """
    chosen = choose(found, base, objective, constraints)
    own = next(s for s in found if (s.variant, s.value) == (chosen.variant, chosen.value))

    def point(s: Setting, value: float) -> _Point:
        met = all(c.met(s, base) for c in constraints)
        return _Point(value, met, objective_value(s, objective), s is own)

    swept, gaps = [g for g in grids if None not in g.values], list[_Gap]()
    for grid in swept:
        identities = METHODS[grid.method].identities if grid.method in METHODS else ()
        points = {v: point(base, v) for v in (float(i % 360 if grid.turns else i) for i in identities)}
        for s in sorted((s for s in found if s.variant == grid.variant), key=lambda s: s is own):
            if s.value is not None:
                value = float(s.value % 360 if grid.turns else s.value)
                points[value] = point(s, value)
        gaps += _gaps(grid, [points[v] for v in sorted(points)])
    new: dict[str, list[float]] = {}
    for gap in sorted(gaps, key=lambda gap: gap.rank(chosen.met, objective_value(own, objective)))[:n]:
        new.setdefault(gap.variant, []).append(gap.middle)
    return [replace(g, values=tuple(sorted(new[g.variant]))) for g in swept if g.variant in new]


def ordered(grids: Sequence[Grid], found: Sequence[Setting]) -> list[Setting]:
    """Return settings in the order of the grids, and within a grid by value, as its own values are ordered.

    Ties of a choice are decided by this order (:func:`lens_steer.stats.ties.middle_of_best`).

    >>> grid = Grid("sttp", None, (0.0, -2.0), method="sttp")
    >>> [s.value for s in ordered([grid], [Setting("sttp", "", v, "select", {}) for v in (0.0, -2.0, -1.0)])]
    [0.0, -1.0, -2.0]
    """
    place = {(g.condition, g.variant): i for i, g in enumerate(grids)}
    falling = {(g.condition, g.variant) for g in grids if None not in g.values and g.values[0] > g.values[-1]}  # type: ignore[operator]

    def key(s: Setting) -> tuple[int, float]:
        own = (s.condition, s.variant)
        return place[own], (s.value or 0.0) * (-1 if own in falling else 1)

    return sorted(found, key=key)


def tried(found: Sequence[Setting]) -> Mapping[str, int]:
    """Return the number of settings at which each condition was tried.

    >>> dict(tried([Setting("SS", "", v, "select", {}) for v in (0.0, 10.0)]))
    {'SS': 2}
    """
    counts: dict[str, int] = {}
    for s in found:
        counts[s.condition] = counts.get(s.condition, 0) + 1
    return counts


@dataclass(frozen=True)
class _Point:
    """A value that was tried: whether it meets the constraints, its objective, and whether it is the choice."""

    value: float
    met: bool
    score: float
    chosen: bool


@dataclass(frozen=True)
class _Gap:
    """A value that was not tried, with its neighbours that were."""

    variant: str
    middle: float
    sides: tuple[_Point, ...]

    def rank(self, met: bool, score: float) -> tuple[int, bool, float]:
        """Return the place among the gaps, the first one lowest, from whether the choice meets the constraints, and its
        objective.
        """
        outside = [p.score for p in self.sides if not p.met and (not met or p.score > score)]
        best = max(self.sides, key=lambda p: (p.met, p.score))
        if any(p.chosen for p in self.sides):
            return 0, False, 0.0
        if outside and best.met:
            return 1, False, -max(outside)
        return 2, not best.met, -best.score


def _gaps(grid: Grid, points: Sequence[_Point]) -> list[_Gap]:
    """Return the gaps of one grid between its points, which are sorted by value."""
    found = [_Gap(grid.variant, (a.value + b.value) / 2, (a, b)) for a, b in pairwise(points)]
    if len(points) < 2:
        return []
    first, last = points[0], points[-1]
    if grid.turns:
        middle = (last.value + (first.value + 360 - last.value) / 2) % 360
        return [*found, _Gap(grid.variant, middle, (last, first))]
    if first.chosen:
        found.append(_Gap(grid.variant, 2 * first.value - points[1].value, (first,)))
    if last.chosen:
        found.append(_Gap(grid.variant, 2 * last.value - points[-2].value, (last,)))
    return found
