"""Grids: their values, those of methods and of controls, a plan beside a grid's own, who reads the answers again, and a
choice that is a tie at nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lens_steer as ls
from lens_steer import generate, steering
from lens_steer.data import Contrast, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import (
    ALL,
    CONTROLS,
    EARLY,
    LATE,
    NONE,
    PROMPT_ONLY,
    RANDOM_SITES,
    SHUFFLED,
    control_grids,
    method_grids,
    shuffled_labels,
)
from lens_steer.evaluation.grids import Grid, plan_hash, values_of
from lens_steer.evaluation.selection import Choice, Setting, at_nothing, choose
from lens_steer.evaluation.sweep_protocol import POSITIVE, Protocol
from lens_steer.evaluation.sweeps import run
from lens_steer.evaluation.work import measuring
from lens_steer.stats.rates import wilson
from lens_steer.steer.methods import standard_angular


def test_values() -> None:
    """Ranges with their end, lists; anything else is refused."""
    assert values_of("0:360:10")[-1] == 360.0
    assert len(values_of("0:360:10")) == 37
    assert values_of("-1, 0.5") == (-1.0, 0.5)
    assert values_of("-4:-1:1") == (-4.0, -3.0, -2.0, -1.0)
    for bad in ("", "a", "0:10", "0:10:0", "10:0:5", "nan"):
        with pytest.raises(LensSteerError, match="gives no values"):
            values_of(bad)
    with pytest.raises(LensSteerError, match="'10,10' repeats a value"):
        values_of("10,10")


def test_every_control_differs_in_its_one_thing(calibration: Any, qwen: Any, refusal: Any) -> None:
    """Same angles; where it writes, along what; a system prompt where there is one."""
    acts = ls.record(qwen, refusal.fit, progress=False, engine="hf")
    found = {
        g.condition: g
        for g in control_grids(
            calibration, ls.calibrate(shuffled_labels(acts, 0)), values=(0.0, 150.0), system="Be brief."
        )
    }
    assert set(found) == {NONE, PROMPT_ONLY, *CONTROLS}
    plans = {name: g.build(150.0) for name, g in found.items() if g.build is not None}
    own = calibration.discriminative_sites
    assert len(plans[RANDOM_SITES].sites) == len(own) != plans[RANDOM_SITES].sites
    assert not set(plans[EARLY].sites) & set(plans[LATE].sites)
    assert set(plans[EARLY].sites) | set(plans[LATE].sites) == set(plans[ALL].sites)
    assert plans[SHUFFLED].sites == own
    assert not np.allclose(plans[SHUFFLED].steps[0].parameters["basis"], calibration.basis)
    assert found[PROMPT_ONLY].system == "Be brief."
    mixed = shuffled_labels(acts, seed=1)
    assert sorted(
        map(float, mixed.positive.sum((1, 2)).tolist() + mixed.negative.sum((1, 2)).tolist())
    ) == pytest.approx(sorted(acts.positive.sum((1, 2)).tolist() + acts.negative.sum((1, 2)).tolist()))


def test_grids_of_methods(calibration: Any) -> None:
    """Angles for rotations, sites and coefficients for additions, one setting for ablation; each builds at one value
    and at one a row.
    """
    for method in (
        "selective",
        "standard",
        "adaptive",
        "act-add",
        "act-add-keep-norm",
        "ablation",
        "swfc",
        "sttp",
        "stmp",
        "compliance",
    ):
        made = method_grids(calibration, method)
        assert sum(len(g.values) for g in made) <= 36
        grid = made[0]
        assert grid.build is not None
        value = grid.values[0]
        assert grid.build(value).method == method
        if value is not None:
            assert grid.build([value] * 3).n_rows == 3
    assert {g.variant for g in method_grids(calibration, "act-add")} <= set(calibration.discriminative_sites)
    with pytest.raises(LensSteerError, match="method='actadd': use one of"):
        method_grids(calibration, "actadd")
    with pytest.raises(LensSteerError, match="method='ablation' has no angle and no coefficient"):
        method_grids(calibration, "ablation", values=[1.0])


def test_a_grid_keeps_its_parameter(calibration: Any) -> None:
    """One condition at one value."""
    grid = Grid("x", partial(ls.selective_steering, calibration), (1.0, 2.0)).at(2.0)
    assert (grid.values, grid.name, Grid("x", variant="y").name) == ((2.0,), "x", "x (y)")


def test_a_plan_beside_is_in_force_too(qwen: Any, refusal: Any, calibration: Any, tmp_path: Path) -> None:
    """The answers are those under both plans; the rows of one run are not taken for those of the other."""
    prompts = refusal.report.positive[:3]
    before = standard_angular(calibration, 0.0, positions="prompt")
    grid = Grid("stale", partial(standard_angular, calibration, positions="generated"), (150.0, 210.0), beside=before)
    protocol = Protocol(
        qwen, Contrast(prompts, PromptSet(())), "report", PromptSet(()), max_new_tokens=8, asked=(POSITIVE,), read_by=()
    )
    rows = run(protocol, [grid], tmp_path, "rows", progress=False)
    for angle in grid.values:
        with (
            steering(qwen, before),
            steering(qwen, standard_angular(calibration, float(angle or 0), positions="generated")),
        ):
            texts = generate(qwen, prompts, max_new_tokens=8)
        assert [r["text"] for r in rows if r["value"] == angle] == texts
    assert all(r["surprise_ref"] is r["surprise_self"] is r["refusal_score"] is None for r in rows)
    hashes = [plan_hash(g) for g in (grid, replace(grid, beside=None), replace(grid, build=None), Grid(NONE))]
    assert len(set(hashes)) == 4
    assert hashes[-1] is None


def test_only_those_who_read_are_counted(qwen: Any, refusal: Any) -> None:
    """No pass over the answers where no model reads them, and one for each that does; on ``hf`` the model that writes
    them reads them meanwhile.
    """
    few = Contrast(refusal.report.positive[:3], refusal.report.negative[:2])
    protocol = Protocol(qwen, few, "report", PromptSet(()), max_new_tokens=8)
    nobody, one, both = (measuring(replace(protocol, read_by=r), [Grid(NONE)]) for r in ((), ("ref",), ("ref", "self")))
    assert (nobody.forced, one.forced, nobody.answers) == (0, both.forced, both.answers)
    slow = replace(protocol, engine="tl")
    one, both = (measuring(replace(slow, read_by=r), [Grid(NONE)]) for r in (("ref",), ("ref", "self")))
    assert 2 * one.forced == both.forced > 0
    assert measuring(replace(protocol, asked=(POSITIVE,)), [Grid(NONE)]).answers == 3


def setting(condition: str, value: float | None, hits: int) -> Setting:
    return Setting(condition, "", value, "select", {"positive_right": wilson(hits, 10)})


def test_a_tie_at_nothing() -> None:
    """No better than without steering, whatever the number of equals; and the other way round where less is better."""
    base = setting(NONE, None, 1)
    idle, strong, weak = setting("SS", 30.0, 1), setting("SS", 60.0, 7), setting("SS", 90.0, 0)
    for tried, nothing in (([idle, weak], True), ([weak], True), ([idle, strong, weak], False)):
        found = [*tried, base, setting("SAS", 30.0, 10)]
        assert at_nothing(found, base, choose(tried, base)) is nothing
    lowest = choose([idle, weak], base, "-positive_right")
    assert not at_nothing([idle, weak], base, lowest, "-positive_right")
    assert at_nothing([strong, idle], base, choose([strong, idle], base, "-positive_right"), "-positive_right")
    unmeasured = Choice("SS", "", 30.0, True, 1, 1, 1)
    assert at_nothing([idle], base, unmeasured, "perplexity_ref")
