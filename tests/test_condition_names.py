"""Conditions are values: another name for a condition of a sweep changes nothing but names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lens_steer.evaluation.conditions import control_grids, has_angle, method_grids, probe_grid, rule_grids
from lens_steer.evaluation.controls import Controls, report_draws, select_draws
from lens_steer.evaluation.grids import Grid
from lens_steer.geometry.boundary import boundary


def contents(grids: list[Grid]) -> list[tuple[Any, ...]]:
    """Everything of some grids, with the plan in place of the function that makes it."""
    return [(g.condition, g.variant, g.draw, g.method, g.values, g.build and g.build(g.values[0])) for g in grids]


@pytest.mark.parametrize("method", ["selective", "standard", "act-add", "ablation", "stmp"])
def test_a_renamed_grid_has_the_same_controls(method: str, calibration: Any) -> None:
    grid = method_grids(calibration, method)[0]
    named, renamed = (replace(grid, condition=name) for name in (method, "draw 7, all sites (effect)"))
    assert renamed.turns == named.turns == has_angle(method)
    controls = Controls(calibration, draws=2, select_values=2)
    assert contents(select_draws(controls, [renamed])) == contents(select_draws(controls, [named]))
    value = grid.values[-1]
    (found, missing), (again, missing_again) = (
        report_draws(controls, g.at(value), [calibration] * 2) for g in (named, renamed)
    )
    assert contents(again) == contents(found)
    assert missing_again == missing
    for condition in {g.condition for g in found}:
        assert [g.draw for g in found if g.condition == condition] in ([0], [1, 2])


def test_every_grid_knows_its_method(calibration: Any) -> None:
    """Also a control, which puts a part of it wrong, and a rule's grid; a grid that steers nothing has none."""
    grids = control_grids(calibration, calibration, system="Be kind.")
    assert {g.method for g in grids if g.build is not None} == {"selective"}
    assert {g.method for g in grids if g.build is None} == {""}
    grids += rule_grids(calibration, "selective", ["centred", "effect"])[0]
    grids += [g for method in ("standard", "act-add", "clamp", "ablation") for g in method_grids(calibration, method)]
    grids.append(probe_grid(boundary(calibration), "stmp"))
    assert [g.turns for g in grids] == [has_angle(g.condition) for g in grids]
