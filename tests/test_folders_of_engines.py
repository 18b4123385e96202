"""What stands in a model's folder, on the Hugging Face engine: what it cannot know is refused, a dtype is kept, and a
checkpoint's own settings for generation are set aside.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast
from lens_steer.errors import LensSteerError
from lens_steer.geometry.planes import random_plane
from lens_steer.models.loading import hf_twin, info_of
from lens_steer.operators.catalogue import bind
from lens_steer.steer.plans import Step
from tests.test_parity import PROMPTS, TEXTS


def test_what_the_twin_cannot_know_is_refused(tiny_folder: Any) -> None:
    """Plain hooks, hooks reset inside a plan, and weights put in others' place; weights edited in place are the twin's
    too.
    """
    for backend in ("auto", "bridge"):
        model: Any = ls.load_model(tiny_folder, backend=backend)
        calibration = ls.calibrate(ls.record(model, Contrast(PROMPTS[:2], PROMPTS[2:]), progress=False))
        handle = model.blocks[1].register_forward_hook(lambda m, a, o: None)
        with pytest.raises(LensSteerError, match="added to the model by hand"):
            ls.generate(model, "Hi", engine="hf")
        handle.remove()
        with ls.steering(model, ls.selective_steering(calibration, 130, at="norm_out")):
            model.reset_hooks()
            with pytest.raises(LensSteerError, match=r"were removed \(reset_hooks\?\)"):
                ls.generate(model, "Hi", engine="hf")
        assert ls.generate(model, "Hi", max_new_tokens=2, engine="hf") == ls.generate(
            model, "Hi", max_new_tokens=2, engine="tl"
        )
        with torch.no_grad():
            next(model.blocks[1].mlp.parameters()).mul_(-1)
        assert ls.generate(model, "Hi", max_new_tokens=4, engine="hf") == ls.generate(
            model, "Hi", max_new_tokens=4, engine="tl"
        )
        if model.lens_info.backend == "hooked":
            model.blocks[1].mlp.W_in = torch.nn.Parameter(-model.blocks[1].mlp.W_in.detach())
            with pytest.raises(LensSteerError, match="replaced, moved or changed after loading"):
                ls.generate(model, "Hi", engine="hf")


def test_a_steering_that_overflows_says_so(tiny_folder: Any) -> None:
    """Instead of answering nonsense, on both engines; a coefficient too large for the arithmetic is refused at once."""
    model: Any = ls.load_model(tiny_folder, dtype="float16")
    calibration = ls.calibrate(ls.record(model, Contrast(PROMPTS[:2], PROMPTS[2:]), "resid_post", progress=False))
    for engine in ("tl", "hf"):
        with (
            ls.steering(model, ls.act_add(calibration, 1e6)),
            pytest.raises(LensSteerError, match="steer less strongly"),
        ):
            ls.generate(model, "Hi", engine=engine)
    with pytest.raises(LensSteerError, match="not a finite number in float32"):
        ls.steering(model, ls.act_add(calibration, 1e39)).__enter__()


def test_a_dtype_of_half_precision_keeps_it(tiny_folder: Any) -> None:
    """A bfloat16 model steered on either backend stays bfloat16, and the hook computes in float32."""
    for backend in ("auto", "bridge"):
        model: Any = ls.load_model(tiny_folder, dtype="bfloat16", backend=backend)
        step = Step("selective", ("blocks.1.ln1.hook_out",), {"basis": random_plane(48, seed=3), "angle": 130.0})
        plan = ls.SteeringPlan("selective", (step,), "all", "tiny", info_of(model).architecture, 4, 48)
        seen: dict[str, torch.Tensor] = {}
        with torch.inference_mode(), ls.steering(model, plan):
            model.add_hook(step.sites[0], lambda a, hook, seen=seen: seen.update(after=a.clone()))
            model(torch.tensor([[7, 8, 9]]))
            model.reset_hooks()
        with torch.inference_mode():
            model.add_hook(step.sites[0], lambda a, hook, seen=seen: seen.update(before=a.clone()))
            model(torch.tensor([[7, 8, 9]]))
            model.reset_hooks()
        assert seen["after"].dtype == torch.bfloat16
        exact = bind("selective", step.parameters, seen["before"])(seen["before"].float()).bfloat16()
        assert torch.equal(seen["after"], exact)


def test_a_checkpoints_own_generation_settings_are_set_aside(tiny_folder: Any, tmp_path: Any) -> None:
    """Both engines answer greedily, whatever the folder asks for; the twin has its settings back afterwards."""
    import json
    import shutil

    folder = shutil.copytree(tiny_folder, tmp_path / "penal")
    settings = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    (folder / "generation_config.json").write_text(json.dumps(settings | {"repetition_penalty": 5.0}), encoding="utf-8")
    plain, model = ls.load_model(tiny_folder), ls.load_model(folder)
    wanted = ls.generate(plain, TEXTS, max_new_tokens=12, engine="hf")
    for engine in ("hf", "tl"):
        assert ls.generate(model, TEXTS, max_new_tokens=12, engine=engine) == wanted
    assert hf_twin(model).generation_config.repetition_penalty == 5.0
