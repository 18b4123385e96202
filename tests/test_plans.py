"""Plans and the methods that make them: what each writes where, against the formulas; saved and loaded; described;
refused.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.geometry.boundary import boundary
from lens_steer.operators.rotation import selective_rotation
from lens_steer.steer.method_table import METHODS
from lens_steer.steer.methods import make_plan
from lens_steer.steer.plans import Step, load_plan, numbers, parse_numbers, save_plan
from tests.test_hooks import plan_of


@pytest.fixture(scope="module")
def h() -> Tensor:
    """Random vectors at the scale of the organism's activations."""
    return 3 * torch.randn(50, 128, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def means(calibration: Any, site: str) -> tuple[Tensor, Tensor]:
    row = calibration.sites.index(site)
    return calibration.mean_positive[row].double(), calibration.mean_negative[row].double()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_saved_equals_loaded(calibration: Any, tmp_path: Path, method: str) -> None:
    """A plan comes back equal, with equal operators; another plan is not equal."""
    plan = plan_of(method, calibration)
    save_plan(plan, tmp_path / "plan")
    back = load_plan(tmp_path / "plan")
    assert back == plan
    assert back.describe() == plan.describe()
    x = torch.randn(3, 128)
    assert all(torch.equal(back.operator(name)(x), plan.operator(name)(x)) for name in plan.sites)
    assert replace(back, positions="prompt") != plan
    assert back != plan_of("act-add" if method != "act-add" else "clamp", calibration)


def test_one_value_a_row_survives_saving(calibration: Any, tmp_path: Path) -> None:
    """Angles of several prompts are kept as they are."""
    plan = ls.selective_steering(calibration, [0, 90.5, -33])
    save_plan(plan, tmp_path)
    assert load_plan(tmp_path) == plan
    assert plan.n_rows == 3
    assert plan.row()["angle"] == [0, 90.5, -33]
    assert plan != ls.selective_steering(calibration, [0, 90.5, -34])


def test_description(calibration: Any) -> None:
    """Tensors under both names, blocks, first steered token; everything is plain JSON."""
    plan = ls.selective_steering(
        calibration, 90, at=("blocks.3.hook_resid_pre", "blocks.1.ln2.hook_out"), positions="prompt[-1]+generated"
    )
    told = plan.describe()
    json.dumps(told)
    assert told["tensors"] == [
        {"site": "blocks.1.ln2.hook_out", "module": "output of model.layers.1.post_attention_layernorm"},
        {"site": "blocks.3.hook_resid_pre", "module": "input of model.layers.3"},
    ]
    assert told["blocks"] == [1, 3]
    assert told["first_steered_token"] == "token -1 of the prompt"
    assert "90" in repr(plan) and "prompt[-1]" in repr(plan)


def test_act_add_adds_the_raw_difference(calibration: Any, h: Tensor) -> None:
    """At the selected site, or at each named one its own; with norms kept the ray is the same."""
    site = calibration.selected_site
    positive, negative = means(calibration, site)
    assert ls.act_add(calibration).sites == (site,)
    moved = ls.act_add(calibration, -2).operator(like=h)(h)
    assert torch.allclose(moved, h - 2 * (positive - negative), atol=1e-5)
    several = ls.act_add(calibration, at=calibration.sites[4:6])
    for name in several.sites:
        difference = means(calibration, name)[0] - means(calibration, name)[1]
        assert torch.allclose(several.operator(name, h)(h) - h, difference.expand_as(h), atol=1e-5)
    kept = ls.act_add(calibration, -2, keep_norm=True).operator(like=h)(h)
    assert torch.allclose(kept.norm(dim=-1), h.norm(dim=-1), atol=1e-9)
    assert torch.allclose(
        torch.nn.functional.cosine_similarity(kept, moved, dim=-1), torch.ones(50, dtype=torch.float64), atol=1e-5
    )


def test_compliance_takes_away_each_sites_own_unit_candidate(calibration: Any, h: Tensor) -> None:
    """The displacement has length α at every discriminative site."""
    plan = ls.unit_addition(calibration, -1.3)
    assert plan.sites == calibration.discriminative_sites
    for name in plan.sites:
        candidate = calibration.candidates[calibration.sites.index(name)].double()
        assert torch.allclose(plan.operator(name, h)(h) - h, 1.3 * candidate.expand_as(h), atol=1e-6)


def test_clamp_and_ablation_set_the_projection(calibration: Any, h: Tensor) -> None:
    """To the positive class's mean at that site, to a number, to zero."""
    b1 = calibration.basis[0].double()
    positive, _ = means(calibration, calibration.selected_site)
    for plan, wanted in (
        (ls.projection_clamp(calibration), float(positive @ b1)),
        (ls.projection_clamp(calibration, 2.5), 2.5),
        (ls.directional_ablation(calibration), 0.0),
    ):
        rho = plan.operator(like=h)(h) @ b1
        assert torch.allclose(rho, torch.full_like(rho, wanted), atol=1e-4)


def test_ablation_everywhere(calibration: Any) -> None:
    """At every block's input and both branches, along the stream's direction; refused for one read after a norm with
    nothing of the stream beside it.
    """
    plan = ls.directional_ablation(calibration, everywhere=True, direction=torch.ones(128))
    assert len(plan.sites) == 3 * 12
    assert plan.sites[:3] == ("blocks.0.hook_resid_pre", "blocks.0.hook_attn_out", "blocks.0.hook_mlp_out")
    assert torch.equal(
        ls.directional_ablation(calibration, everywhere=True).steps[0].parameters["direction"],
        calibration.stream_direction[1],
    )
    bare = replace(calibration, stream_mean_positive=None, stream_mean_negative=None)
    with pytest.raises(
        LensSteerError,
        match="after a norm and its gain, with nothing of the stream recorded beside it: calibrate again",
    ):
        ls.directional_ablation(bare, everywhere=True)


def test_halves_of_sas(calibration: Any, h: Tensor) -> None:
    """X1 after X2 is SAS at every site; X1 is SS by the angle from the mean phase; the mean itself lands where SAS puts
    it.
    """
    first, second, whole = (
        ls.phase_collapse(calibration),
        ls.mean_phase_rotation(calibration, 200),
        ls.standard_angular(calibration, 200),
    )
    assert first.sites == second.sites == whole.sites
    basis = calibration.basis.double()
    for name in whole.sites[::5]:
        composed = second.operator(name, h)(first.operator(name, h)(h))
        assert torch.allclose(composed, whole.operator(name, h)(h), atol=1e-6)
        centre = torch.stack(means(calibration, name)).mean(dim=0)
        c = basis @ centre
        phase = math.degrees(math.atan2(float(c[1]), float(c[0])))
        assert torch.allclose(second.operator(name, h)(h), selective_rotation(h, basis, 200 - phase), atol=1e-6)
        assert torch.allclose(second.operator(name, h)(centre), whole.operator(name, h)(centre), atol=1e-6)
    of_one = ls.mean_phase_rotation(calibration, 200, phase_of="positive")
    assert of_one != second


def test_projection_aware_methods(calibration: Any, h: Tensor) -> None:
    """SwFC moves by separations; StTP and StMP leave the other side as it is and land where the paper says."""
    found = boundary(calibration)
    positive, negative = (
        p[:, calibration.selected_index].double()
        for p in (calibration.statistics.projection_positive, calibration.statistics.projection_negative)
    )
    assert math.isclose(found.threshold, float(positive.mean() + negative.mean()) / 2, rel_tol=1e-9)
    assert math.isclose(found.std_positive, float(positive.std(correction=1)), rel_tol=1e-9)
    b1 = calibration.basis[0].double()
    rho = h @ b1
    swfc = ls.fixed_coefficient(calibration, 2).operator(like=h)(h) @ b1 - rho
    assert torch.allclose(swfc, torch.full_like(rho, 2 * float(positive.mean() - negative.mean())), atol=1e-5)
    below = rho < found.threshold
    assert 0 < int(below.sum()) < 50
    target = ls.target_projection(calibration, 6).operator(like=h)(h)
    assert torch.equal(target[~below], h[~below])
    assert torch.allclose(
        (target @ b1)[below], (positive.mean() + 6 * positive.std()).expand(int(below.sum())), atol=1e-4
    )
    above = ls.target_projection(calibration, -6, gate="above").operator(like=h)(h)
    assert torch.equal(above[below], h[below])
    assert torch.allclose(
        (above @ b1)[~below], (negative.mean() - 6 * negative.std()).expand(int((~below).sum())), atol=1e-4
    )
    mirrored = ls.mirror_projection(calibration).operator(like=h)(h) @ b1
    cap = positive.mean() + 40 * positive.std()
    assert torch.allclose(mirrored[below], torch.minimum(2 * found.threshold - rho[below], cap), atol=1e-4)
    capped = ls.mirror_projection(calibration, 4, cap_in_sigmas=0).operator(like=h)(h) @ b1
    assert float(capped[below].max()) <= float(positive.mean()) + 1e-4
    assert ls.mirror_projection(calibration, cap_in_sigmas=None).steps[0].parameters["cap"] is None


def test_a_target_on_the_gated_side_is_told(calibration: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The formula allows it; the log says so."""
    with caplog.at_level(logging.WARNING):
        ls.target_projection(calibration, -1e4)
    assert "moved the wrong way" in caplog.text


def test_bad_options(calibration: Any) -> None:
    """Each names the argument, the value and the mend."""
    cases: list[tuple[str, Any]] = [
        ("method='turn': use one of selective", lambda: make_plan("turn", calibration)),
        ("needs angle", lambda: make_plan("standard", calibration)),
        (
            "angle='1': method 'ablation' does not take it; it takes",
            lambda: make_plan("ablation", calibration, angle="1"),
        ),
        ("gate_axis=2: use 0", lambda: ls.adaptive_angular(calibration, 1, gate_axis=2)),
        ("gate='left': use one of below, above", lambda: ls.mirror_projection(calibration, gate="left")),
        ("gate='left'", lambda: ls.target_projection(calibration, gate="left")),
        ("coefficient='much' is not a number", lambda: numbers("coefficient", "much")),
        ("angle='90,x' is not a number", lambda: parse_numbers("angle", "90,x")),
        ("phase_of='all': use one of both", lambda: ls.phase_collapse(calibration, phase_of="all")),
        ("positions='first'", lambda: ls.act_add(calibration, positions="first")),
        (
            "site 'blocks.99.hook_resid_pre' does not exist",
            lambda: ls.act_add(calibration, at="blocks.99.hook_resid_pre"),
        ),
        ("was not recorded", lambda: ls.act_add(calibration, at="resid_post")),
        ("no direction: its class means are equal", lambda: ls.unit_addition(calibration, at="blocks.0.ln1.hook_out")),
        (r"direction of shape \(3,\) is not usable", lambda: ls.act_add(calibration, direction=torch.ones(3))),
        (r"basis has shape \(2, 5\)", lambda: ls.selective_steering(calibration, 1, basis=torch.eye(2, 5))),
        ("basis is not orthonormal", lambda: ls.selective_steering(calibration, 1, basis=2 * calibration.basis)),
        (
            "basis is not orthonormal",
            lambda: ls.selective_steering(calibration, 1, basis=torch.full((2, 128), math.nan)),
        ),
        ("names its own sites", lambda: ls.directional_ablation(calibration, everywhere=True, at="ln2")),
        ("has no angle to change", lambda: ls.act_add(calibration).at(20)),
        ("is not steered", lambda: ls.act_add(calibration).operator("blocks.0.hook_resid_pre")),
        ("no class means", lambda: ls.act_add(replace(calibration, mean_positive=None))),
        ("has no projections of its prompts", lambda: ls.fixed_coefficient(replace(calibration, statistics=None))),
        ("site='blocks.0.hook_resid_pre' was not recorded", lambda: boundary(calibration, "blocks.0.hook_resid_pre")),
    ]
    for message, call in cases:
        with pytest.raises(LensSteerError, match=message):
            call()


def test_bad_plans_on_disk(calibration: Any, tmp_path: Path) -> None:
    """Missing, truncated, of another version, with an unknown operator or parameter, not finite."""
    with pytest.raises(LensSteerError, match=r"has no plan\.json"):
        load_plan(tmp_path / "nothing")
    save_plan(ls.selective_steering(calibration, 90), tmp_path)
    facts = (tmp_path / "plan.json").read_text()
    for damage, message in (
        (facts[:-40], "corrupt or truncated"),
        (facts.replace('"format_version": 1', '"format_version": 9'), "format version 9"),
        (facts.replace('"operator": "selective"', '"operator": "spin"'), "operator='spin'"),
        (facts.replace('"angle": 90.0', '"angel": 90.0'), "angle is missing; angel=90.0 is not one of them"),
        (facts.replace('"positions": "all"', '"positions": "some"'), "positions='some'"),
        (facts.replace("blocks.", "block."), "site 'block"),
    ):
        (tmp_path / "plan.json").write_text(damage)
        with pytest.raises(LensSteerError, match=message):
            load_plan(tmp_path)
    plan = ls.selective_steering(calibration, 90)
    broken = replace(plan.steps[0], parameters={"basis": torch.full((2, 128), math.nan), "angle": 90.0})
    save_plan(replace(plan, steps=(broken,)), tmp_path)
    with pytest.raises(LensSteerError, match="not finite"):
        load_plan(tmp_path)


def test_a_list_is_one_value_a_row(calibration: Any, tmp_path: Path) -> None:
    """In a step of one's own and in a file, numbers as text too; what is no number is named."""
    step = Step("selective", calibration.discriminative_sites, {"basis": calibration.basis, "angle": [0, 90]})
    assert (step.n_rows, step.parameters["angle"].tolist()) == (2, [0.0, 90.0])
    save_plan(ls.selective_steering(calibration, 90), tmp_path)
    facts = (tmp_path / "plan.json").read_text()
    for written, angle in (("[0, 180]", [0.0, 180.0]), ('"130"', 130.0)):
        (tmp_path / "plan.json").write_text(facts.replace('"angle": 90.0', f'"angle": {written}'))
        assert load_plan(tmp_path).angle == angle
    for written in ("null", "{}", "NaN", '"north"'):
        (tmp_path / "plan.json").write_text(facts.replace('"angle": 90.0', f'"angle": {written}'))
        with pytest.raises(LensSteerError, match="angle="):
            load_plan(tmp_path)
    several = ls.target_projection(calibration, [0, 6])
    assert several.n_rows == 2
    assert (several.row()["coefficient"], several.row(1)["coefficient"]) == ([0, 6], 6)
