"""Refined grids: what lies between the values of a coarse grid is found, with the same number of settings for every
condition.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lens_steer._defaults import REFINED
from lens_steer.data import PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import NONE, method_grids
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.protocol import on_select
from lens_steer.evaluation.refinement import (
    A_ROUND,
    budget_of,
    check_refine,
    further,
    further_settings,
    ordered,
    tried,
)
from lens_steer.evaluation.selection import Constraint, Setting, choose
from lens_steer.stats.estimates import Estimate
from lens_steer.steer.method_table import METHODS

BASE = Setting(
    NONE, "", None, "select", {"positive_right": Estimate(0.0, 0.0, 0.0, 64), "capable": Estimate(1.0, 1.0, 1.0, 96)}
)
CAPABLE = (Constraint.parse("capable>=95%"),)
Truth = Callable[[float], tuple[float, float]]  # value → compliance, capability


def measured(grid: Grid, value: float, truth: Truth) -> Setting:
    """One setting of a method whose effect is known."""
    right, capable = truth(value)
    rates = {"positive_right": Estimate(right, right, right, 64), "capable": Estimate(capable, capable, capable, 96)}
    return Setting(grid.condition, grid.variant, value, "select", rates)


def refined(grids: list[Grid], truths: dict[str, Truth], n: int = REFINED) -> list[Setting]:
    """Every setting after all rounds, as the protocol makes them."""
    found = [measured(g, float(v or 0), truths[g.variant]) for g in grids for v in g.values]
    while n:
        more = further(grids, found, BASE, "positive_right", CAPABLE, min(n, A_ROUND))
        new = [measured(g, float(v or 0), truths[g.variant]) for g in more for v in g.values]
        found, n = ordered(grids, [*found, *new]), n - len(new)
    return found


def addition(variant: str = "") -> Grid:
    return Grid("act-add", None, METHODS["act-add"].grid, variant, method="act-add")


def narrow(value: float) -> tuple[float, float]:
    """An addition that frees much between −0.9 and −0.75 alone: more of it breaks the model, less does nothing."""
    return (0.8 if -0.9 <= value <= -0.75 else 0.9 if value < -0.9 else 0.1), (0.2 if value < -0.9 else 1.0)


def test_what_lies_between_two_values_is_found() -> None:
    """The grid holds −1 (broken) and −0.5 (nothing); the choice without constraints leads to what lies between."""
    grid = addition()
    coarse = [measured(grid, float(v or 0), narrow) for v in grid.values]
    found = refined([grid], {"": narrow})
    chosen = choose(found, BASE, "positive_right", CAPABLE)
    assert narrow(float(choose(coarse, BASE, "positive_right", CAPABLE).value or 0)) == (0.1, 1.0)
    assert chosen.met
    assert chosen.value is not None
    assert -0.9 <= chosen.value <= -0.75
    assert chosen.n == len(grid.values) + REFINED


def test_a_site_that_breaks_everywhere_on_the_grid_is_looked_at_too() -> None:
    """The good values of one site lie below its smallest coefficient; another site is mediocre everywhere."""

    def mediocre(value: float) -> tuple[float, float]:
        return 0.1, 1.0

    def strong(value: float) -> tuple[float, float]:
        return (0.0, 1.0) if value > -0.1 else (0.9, 1.0 if value > -0.3 else 0.3)

    grids = [addition("a"), addition("b")]
    chosen = choose(refined(grids, {"a": mediocre, "b": strong}), BASE, "positive_right", CAPABLE)
    assert (chosen.variant, chosen.met) == ("b", True)
    assert chosen.value is not None
    assert -0.3 < chosen.value <= -0.1


def test_every_condition_gets_the_same_number() -> None:
    """Angles around the circle, coefficients at sites, and one that does nothing anywhere."""

    def nothing(value: float) -> tuple[float, float]:
        return 0.0, 1.0

    circle = Grid("selective", None, METHODS["selective"].grid, method="selective")
    without = Grid("random plane", None, circle.values[1:], method="selective")  # a control, without the identity
    for grids in (
        [circle],
        [without],
        [addition("a"), addition("b")],
        [Grid("sttp", None, METHODS["sttp"].grid, method="sttp")],
    ):
        found = refined(grids, dict.fromkeys(("", "a", "b"), nothing))
        n = sum(len(g.values) for g in grids)
        assert tried(found) == {grids[0].condition: n + REFINED}
        assert len({(s.variant, s.value) for s in found}) == len(found)  # nothing twice


def test_the_circle_has_no_end_and_the_identity_is_not_tried() -> None:
    grid = Grid("selective", None, (0.0, 90.0, 180.0, 270.0), method="selective")

    def peak(value: float) -> tuple[float, float]:
        return (1.0 if value in (270.0, 315.0) else 0.0), 1.0

    found = [measured(grid, float(v or 0), peak) for v in grid.values]
    (more,) = further([grid], found, BASE, "positive_right", (), 2)
    assert more.values == (225.0, 315.0)
    around = Grid("standard", None, (90.0, 350.0), method="standard")
    (more,) = further(
        [around],
        [measured(around, 90.0, peak), measured(around, 350.0, lambda v: (1.0, 1.0))],
        BASE,
        "positive_right",
        (),
        2,
    )
    assert more.values == (40.0, 220.0)


def test_an_end_of_a_grid_is_passed() -> None:
    """The best value is the last one: the next lies as far outside as the neighbour inside."""
    grid = Grid("sttp", None, (0.0, -2.0), method="sttp")
    found = [measured(grid, float(v or 0), lambda v: (1.0 + v, 1.0)) for v in grid.values]
    (more,) = further([grid], found, BASE, "positive_right", (), 2)
    assert more.values == (-1.0, 2.0)


def test_a_grid_with_both_ends_of_the_circle_repeats_nothing() -> None:
    """0° and 360° are one angle: nothing lies between them, and neither is tried again."""
    grid = Grid("standard", None, (0.0, 120.0, 240.0, 360.0), method="standard")
    found = [measured(grid, float(v or 0), lambda v: (1.0 if v % 360 == 0 else 0.0, 1.0)) for v in grid.values]
    (more,) = further([grid], found, BASE, "positive_right", (), 4)
    assert more.values == (60.0, 180.0, 300.0)


def test_grids_of_different_sizes_get_one_budget() -> None:
    """The largest grid and so many more; a control without the identity and a method with few values catch up."""
    circle = Grid("selective", None, METHODS["selective"].grid, method="selective")
    small = Grid("act-add", None, METHODS["act-add"].grid, method="act-add")
    grids = [Grid(NONE), circle, small, Grid("identity angle", None, (0.0,), method="selective")]
    assert budget_of(grids, 12) == 48
    assert further_settings(grids, 48) == {"selective": 12, "act-add": 42}
    assert budget_of(grids, 0) == 0
    assert further_settings(grids, 0) == {"selective": 0, "act-add": 0}


def test_a_condition_without_a_parameter_has_no_further_values() -> None:
    grid = Grid("ablation", None, method="ablation")
    setting = Setting("ablation", "", None, "select", BASE.measured)
    assert further([grid], [setting], BASE, "positive_right", (), 4) == []


def test_a_wrong_number_is_refused() -> None:
    for wrong in (-1, True):
        with pytest.raises(LensSteerError, match=rf"refine={wrong}: give how many settings every condition gets"):
            check_refine(wrong)


def test_the_protocol_runs_and_resumes_them(qwen: Any, refusal: Any, calibration: Any, tmp_path: Path) -> None:
    """Five further angles in two rounds; the second call measures nothing and chooses the same."""
    contrast = refusal.first(select=2)
    grids = [Grid(NONE), *method_grids(calibration, "selective", values=(0.0, 120.0, 240.0))]

    def chosen() -> Any:
        return on_select(
            qwen, contrast, grids, tmp_path, tasks=PromptSet(()), budget=8, max_new_tokens=4, progress=False
        )

    found, choices, rows = chosen()
    assert tried(found) == {NONE: 1, "selective": 8}
    assert choices["selective"].n == 8
    assert len(rows) == 9 * 4
    files = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("select*.csv")}
    assert set(files) == {"select.csv", "select_refined_1.csv", "select_refined_2.csv"}
    assert chosen()[1] == choices
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("select*.csv")} == files
