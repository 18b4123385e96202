"""Controls in draws: what each puts wrong, what an interrupted sweep ends with, what is told where there are none."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lens_steer as ls
from lens_steer.data import ContrastSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import (
    ALL,
    NONE,
    RANDOM_PLANE,
    RANDOM_SITES,
    SHUFFLED,
    draw_sites,
    method_grids,
    probe_grid,
)
from lens_steer.evaluation.control_runs import NO_CONTROLS
from lens_steer.evaluation.controls import (
    IDENTITY_SETTING,
    OF_ONE_SITE,
    RANDOM_DIRECTION,
    Controls,
    along_random,
    report_draws,
    select_draws,
    shuffled_calibrations,
)
from lens_steer.evaluation.first_token import FirstToken, first_token
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.pieces import kept_calibration
from lens_steer.figures import saving
from lens_steer.geometry.boundary import boundary
from lens_steer.geometry.planes import random_plane, turned_at_random
from lens_steer.inference.batching import encode
from lens_steer.metrics.benchmarks import Tasks
from lens_steer.reports.sweep_report import Swept, sweep_method
from tests.test_cli import run as command_line

HOW: dict[str, Any] = {"tasks": Tasks(), "max_new_tokens": 24, "progress": False, "command": "test"}


@pytest.fixture(scope="module")
def few(refusal: Any) -> ContrastSet:
    return refusal.first(select=3, report=4)


@pytest.fixture(scope="module")
def grids(calibration: Any) -> list[Grid]:
    return method_grids(calibration, "selective", values=[0.0, 120.0, 240.0])


@pytest.fixture(scope="module")
def controls(calibration: Any) -> Controls:
    return Controls(calibration, draws=2, select_values=1, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("swept")


@pytest.fixture(scope="module")
def swept(qwen: Any, few: ContrastSet, grids: list[Grid], controls: Controls, folder: Path) -> Swept:
    return sweep_method(qwen, few, grids, folder, controls=controls, **HOW)


@pytest.mark.parametrize("n", [1, 3, 7])
def test_random_directions_keep_lengths_and_cosines(n: int) -> None:
    """The Gram matrix stays, also of dependent vectors; another seed gives others, the same seed the same."""
    vectors = torch.randn(n, 7, generator=torch.Generator().manual_seed(n))
    vectors[-1] = 2 * vectors[0]
    drawn = turned_at_random(vectors, 5)
    torch.testing.assert_close(drawn @ drawn.mT, vectors @ vectors.mT, atol=1e-4, rtol=1e-4)
    assert torch.equal(drawn, turned_at_random(vectors, 5))
    assert not torch.allclose(drawn, turned_at_random(vectors, 6))
    assert not torch.allclose(drawn, vectors)


@pytest.mark.parametrize(
    "method", ["act-add", "act-add-keep-norm", "ablation", "compliance", "clamp", "swfc", "sttp", "stmp"]
)
def test_a_random_direction_moves_the_same_tokens_as_far(method: str, calibration: Any) -> None:
    """Additions move by as much; what a boundary gates fires on the same vectors and moves them by the same steps."""
    grid = method_grids(calibration, method)[0]
    assert grid.build is not None
    plan = grid.build(grid.values[-1])
    drawn = along_random(plan, 4)
    assert (drawn.sites, drawn.positions, drawn.method) == (plan.sites, plan.positions, method)
    h = 20 * torch.randn(200, calibration.d_model, generator=torch.Generator().manual_seed(0))
    name = plan.sites[0]
    before, after = (p.operator(name)(h) - h for p in (plan, drawn))
    assert not torch.allclose(before, after)
    if method in ("act-add", "compliance", "swfc", "sttp", "stmp"):
        torch.testing.assert_close(before.norm(dim=1), after.norm(dim=1), atol=2e-3, rtol=1e-3)
    else:  # what is taken out or kept is the projection on the direction itself
        assert len(after[after.norm(dim=1) > 0]) == len(h)


def test_a_rotation_has_no_direction(calibration: Any) -> None:
    with pytest.raises(
        LensSteerError, match="plan of method 'selective' has steps without a direction: give a rotation"
    ):
        along_random(ls.selective_steering(calibration, 90), 0)


def test_every_draw_puts_one_thing_wrong(calibration: Any, grids: list[Grid]) -> None:
    """At the chosen angle: other planes at the own sites; the own plane at as many other sites, never the own; other
    calibrations at the own sites.
    """
    other = replace(calibration, basis=random_plane(calibration.d_model, 99))
    found, missing = report_draws(Controls(calibration, draws=4, seed=1), grids[0].at(120.0), [other, other])
    assert missing == {}
    by: dict[str, list[Any]] = {}
    for grid in found:
        assert grid.build is not None
        by.setdefault(grid.condition, []).append(grid.build(grid.values[0]))
    assert {name: len(plans) for name, plans in by.items()} == {
        IDENTITY_SETTING: 1,
        RANDOM_PLANE: 4,
        RANDOM_SITES: 4,
        ALL: 1,
        SHUFFLED: 2,
    }
    assert len({g.name for g in found}) == len(found)
    assert [g.variant for g in found if g.condition == RANDOM_PLANE] == ["draw 1", "draw 2", "draw 3", "draw 4"]
    own = calibration.discriminative_sites
    bases = [p.steps[0].parameters["basis"] for p in by[RANDOM_PLANE]]
    assert all(not torch.allclose(a, b) for i, a in enumerate([*bases, calibration.basis]) for b in bases[:i])
    assert all(p.sites == own and p.angle == 120.0 for p in (*by[RANDOM_PLANE], *by[SHUFFLED]))
    assert all(torch.equal(p.steps[0].parameters["basis"], calibration.basis) for p in (*by[RANDOM_SITES], *by[ALL]))
    places = [p.sites for p in by[RANDOM_SITES]]
    assert len({*places, own}) == 5
    assert {len(p) for p in places} == {len(own)}
    assert by[ALL][0].sites == calibration.sites
    assert by[IDENTITY_SETTING][0].angle == 0.0
    assert torch.equal(by[SHUFFLED][0].steps[0].parameters["basis"], other.basis)
    again, _ = report_draws(Controls(calibration, draws=4, seed=2), grids[0].at(120.0), "none")
    assert again[1].build(120.0) != found[1].build(120.0)  # type: ignore[misc]


def test_controls_keep_the_methods_options(calibration: Any) -> None:
    """Positions of the method are those of its controls, of every kind."""
    options: dict[str, Any] = {"positions": "prompt[1:]+generated"}
    for method in ("selective", "mean-phase", "act-add", "stmp", "ablation"):
        grid = method_grids(calibration, method, **options)[0]
        chosen = grid.at(grid.values[-1])
        found, _ = report_draws(Controls(calibration, options, draws=1), chosen, [calibration])
        assert {g.build(g.values[0]).positions for g in found if g.build is not None} == {"prompt[1:]+generated"}


def test_what_a_method_has_no_control_of_is_told(calibration: Any, qwen: Any, few: ContrastSet, tmp_path: Path) -> None:
    """No identity where there is none; no other sites where it writes at all; of a probe only directions; no shuffled
    labels of other prompts.
    """
    found, missing = report_draws(
        Controls(calibration, draws=2), method_grids(calibration, "standard")[0].at(90.0), "no acts"
    )
    assert IDENTITY_SETTING not in {g.condition for g in found}
    assert missing == {IDENTITY_SETTING: "no value of standard leaves a token as it is", SHUFFLED: "no acts"}
    everywhere = replace(calibration, selected_site="blocks.6.hook_resid_mid")
    (grid,) = method_grids(everywhere, "ablation-everywhere")
    found, missing = report_draws(Controls(everywhere, draws=2), grid, "no acts")
    assert {g.condition for g in found} == {RANDOM_DIRECTION}
    assert "ablation-everywhere writes at all 36 sites already" in missing[RANDOM_SITES]
    probe = boundary(calibration)
    found, missing = report_draws(Controls(probe, draws=2), probe_grid(probe, "stmp").at(2.0), OF_ONE_SITE)
    assert [g.condition for g in found] == [IDENTITY_SETTING, RANDOM_DIRECTION, RANDOM_DIRECTION]
    assert missing == dict.fromkeys((RANDOM_SITES, ALL, SHUFFLED), OF_ONE_SITE)
    other = replace(calibration, prompt_hash="another")
    told = shuffled_calibrations(qwen, few, Controls(other), tmp_path, progress=False)
    assert "made from other prompts than this contrast's fit split" in str(told)
    with pytest.raises(LensSteerError, match="condition 'no steering' steers nothing"):
        report_draws(Controls(calibration), Grid(NONE), "no acts")
    with pytest.raises(LensSteerError, match="draws=-1: give a number of at least 0"):
        Controls(calibration, draws=-1)


def test_sites_are_drawn_in_network_order(calibration: Any) -> None:
    """Each at most once, in the order of the network and not of the draw, and every site comes up."""
    rng, names = random.Random(1), list(calibration.sites)
    drawn = [draw_sites(rng, names[::-1], 5) for _ in range(60)]
    assert all(list(d) == [n for n in names if n in d] and len(d) == 5 for d in drawn)
    assert {n for d in drawn for n in d} == set(names)
    with pytest.raises(ValueError, match="larger than population"):
        draw_sites(rng, names, len(names) + 1)


def test_a_calibration_is_made_once(calibration: Any, tmp_path: Path) -> None:
    """The kept one comes back; one of other prompts or of another seed, where one is asked for, is made anew."""
    folder, made = tmp_path / "one", []

    def make(**other: Any) -> Any:
        made.append(replace(calibration, **other))
        return made[-1]

    for source in (calibration, calibration, replace(calibration, seed=9)):
        kept = kept_calibration(folder, source, make)
        assert torch.equal(kept.basis, calibration.basis)
    assert len(made) == 1
    assert kept_calibration(folder, calibration, lambda: make(seed=9), seed=9).seed == 9
    other = replace(calibration, prompt_hash="other")
    assert kept_calibration(folder, other, lambda: make(prompt_hash="other")).prompt_hash == "other"
    assert len(made) == 3
    (tmp_path / "two").mkdir()
    with pytest.raises(LensSteerError, match="two"):
        kept_calibration(tmp_path / "two", calibration, make)


def test_planes_on_select(calibration: Any) -> None:
    """At values from the middles of equal parts of the grid, without the identity; nothing for a method without an
    angle, or where none are asked for.
    """
    grids = method_grids(calibration, "selective")
    drawn = select_draws(Controls(calibration, draws=3), grids)
    assert [g.values for g in drawn] == [(50.0, 140.0, 220.0, 310.0)] * 3
    assert Controls(calibration).smallest_p == pytest.approx(1 / 11)
    assert select_draws(Controls(calibration, select_values=0), grids) == []
    assert select_draws(Controls(calibration), method_grids(calibration, "act-add")) == []
    two = select_draws(
        Controls(calibration, draws=1), method_grids(calibration, "selective", values=[0.0, 90.0, 270.0, 360.0])
    )
    assert two[0].values == (90.0, 270.0)


def test_a_sweep_with_controls(swept: Swept, folder: Path, few: ContrastSet) -> None:
    """Each number of the method stands beside its bands; controls are not chosen; the identity says what no steering
    says; random planes do nothing here.
    """
    record = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert set(record["choices"]) == {NONE, "selective"}
    none, method = record["report"]
    assert "band" not in none
    assert set(method["band"]) == set(swept.reported("selective").measured)
    for by in method["band"].values():
        assert set(by) == {RANDOM_PLANE, RANDOM_SITES, SHUFFLED}
    found = record["controls"]
    assert (found["draws"], found["seed"], found["left_out"]) == (2, 3, {})
    assert found["smallest_p"] == pytest.approx(1 / 3)
    assert "at the value that was chosen for the method" in found["told"]
    assert len(found["report"]) == 1 + 3 * 2 + 1
    assert [(s["condition"], s["variant"], s["value"], s["split"]) for s in found["select"]] == [
        (RANDOM_PLANE, f"draw {k}", 240.0, "select") for k in (1, 2)
    ]
    drawn = [s["positive_right"] for s in found["report"] if s["condition"] == RANDOM_SITES]
    assert method["band"]["positive_right"][RANDOM_SITES]["maximum"] == max(drawn)
    planes = [s["positive_right"] for s in found["report"] if s["condition"] == RANDOM_PLANE]
    assert planes == [none["positive_right"]] * 2
    assert method["positive_right"] > none["positive_right"]
    assert method["band"]["positive_right"][RANDOM_PLANE]["p_at_least"] == pytest.approx(1 / 3)
    lines = [
        [
            line.split(",", 6)[3:]
            for line in (folder / f"{name}.csv").read_text(encoding="utf-8").splitlines()
            if f'"{condition}"' in line
        ]
        for name, condition in (("report", NONE), ("report_controls", IDENTITY_SETTING))
    ]
    assert len(lines[0]) == 8
    assert lines[0] == lines[1]
    assert record["first_token"]["steered"] is True
    assert 0.5 < swept.first_token.highest[1] < 2  # type: ignore[union-attr]
    assert saving.load(folder, "polar")[0].notes["draws"] == {RANDOM_PLANE: 2}
    assert sorted(saving.redraw(folder)) == ["class_swap", "coherence_by_angle", "polar"]


def test_an_interrupted_sweep_ends_with_the_same_bytes(
    swept: Swept,
    folder: Path,
    qwen: Any,
    few: ContrastSet,
    grids: list[Grid],
    controls: Controls,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped among the controls, it goes on from there; another folder with the same seed holds the same bytes."""
    import lens_steer.evaluation.sweeps as module

    calls: list[str] = []
    original = module.measured_side

    def failing(protocol: Any, grid: Grid, *rest: Any) -> Any:
        calls.append(grid.name)
        if grid.name == f"{RANDOM_SITES} (draw 2)" and calls.count(grid.name) == 1:
            raise KeyboardInterrupt
        return original(protocol, grid, *rest)

    monkeypatch.setattr(module, "measured_side", failing)
    with pytest.raises(KeyboardInterrupt):
        sweep_method(qwen, few, grids, tmp_path, controls=controls, **HOW)
    assert not (tmp_path / "sweep.json").exists()
    before = len(calls)
    sweep_method(qwen, few, grids, tmp_path, controls=controls, **HOW)
    assert (
        f"{RANDOM_PLANE} (draw 1)" not in calls[before : before + 2]
    )  # what was measured before is not measured again
    names = [
        "select.csv",
        "report.csv",
        "report_controls.csv",
        "select_controls.csv",
        "sweep.json",
        "polar.csv",
        "polar.json",
    ]
    assert [n for n in names if (tmp_path / n).read_bytes() != (folder / n).read_bytes()] == []
    for name in ("report_controls.csv", "sweep.json"):
        assert (tmp_path / name).stat().st_size > 100


def test_no_controls_are_told(
    swept: Swept, folder: Path, qwen: Any, few: ContrastSet, grids: list[Grid], calibration: Any, tmp_path: Path
) -> None:
    """In the record, and in the legend's title."""
    for name in (
        "select.csv",
        "select.run.json",
        "report.csv",
        "report.run.json",
    ):  # the same rows: only what is beside them is other
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    found = sweep_method(qwen, few, grids, tmp_path, controls=Controls(calibration, draws=0), **HOW)
    record = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    assert record["controls"] == {"draws": 0, "told": NO_CONTROLS}
    assert found.bands == {}
    assert not (tmp_path / "report_controls.csv").exists()
    assert json.loads((tmp_path / "polar.json").read_text(encoding="utf-8"))["notes"]["told"] == "no controls were run"


def test_the_first_token_is_looked_at_apart(qwen: Any, refusal: Any, calibration: Any) -> None:
    """Its length and the others' as counted from every prompt by itself; whether the plan steers it; what is said where
    it is long.
    """
    prompts = refusal.select.positive[:3]
    plan = ls.selective_steering(calibration, 90, at=["blocks.3.hook_resid_post", "blocks.5.ln1.hook_out"])
    found = first_token(qwen, plan, prompts)
    lengths = []
    for prompt in prompts:
        ids = torch.tensor([encode(qwen.lens_info.tokenizer, prompt)])
        _, cache = qwen.run_with_cache(ids, names_filter="blocks.3.hook_resid_post")
        lengths.append(cache["blocks.3.hook_resid_post"][0].norm(dim=-1))
    assert found.first[0] == pytest.approx(float(np.median([float(v[0]) for v in lengths])), rel=1e-4)
    assert found.others[0] == pytest.approx(
        float(np.median(np.concatenate([v[1:].numpy() for v in lengths]))), rel=1e-4
    )
    assert found.told == ""
    without = replace(plan, positions="prompt[1:]+generated")
    assert (found.steered, first_token(qwen, without, prompts).steered) == (True, False)
    long = FirstToken(("a", "b"), (5.0, 300.0), (5.0, 2.0), True, 3)
    assert long.told.startswith("the first prompt token is 150 times as long as the others at b, and is steered too")
    assert replace(long, steered=False).told == ""
    with pytest.raises(LensSteerError, match="prompts is empty: give at least one"):
        first_token(qwen, plan, prompts[:0])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--controls", "-1"), "--controls -1: give a number of at least 0 (0: none)"),
        (("--control-values", "-2"), "--control-values -2: give a number of at least 0"),
        (("--positions", "prompt[1:]+reply"), "'reply' is not understood"),
    ],
)
def test_options_that_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    made: Path,
    args: tuple[str, str],
    message: str,
) -> None:
    """In one line, before the model is loaded."""
    code, _, error = command_line(monkeypatch, capsys, "sweep", "--calibration", made, "--out", tmp_path / "out", *args)
    assert (code, sum(line.startswith("lens-steer:") for line in error.splitlines())) == (2, 1)
    assert message in error
