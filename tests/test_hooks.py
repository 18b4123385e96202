"""Plans and the ``steering`` context: what is added is removed, what was there stays, what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.steer.method_table import METHODS
from lens_steer.steer.methods import make_plan
from tests.conftest import HAS_HOOKED
from tests.tiny import build


def hook_count(model: Any) -> int:
    return sum(len(point.fwd_hooks) for point in {id(p): p for p in model.hook_dict.values()}.values())


def plan_of(method: str, calibration: Any) -> ls.SteeringPlan:
    """A plan of any method that moves something on the Qwen2 organism."""
    options: dict[str, Any] = METHODS[method].at_value(130) if METHODS[method].turns else {}
    if method == "ablation-everywhere":
        options["direction"] = calibration.basis[0]
    if method in ("adaptive",):
        options["threshold"] = -1e3
    return make_plan(method, calibration, **options)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(20)[None] + 50)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_hooks_are_added_and_removed(qwen: Any, calibration: Any, method: str) -> None:
    """One hook a site inside, none left behind, and the model as it was."""
    before = logits(qwen)
    plan = plan_of(method, calibration)
    with ls.steering(qwen, plan):
        assert hook_count(qwen) == sum(len(step.sites) for step in plan.steps) >= 1
        assert not torch.allclose(logits(qwen), before, atol=1e-3)
    assert hook_count(qwen) == 0
    assert torch.equal(logits(qwen), before)


def test_removed_after_an_exception_and_an_interrupt(qwen: Any, calibration: Any) -> None:
    """Whatever ends the block."""
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), ls.steering(qwen, ls.selective_steering(calibration, 90)):
            raise error
        assert hook_count(qwen) == 0


def test_a_users_hook_survives(qwen: Any, calibration: Any) -> None:
    """Hooks that were there before, and hooks added inside, are left alone."""
    seen: list[int] = []
    site = calibration.discriminative_sites[0]
    qwen.add_hook(site, lambda activation, hook: seen.append(1))
    with ls.steering(qwen, ls.selective_steering(calibration, 90)):
        qwen.add_hook("blocks.0.hook_resid_post", lambda activation, hook: seen.append(2))
        logits(qwen)
    logits(qwen)
    assert sorted(seen) == [1, 1, 2, 2]
    qwen.reset_hooks()


def test_nested_plans_compose(qwen: Any, calibration: Any) -> None:
    """A rotation by 40 within one by 50 is one by 90."""
    with (
        ls.steering(qwen, ls.selective_steering(calibration, 50)),
        ls.steering(qwen, ls.selective_steering(calibration, 40)),
    ):
        nested = logits(qwen)
    with ls.steering(qwen, ls.selective_steering(calibration, 90)):
        assert (nested - logits(qwen)).abs().max() < 1e-3


@pytest.mark.parametrize("angle", [0, 360, -720])
def test_identity_angle_is_byte_identical(qwen: Any, calibration: Any, angle: float) -> None:
    """Multiples of 360 leave the logits as they are, to the bit."""
    before = logits(qwen)
    with ls.steering(qwen, ls.selective_steering(calibration, angle)):
        assert torch.equal(logits(qwen), before)


def test_only_sites_of_the_plan_change(qwen: Any, calibration: Any) -> None:
    """Before the first steered block nothing differs; the steered site is rotated by the plan's own operator."""
    first = calibration.discriminative_sites[0]
    names = ["blocks.1.hook_resid_post", first]
    plan = ls.selective_steering(calibration, 120, at=(first,))
    tokens = torch.arange(12)[None] + 60
    with torch.inference_mode():
        _, plain = qwen.run_with_cache(tokens, names_filter=names)
        with ls.steering(qwen, plan):
            _, steered = qwen.run_with_cache(tokens, names_filter=names)
    assert torch.equal(plain[names[0]], steered[names[0]])
    assert torch.allclose(steered[first], plan.operator()(plain[first]), atol=1e-6)


def test_empty_set_cannot_be_steered(calibration: Any) -> None:
    """An empty discriminative set is an error for a plan, with the mend, unless the sites are named."""
    empty = replace(calibration, discriminative_sites=(), discriminative_blocks=())
    with pytest.raises(LensSteerError, match="no discriminative site.*name the sites"):
        ls.selective_steering(empty, 90)
    assert ls.selective_steering(empty, 90, at=calibration.sites[:2]).sites == calibration.sites[:2]


def test_another_models_calibration_is_refused(qwen: Any, calibration: Any) -> None:
    """Each of width, depth and architecture is checked before a hook is added."""
    wrong = replace(calibration, n_layers=30)
    with pytest.raises(LensSteerError, match="n_layers 30.*calibrate on this model"):
        ls.steering(qwen, ls.selective_steering(wrong, 90)).__enter__()
    wrong = replace(calibration, architecture="llama")
    with pytest.raises(LensSteerError, match="architecture llama"):
        ls.steering(qwen, ls.selective_steering(wrong, 90)).__enter__()
    without = dict.fromkeys(("mean_positive", "mean_negative", "stream_mean_positive", "stream_mean_negative"))
    wrong = replace(calibration, candidates=torch.zeros(24, 64), basis=torch.eye(2, 64), **without)
    with pytest.raises(LensSteerError, match="d_model 64"):
        ls.steering(qwen, ls.selective_steering(wrong, 90)).__enter__()
    assert hook_count(qwen) == 0


def test_a_bridge_in_compatibility_mode_is_refused(calibration: Any, tmp_path: Path) -> None:
    """It has folded and centred its weights in place."""
    model = ls.load_model(build("qwen2", tmp_path), backend="bridge")
    model.enable_compatibility_mode()  # type: ignore[operator]
    with pytest.raises(LensSteerError, match=r"weights processed.*load_model"):
        ls.steering(model, ls.selective_steering(calibration, 90)).__enter__()


@pytest.mark.skipif(not HAS_HOOKED, reason="TransformerLens 4 has no HookedTransformer")
def test_processed_weights_are_refused(calibration: Any) -> None:
    """A model with folded norms is refused with how to load it."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    folded = HookedTransformer(
        HookedTransformerConfig(
            n_layers=1, d_model=8, n_ctx=8, d_head=4, act_fn="relu", d_vocab=10, normalization_type="RMSPre"
        )
    )
    with pytest.raises(LensSteerError, match=r"RMSPre.*load_model"):
        ls.steering(folded, ls.selective_steering(calibration, 90)).__enter__()


@pytest.mark.parametrize("angle", [float("nan"), float("inf"), [], [1.0, float("nan")]])
def test_bad_angles(calibration: Any, angle: Any) -> None:
    """Anything that is not a finite number, nor one for each prompt, is named."""
    with pytest.raises(LensSteerError, match="angle="):
        ls.selective_steering(calibration, angle)


def test_generation_batched_equals_one_by_one(qwen: Any, refusal: Any, calibration: Any) -> None:
    """Steered answers do not depend on what else is in the batch."""
    prompts = refusal.report.positive[:5]
    with ls.steering(qwen, ls.selective_steering(calibration, 120)):
        together = ls.generate(qwen, prompts, max_new_tokens=24)
        alone = [ls.generate(qwen, [p], max_new_tokens=24)[0] for p in prompts]
    assert together == alone


def test_split_norm_outputs_are_refused(calibration: Any, tmp_path: Path) -> None:
    """An option of HookedTransformer that gives every head its own copy."""
    model: Any = ls.load_model(build("qwen2", tmp_path))
    if model.lens_info.backend != "hooked":
        pytest.skip("a HookedTransformer's option")
    model.set_use_split_qkv_input(True)
    with pytest.raises(LensSteerError, match="use_split_qkv_input on"):
        ls.generate(model, "Hi")


def test_a_single_prompt_is_a_list_of_one(qwen: Any) -> None:
    """A bare string is not taken for a list of characters."""
    assert ls.generate(qwen, "Hi", max_new_tokens=4) == ls.generate(qwen, ["Hi"], max_new_tokens=4)
    assert ls.generate(qwen, ls.Prompt.of("Hi"), max_new_tokens=4) == ls.generate(qwen, ["Hi"], max_new_tokens=4)


def test_bad_generation_input(qwen: Any) -> None:
    """No prompts, no tokens, too long a prompt."""
    with pytest.raises(LensSteerError, match="prompts is empty"):
        ls.generate(qwen, [])
    with pytest.raises(LensSteerError, match="max_new_tokens=0"):
        ls.generate(qwen, ["Hi"], max_new_tokens=0)
    with pytest.raises(LensSteerError, match="context of 512"):
        ls.generate(qwen, ["bridge " * 600])
