"""Grids: one condition (a method, a control, no steering) with the values of its parameter."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from lens_steer.errors import LensSteerError
from lens_steer.steer.method_table import METHODS
from lens_steer.steer.plans import SteeringPlan
from lens_steer.steer.value_sweep import Build


@dataclass(frozen=True)
class Grid:
    """One condition over the values of its parameter.

    Attributes:
        condition: The name of the condition.
        build: A function that makes the plan from one value, or from one value for each row; None steers nothing. With
            ``values=(None,)`` it is called with None.
        values: The values, in degrees or as coefficients; ``(None,)`` for a condition without a parameter.
        variant: The name of one of several grids among which the condition is chosen, such as its site; a condition may
            have one grid for each variant.
        system: A system prompt that is put before every prompt; None adds none.
        method: The method of :data:`lens_steer.steer.method_table.METHODS` whose parameter the values are, also in a
            control that puts a part of it wrong. Empty where there is none.
        draw: The number, from 1, of the draw of a control that is drawn; 0 for every other grid.
        beside: A plan that is in force at every value too, such as one for other tokens; None for no other plan.
    """

    condition: str
    build: Build | None = None
    values: tuple[float | None, ...] = (None,)
    variant: str = ""
    system: str | None = None
    method: str = ""
    draw: int = 0
    beside: SteeringPlan | None = None

    @property
    def name(self) -> str:
        """Return the name of the condition and the variant."""
        return f"{self.condition} ({self.variant})" if self.variant else self.condition

    @property
    def turns(self) -> bool:
        """Return whether the values are degrees."""
        return self.method in METHODS and METHODS[self.method].turns

    def at(self, value: float | None) -> Grid:
        """Return the same condition at only one value."""
        return replace(self, values=(value,))


def values_of(spec: str) -> tuple[float, ...]:
    """Read values from ``start:stop:step`` or from a list with commas.

    The stop is included where a step reaches it.

    >>> values_of("0:30:10"), values_of("1,2.5")
    ((0.0, 10.0, 20.0, 30.0), (1.0, 2.5))

    Raises:
        LensSteerError: If the text is anything else, or repeats a value.
    """
    try:
        if ":" in spec:
            start, stop, step = (float(v) for v in spec.split(":"))
            found = tuple(float(v) for v in np.arange(start, stop + step * 1e-9, step))
        else:
            found = tuple(float(v) for v in spec.split(","))
    except (ValueError, ZeroDivisionError):
        found = ()
    if len(set(found)) < len(found):
        raise LensSteerError(f"{spec!r} repeats a value: give each once")
    if not found or not np.isfinite(found).all():
        raise LensSteerError(f"{spec!r} gives no values: use start:stop:step such as 0:360:10, or numbers with commas")
    return found


def plan_hash(grid: Grid) -> str | None:
    """Return a hash of everything in the plan at the grid's first value, and in the one beside it.

    It covers sites, vectors and positions; None for a grid that steers nothing.
    """
    own = None if grid.build is None else grid.build(grid.values[0])
    plans = [plan for plan in (own, grid.beside) if plan is not None]
    if not plans:
        return None
    digest = hashlib.sha256()
    for plan in plans:
        plan.absorb(digest)
    return digest.hexdigest()
