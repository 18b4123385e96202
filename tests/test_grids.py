"""A plan beside a grid's own, who reads the answers again, and a choice that is a tie at nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lens_steer import generate, steering
from lens_steer.data import Contrast, PromptSet
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.grids import Grid, plan_hash
from lens_steer.evaluation.selection import Choice, Setting, at_nothing, choose
from lens_steer.evaluation.sweep_protocol import POSITIVE, Protocol
from lens_steer.evaluation.sweeps import run
from lens_steer.evaluation.work import measuring
from lens_steer.stats.rates import wilson
from lens_steer.steer.methods import standard_angular


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
