"""What is made on a model says which: the same fields from the recording to the plan, and on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.models.fits import ModelRef, reference
from lens_steer.steer.plans import SteeringPlan, Step
from tests.made import origin

WHERE = ("model", "architecture", "n_layers", "template", "own_layout")


def test_it_goes_from_hand_to_hand(qwen: Any, refusal: Any, tmp_path: Path) -> None:
    """Activations, means, calibration, boundary, probe and plan have what the model has."""
    acts = ls.record(qwen, refusal, "resid_post", progress=False)
    means = ls.record(qwen, refusal, "resid_post", keep="moments", progress=False)
    calibration, probe = ls.calibrate(acts), ls.fit_probe(acts, acts.sites[6])
    ls.save_calibration(calibration, tmp_path)
    made = [
        acts,
        means,
        calibration,
        ls.calibrate(means),
        ls.load_calibration(tmp_path),
        ls.boundary(calibration),
        probe,
    ]
    info = qwen.lens_info
    wanted = {"model": "organism/qwen2", "architecture": "qwen2", "n_layers": 12}
    wanted |= {"template": info.template, "own_layout": None}
    assert reference(info) == wanted
    assert all(isinstance(one, ModelRef) and reference(one) == wanted for one in made)
    plans = [ls.selective_steering(calibration, 90), ls.standard_angular(calibration, 90)]
    assert all({name: getattr(plan, name) for name in WHERE} == wanted and plan.d_model == 128 for plan in plans)
    assert reference(replace(probe, model="elsewhere"))["model"] == "elsewhere"


def test_the_plan_constructor(qwen: Any, calibration: Any) -> None:
    """From a calibration or a model's description; integers are explicit positions; details are kept."""
    steps = [Step("add", (calibration.sites[0],), {"direction": calibration.basis[0], "coefficient": 1.0})]
    plan = SteeringPlan.of(calibration, "own", steps, (0, 2), alpha=0.5)
    assert (plan.positions, plan.details, plan.d_model) == ("all[0]+all[2]", {"alpha": 0.5}, 128)
    assert plan == replace(SteeringPlan.of(qwen.lens_info, "own", steps, (0, 2)), details={"alpha": 0.5})
    with pytest.raises(LensSteerError, match=r"positions='last': 'last' is not understood; use all, prompt, generated"):
        SteeringPlan.of(calibration, "own", steps, "last")


def test_another_model_is_refused(qwen: Any) -> None:
    """By width, depth or family, with both values."""
    sides = torch.randn(2, 4, 3, 128, generator=torch.Generator().manual_seed(0))
    names = tuple(f"blocks.{block}.hook_resid_post" for block in (1, 2, 3))
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"n_layers": 4}, r"n_layers 4.* has n_layers 12"),
        ({"architecture": "llama"}, "architecture llama"),
    )
    for other, message in wrong:
        acts = ls.Activations(names, sides[0] + 1, sides[1], **origin(12) | other)
        with (
            pytest.raises(LensSteerError, match=rf"was made on 'made' \({message}.*calibrate on this model"),
            ls.steering(qwen, ls.selective_steering(ls.calibrate(acts), 90, at=acts.sites)),
        ):
            pass
