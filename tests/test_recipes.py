"""The recipes for an operator and a method, tried: toys with parameters under new names, one of them a vector,
registered for a test alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import RANDOM_PLANE, has_angle, method_grids, rule_grids
from lens_steer.evaluation.controls import IDENTITY_SETTING, RANDOM_DIRECTION, Controls, report_draws, select_draws
from lens_steer.evaluation.equal_divergence import curve
from lens_steer.evaluation.sweep_work import comparison_grids
from lens_steer.interop.exports.affine import affine_map
from lens_steer.interop.exports.merged import export_merged
from lens_steer.models.loading import info_of
from lens_steer.operators.catalogue import OPERATORS, bind, effect
from lens_steer.steer.method_table import METHODS, find_method, markdown_table, options, turning_methods
from lens_steer.steer.methods import make_plan
from lens_steer.steer.plans import Step
from tests.toys import TOY_METHODS, TOY_OPERATORS, pull

SITE = "blocks.4.hook_resid_post"
PROMPTS = ls.PromptSet(tuple(ls.Prompt.of(t) for t in ("What is 4 plus 3?", "Hello there")))
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry in each of the two tables, and nothing else."""
    for operator in TOY_OPERATORS:
        monkeypatch.setitem(OPERATORS, operator.name, operator)
    for method in TOY_METHODS:
        monkeypatch.setitem(METHODS, method.name, method)


@pytest.fixture
def anchor(qwen: Any) -> Tensor:
    return torch.randn(qwen.cfg.d_model, generator=torch.Generator().manual_seed(3))


def plan_of(model: Any, **parameters: Any) -> ls.SteeringPlan:
    info = info_of(model)
    return ls.SteeringPlan(
        "pull", (Step("pull", (SITE,), parameters),), "all", info.name, info.architecture, info.n_layers, info.d_model
    )


def recorded(model: Any, engine: str, site: str = SITE) -> Tensor:
    return ls.record(model, ls.Contrast(PROMPTS, PROMPTS), [site], engine=engine, progress=False).positive[:, 0]


@pytest.mark.parametrize("engine", ["tl", "hf"])
def test_an_operator_steers(qwen: Any, anchor: Tensor, engine: str) -> None:
    """Half way to the anchor, on both engines, and each row as far as it is told; effects are counted."""
    before, log = recorded(qwen, engine), ls.EffectLog()
    with ls.steering(qwen, plan_of(qwen, anchor=anchor, strength=0.5), effects=log):
        assert torch.allclose(recorded(qwen, engine), (before + anchor) / 2, atol=1e-5)
    assert log.gate_fire_rate == 1
    with ls.steering(qwen, plan_of(qwen, anchor=anchor, strength=[1.0, 0.0])):
        after = recorded(qwen, engine)
    assert torch.allclose(after, torch.stack([anchor, before[1]]), atol=1e-5)


def test_its_gate(anchor: Tensor, qwen: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It is asked like any other's, and told where it never fires."""
    h = torch.stack([anchor, anchor + 9])
    moved, did = effect("pull", h, {"anchor": anchor, "strength": 1.0, "mode": "far", "limit": 1.0})
    assert did.fired.tolist() == [False, True]
    assert torch.allclose(moved, anchor.expand(2, -1), atol=1e-5)
    with ls.steering(qwen, plan_of(qwen, anchor=anchor, strength=1.0, mode="far", limit=1e9)):
        ls.generate(qwen, "Hi", max_new_tokens=1)
    assert "the plan 'pull' changed no activation: no gate fired" in caplog.text


def test_a_plan_keeps_it(qwen: Any, anchor: Tensor, tmp_path: Path) -> None:
    """Saved and loaded it is equal; a vector as long as the rows is no value a row; it is described without its
    vectors.
    """
    plan = plan_of(qwen, anchor=anchor, strength=[0.25, 0.5], mode="all", limit=None)
    ls.save_plan(plan, tmp_path / "plan")
    again = ls.load_plan(tmp_path / "plan")
    assert again == plan != plan_of(qwen, anchor=-anchor, strength=[0.25, 0.5], mode="all", limit=None)
    assert again.n_rows == 2
    assert again.parameters == {"strength": [0.25, 0.5], "mode": "all", "limit": None}
    assert again.row(1)["strength"] == 0.5
    assert "strength" in repr(again)
    h = torch.randn(2, 3, len(anchor), generator=torch.Generator().manual_seed(1))
    assert torch.equal(
        again.operator(SITE, h)(h), pull(h, anchor, strength=torch.tensor([0.25, 0.5], dtype=torch.float64))
    )
    assert torch.equal(
        bind("pull", again.steps[0].at_rows(torch.tensor([1])), h)(h[1:]), pull(h[1:], anchor, strength=0.5)
    )


def test_exports_say_what_is_missing(
    qwen: Any, anchor: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an affine map nor a reason: where to write it. With a reason: that."""
    plan = plan_of(qwen, anchor=anchor, strength=0.5)
    with pytest.raises(LensSteerError, match="moves every token towards a point, which takes full rank"):
        export_merged(plan, qwen, tmp_path / "merged")
    monkeypatch.setitem(OPERATORS, "pull", replace(OPERATORS["pull"], affine=None))
    with pytest.raises(
        LensSteerError, match="operator 'pull' has no affine map here: give its record one, or the reason"
    ):
        affine_map("pull", plan.steps[0].parameters)


def test_what_is_no_number_is_refused(qwen: Any, anchor: Tensor) -> None:
    """By the parameter's own name; None only where the operator takes it."""
    for parameters, message in (
        ({"anchor": anchor, "strength": "far"}, "strength='far' is not a number"),
        ({"anchor": anchor, "strength": None}, "strength=None is not a number"),
        ({"anchor": anchor, "strength": 1.0, "limit": [1.0, 2.0]}, "operator 'pull' takes one number here"),
    ):
        with pytest.raises(LensSteerError, match=message):
            plan_of(qwen, **parameters)
    with pytest.raises(LensSteerError, match="operator='spin': use one of"):
        Step("spin", (SITE,), {"direction": anchor})


def test_a_method_makes_plans(qwen: Any, calibration: Any, tmp_path: Path) -> None:
    """By its record's name; saved and loaded it steers every site as computed by hand; what it does not take is
    refused.
    """
    plan = make_plan("pull", calibration, strength=0.25)
    ls.save_plan(plan, tmp_path / "plan")
    again = ls.load_plan(tmp_path / "plan")
    assert again == plan
    assert again.row() == {
        "method": "pull",
        "strength": 0.25,
        "mode": "all",
        "n_sites": len(plan.sites),
        "positions": "all",
    }
    site = plan.sites[0]  # nothing before it is steered
    mean = calibration.mean_negative[calibration.sites.index(site)]
    before = recorded(qwen, "hf", site)
    with ls.steering(qwen, again):
        after = recorded(qwen, "hf", site)
    assert torch.allclose(after, 0.75 * before + 0.25 * mean, atol=1e-4)
    assert not torch.allclose(after, before, atol=1e-2)
    assert find_method("pull_to_mean").name == "pull"
    with pytest.raises(LensSteerError, match="angle=3: method 'pull' does not take it; it takes strength, mode, at"):
        make_plan("pull", calibration, angle=3)


def test_a_method_is_swept_and_controlled(qwen: Any, calibration: Any) -> None:
    """Its grid and its identity are the record's; random directions stand in place of its vector; at other sites, and
    at another rule's.
    """
    (grid,) = method_grids(calibration, "pull")
    assert (grid.values, has_angle("pull")) == ((0.25, 0.5, 1.0), False)
    assert grid.build is not None
    assert grid.build([0.5, 1.0]) == make_plan("pull", calibration, strength=[0.5, 1.0])
    assert [g.values for g in comparison_grids(["pull"], (0.0, 90.0)) if g.condition == "pull"] == [grid.values]
    found, _ = report_draws(Controls(calibration, draws=1), grid.at(0.5), [calibration])
    by = {g.condition: g.build(g.values[0]) for g in found if g.build is not None}
    assert by[IDENTITY_SETTING].parameters["strength"] == 0.0
    anchors = [plan.steps[0].parameters["anchor"] for plan in (by[RANDOM_DIRECTION], grid.build(0.5))]
    assert torch.isclose(anchors[0].norm(), anchors[1].norm())
    assert not torch.allclose(*anchors)
    grids, _ = rule_grids(calibration, "pull", ["centred"])
    assert [g.condition for g in grids] == ["pull (centred)"]
    measured = curve(qwen, grid.at(0.5), PROMPTS, ["7.", "Hello."])
    assert measured.values == (0.0, 0.5)
    assert measured.kl[0] == 0.0 < measured.kl[1]


def test_a_method_with_an_angle(qwen: Any, calibration: Any, tmp_path: Path) -> None:
    """Under a name and in a plane of its own it is turned, drawn, controlled and exported like a rotation."""
    plan = make_plan("twist", calibration, theta=90)
    assert (plan.angle, plan.at(20).angle, plan.at([0, 20]).n_rows) == (90.0, 20.0, 2)
    site, h = plan.sites[0], torch.randn(3, calibration.d_model, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plan.operator(site, h)(h), ls.selective_steering(calibration, 90).operator(site, h)(h))
    assert has_angle("twist") and turning_methods()[-1] == "twist"
    assert comparison_grids(["twist"], (0.0, 90.0))[-1].values == (0.0, 90.0)
    drawn = select_draws(Controls(calibration, draws=1), method_grids(calibration, "twist"))
    assert [(g.condition, g.values) for g in drawn] == [(RANDOM_PLANE, (90.0, 180.0, 270.0))]
    dial = ls.dial(qwen, calibration, "Hello", method="twist", angle=90.0)
    assert dial.plan(90.0) == plan
    assert export_merged(plan, qwen, tmp_path / "merged").verdict == "pass"


def test_the_table_and_the_view_show_it(calibration: Any) -> None:
    """A row of the table, the formula beside a plan, options on the command line; the published methods are first."""
    assert markdown_table().splitlines()[-2:] == [
        "| `pull` | h + s (a − h) | the line to a | s = ½ | nowhere |",
        "| `twist` | h + (R_θ c − c) B | norm | θ relative | nowhere |",
    ]
    shown = make_plan("twist", calibration, theta=90)._repr_html_()
    assert "theta (degrees)" in shown and "h + (R_θ c − c) B" in shown
    assert [p.name for p in options()][3:] == ["strength", "theta", "threshold", "gate_axis", "gate", "mode"]


def lens_steer(*args: object, toys: bool = True) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with the toys registered before it starts, or without."""
    before = "from tests.toys import register; register(); " if toys else ""
    code = f"import sys; {before}from lens_steer.cli import main; sys.argv[0] = 'lens-steer'; main()"
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_the_command_line_takes_it(tmp_path: Path, made: Path) -> None:
    """Method and options as any other's, in the help too; refused by one line where it is not registered, or where the
    number is none.
    """
    (tmp_path / "p.txt").write_text("What is 4 plus 3?\nHello\n", encoding="utf-8")
    asked = [
        "steer",
        "--model",
        "organism/qwen2",
        "--calibration",
        made,
        "--prompts",
        tmp_path / "p.txt",
        "--method",
        "pull",
    ]
    asked += ["--max-new-tokens", 2, "--out", tmp_path / "o.jsonl"]
    done = lens_steer(*asked, "--strength", "0.25,1", "--mode", "far")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(r["method"], r["strength"], r["mode"]) for r in rows] == [("pull", 0.25, "far"), ("pull", 1.0, "far")]
    told = " ".join(lens_steer("steer", "--help").stdout.split())
    assert "pull: Toy: go --strength of the way to the negative mean" in told
    assert "Share of the way to the anchor." in told
    wrong = lens_steer(*asked, "--strength", "far")
    assert (wrong.returncode, "--strength 'far' is not a number" in wrong.stderr) == (2, True)
    without = lens_steer(*asked, toys=False)
    assert (without.returncode, "--method 'pull': use one of selective" in without.stderr) == (2, True)


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_an_operators_record_is_its_signature(name: str) -> None:
    """The parameters in their order, each with one specification; one at most by row; what may be left out has a
    default.
    """
    found = OPERATORS[name]
    assert [p.name for p in found.parameters] == list(signature(found.function).parameters)[1:]
    assert {*found.needs, *found.takes} == {p.name for p in found.parameters}
    assert sum(p.by_row for p in found.parameters) <= 1
    assert found.vectors and all(p.choices for p in found.parameters if p.kind == "choice")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_methods_record_is_true(name: str, calibration: Any) -> None:
    """The constructor takes the parameters; the steps have the operator and the sites; the identities alone leave
    tokens as they are.
    """
    record = METHODS[name]
    assert {p.name for p in record.parameters} <= set(signature(record.build).parameters)
    given = {} if record.swept is None else record.at_value(record.grid[-1])
    plan = make_plan(name, calibration, **given)
    assert plan.method == name
    assert {step.operator for step in plan.steps} == {record.operator}
    one = (calibration.selected_site,)
    if record.writes != "everywhere":
        assert plan.sites == (calibration.discriminative_sites if record.writes == "discriminative" else one)
    assert record.turns == (plan.angle is not None)
    h = 20 * torch.randn(64, calibration.d_model, generator=torch.Generator().manual_seed(0))
    for value in record.identities:
        still = make_plan(name, calibration, **record.at_value(value)).operator(plan.sites[0])
        assert torch.allclose(still(h), h, atol=1e-5)
    for value in record.grid:
        moving = make_plan(name, calibration, **{**record.swept_with, **record.at_value(value)}).operator(plan.sites[0])
        assert torch.allclose(moving(h), h, atol=1e-5) == (value in record.identities), value


def test_an_unknown_method_names_those_there_are() -> None:
    with pytest.raises(LensSteerError, match="method='turn': use one of selective, standard"):
        find_method("turn")
