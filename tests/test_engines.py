"""One plan, several engines: HookedTransformer, TransformerBridge and Hugging Face give the same activations and the
same tokens.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.geometry.planes import random_plane
from lens_steer.inference import batching, clock
from lens_steer.inference.record import record_prompts
from lens_steer.models import sites
from lens_steer.models.loading import device_of, hf_twin, info_of
from lens_steer.operators.catalogue import effect
from tests.test_hooks import hook_count
from tests.test_parity import EVERY, PROMPTS, TEXTS, relative

N = len(PROMPTS)


@pytest.fixture(scope="module")
def tiny_calibration(tiny: Any) -> Any:
    """A calibration of the tiny model at every site."""
    return ls.calibrate(ls.record(tiny, Contrast(PROMPTS[:2], PROMPTS[2:]), EVERY, progress=False))


def plan_at(calibration: Any, kind: str, where: str = "all", angle: Any = 130) -> ls.SteeringPlan:
    return ls.selective_steering(calibration, angle, at=kind, basis=random_plane(48, seed=3), positions=where)


@pytest.mark.parametrize("pooling", ["last", "response"])
def test_recorded_values_equal(tiny: Any, pooling: Any) -> None:
    """Every site, last token and response mean, under a plan and without one."""
    prompts = PromptSet(tuple(ls.Prompt.of(t, response="Sure. Take the hammer.") for t in TEXTS))
    names = sites.resolve(EVERY, tiny.lens_info.layout)
    calibration = ls.calibrate(ls.record(tiny, Contrast(PROMPTS[:2], PROMPTS[2:]), progress=False))
    plain = record_prompts(tiny, prompts, names, pooling=pooling, engine="tl")
    assert relative(record_prompts(tiny, prompts, names, pooling=pooling, engine="hf"), plain) < 1e-4
    with ls.steering(tiny, plan_at(calibration, "norm_out", "prompt[2:]+generated[:3]")):
        steered = record_prompts(tiny, prompts, names, pooling=pooling, engine="tl")
        assert relative(record_prompts(tiny, prompts, names, pooling=pooling, engine="hf"), steered) < 1e-4
    assert relative(steered, plain) > 1e-2


def test_a_recording_stops_early(tiny: Any) -> None:
    """Blocks after the last one needed do not run, on either engine."""
    seen: list[int] = []
    twin = hf_twin(tiny)
    handles = [b.register_forward_hook(lambda m, a, o, k=k: seen.append(k)) for k, b in enumerate(twin.model.layers)]
    record_prompts(tiny, PROMPTS, ["blocks.1.hook_resid_post"], engine="hf")
    for handle in handles:
        handle.remove()
    assert set(seen) == {0, 1}


@pytest.mark.parametrize("where", ["all", "prompt", "generated", "prompt[-1]+generated[:3]", "generated[2:]"])
@pytest.mark.parametrize("kind", ["norm_out", "resid_pre", "attn_out,mlp_out"])
def test_generated_tokens_equal(tiny: Any, tiny_calibration: Any, kind: str, where: str) -> None:
    """Token for token: both engines, with and without a cache, batched and one by one."""
    with ls.steering(tiny, plan_at(tiny_calibration, kind, where)):
        together = ls.generate(tiny, PROMPTS, max_new_tokens=8, engine="tl")
        assert ls.generate(tiny, PROMPTS, max_new_tokens=8, engine="hf") == together
        assert ls.generate(tiny, PROMPTS, max_new_tokens=8, kv_cache=False, engine="tl") == together
        assert ls.generate(tiny, PROMPTS, max_new_tokens=8, kv_cache=False, engine="hf") == together
        assert [ls.generate(tiny, PROMPTS[i : i + 1], max_new_tokens=8, engine="tl")[0] for i in range(N)] == together
    assert hook_count(tiny) == 0


def test_positions_matter(tiny: Any, tiny_calibration: Any) -> None:
    """Prompt and answer steered together is everything; each alone is something else, and the first token obeys the
    prompt only.
    """
    answers = {}
    for where in ("all", "prompt+generated", "prompt", "generated", "prompt[-1]"):
        with ls.steering(tiny, plan_at(tiny_calibration, "norm_out", where)):
            answers[where] = ls.generate(tiny, PROMPTS, max_new_tokens=8)
    plain = ls.generate(tiny, PROMPTS, max_new_tokens=1)
    assert answers["all"] == answers["prompt+generated"]
    assert len({tuple(a) for a in answers.values()}) == 4
    with ls.steering(tiny, plan_at(tiny_calibration, "norm_out", "generated")):
        assert ls.generate(tiny, PROMPTS, max_new_tokens=1) == plain


def test_teacher_forcing_gives_the_generated_tokens(tiny: Any, tiny_calibration: Any) -> None:
    """One forward over prompt and answer predicts, at every position, the token that was generated there."""
    tokenizer = tiny.lens_info.tokenizer
    for where in ("all", "generated[1:4]", "prompt[-1]"):
        with ls.steering(tiny, plan_at(tiny_calibration, "norm_out", where)):
            for prompt in PROMPTS:
                ids = torch.tensor([batching.encode(tokenizer, prompt)])
                batch = batching.Batch((0,), ids, torch.ones_like(ids), (0,))
                with torch.inference_mode(), clock.running(batch):
                    out = tiny.generate(
                        ids,
                        max_new_tokens=8,
                        do_sample=False,
                        stop_at_eos=False,
                        prepend_bos=False,
                        padding_side="left",
                        verbose=False,
                        return_type="tokens",
                    )
                forced = batching.Batch((0,), out, torch.ones_like(out), (8,))
                with torch.inference_mode(), clock.running(forced):
                    predicted = tiny(out).argmax(dim=-1)
                assert torch.equal(predicted[0, ids.shape[1] - 1 : -1], out[0, ids.shape[1] :])


def test_teacher_forced_logits_equal_the_generated_ones(tiny: Any, tiny_calibration: Any) -> None:
    """The logits of every step of a cached generation on the twin, against one forward of the model over the finished
    text.
    """
    ids = torch.tensor([batching.encode(tiny.lens_info.tokenizer, PROMPTS[0])])
    twin = hf_twin(tiny)
    for where in ("all", "prompt[-1]+generated[:3]"):
        plan = plan_at(tiny_calibration, "norm_out", where)
        batch = batching.Batch((0,), ids, torch.ones_like(ids), (0,))
        with torch.inference_mode(), clock.running(batch), ls.steering(twin, plan):
            out = twin.generate(
                ids,
                attention_mask=batch.mask,
                max_new_tokens=8,
                min_new_tokens=8,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        forced = batching.Batch((0,), out.sequences, torch.ones_like(out.sequences), (8,))
        with torch.inference_mode(), clock.running(forced), ls.steering(tiny, plan):
            logits = tiny(out.sequences)[0, ids.shape[1] - 1 : -1]
        assert (logits - torch.cat(out.logits)).abs().max() < 1e-4


def test_padding_is_left_alone(tiny: Any, tiny_calibration: Any) -> None:
    """In a padded batch the pad columns of a steered site are byte-identical, in generate and in a forward of one's
    own.
    """
    name = "blocks.1.ln1.hook_out"
    batch = next(batching.batches(tiny.lens_info.tokenizer, PROMPTS, n_ctx=128))
    pads = batch.mask == 0
    assert pads.any()
    kept: dict[str, torch.Tensor] = {}

    def keep(activation: torch.Tensor, hook: Any, *, key: str) -> None:
        kept[key] = activation.clone()

    for key, inside in (("mask only", False), ("running", True)):
        tiny.add_hook(name, partial(keep, key="before"))
        with ls.steering(tiny, plan_at(tiny_calibration, name)), torch.inference_mode():
            tiny.add_hook(name, partial(keep, key="after"))
            if inside:
                with clock.running(batch):
                    tiny(batch.ids, attention_mask=batch.mask)
            else:
                tiny(batch.ids, attention_mask=batch.mask)
        tiny.reset_hooks()
        assert torch.equal(kept["before"][pads], kept["after"][pads]), key
        assert not torch.isclose(kept["before"][~pads], kept["after"][~pads]).all(dim=-1).any(), key


@pytest.mark.parametrize("engine", ["tl", "hf"])
def test_one_angle_a_prompt(tiny: Any, tiny_calibration: Any, engine: str) -> None:
    """One generation with four angles equals four generations with one."""
    angles = [0.0, 90.0, 200.0, -40.0]
    with ls.steering(tiny, plan_at(tiny_calibration, "norm_out", angle=angles)):
        if engine == "tl":
            tiny(torch.tensor([[5, 6, 7]] * 4))
            for rows in (1, 8):
                with pytest.raises(LensSteerError, match=f"each of 4 rows, and the batch has {rows}"):
                    tiny(torch.tensor([[5, 6, 7]] * rows))
        together = ls.generate(tiny, PROMPTS, max_new_tokens=8, engine=engine)
        small = ls.generate(tiny, PROMPTS, max_new_tokens=8, engine=engine, batch_size=2)
        with pytest.raises(LensSteerError, match="a value for each of 4 prompts, and 2 are given"):
            ls.generate(tiny, PROMPTS[:2], engine=engine)
    alone = []
    for i, angle in enumerate(angles):
        with ls.steering(tiny, plan_at(tiny_calibration, "norm_out", angle=angle)):
            alone += ls.generate(tiny, PROMPTS[i : i + 1], max_new_tokens=8, engine=engine)
    assert together == small == alone


def test_nested_plans_reach_the_twin_in_order(tiny: Any, tiny_calibration: Any) -> None:
    """Two plans that do not commute give the same answers on both engines, and other answers the other way round."""
    found = ls.boundary(tiny_calibration, "blocks.2.ln2.hook_out")
    turn = ls.selective_steering(tiny_calibration, 130, at=found.site)
    shift = ls.fixed_coefficient(found, 20)
    answers = []
    for outer, inner in ((turn, shift), (shift, turn)):
        with ls.steering(tiny, outer), ls.steering(tiny, inner):
            answers.append(ls.generate(tiny, PROMPTS, max_new_tokens=8, engine="tl"))
            assert ls.generate(tiny, PROMPTS, max_new_tokens=8, engine="hf") == answers[-1]
    assert answers[0] != answers[1]


def test_the_twin_can_be_steered_by_itself(tiny: Any, tiny_calibration: Any) -> None:
    """Hooks are added to it and removed, also after an error; a TransformerBridge's twin shares its parameters."""
    twin = hf_twin(tiny)
    before = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in twin.modules())
    plan = plan_at(tiny_calibration, "norm_out,resid_pre")
    with pytest.raises(RuntimeError, match="stop"), ls.steering(twin, plan):
        assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in twin.modules()) > before
        raise RuntimeError("stop")
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in twin.modules()) == before
    assert hf_twin(tiny) is twin
    assert hf_twin(twin) is twin
    assert device_of(twin) == device_of(tiny)
    if tiny.lens_info.backend == "bridge":
        mine = {p.data_ptr() for p in tiny.parameters()}
        assert all(p.data_ptr() in mine for p in twin.parameters())


def test_a_forward_from_the_middle_is_steered_for_what_it_is(tiny: Any, tiny_calibration: Any) -> None:
    """``start_at_layer`` after a padded forward: the old padding is forgotten, positions that are not known are
    refused.
    """
    if tiny.lens_info.backend != "hooked":
        pytest.skip("start_at_layer is a HookedTransformer's")
    ids, mask = torch.tensor([[3, 3, 7, 8]]), torch.tensor([[0, 0, 1, 1]])
    stream = torch.randn(1, 4, 48, generator=torch.Generator().manual_seed(0))
    plan = plan_at(tiny_calibration, "resid_post")
    with torch.inference_mode():
        with ls.steering(tiny, plan):
            wanted = tiny(stream, start_at_layer=2)
        with ls.steering(tiny, plan):
            tiny(ids, attention_mask=mask)
            assert torch.equal(tiny(stream, start_at_layer=2), wanted)
        with ls.steering(tiny, plan_at(tiny_calibration, "resid_post", "generated")):
            ls.generate(tiny, ["Hi"], max_new_tokens=1)
            with pytest.raises(LensSteerError, match="is not known"):
                tiny(stream, start_at_layer=2)


def test_gradients_after_inference(tiny: Any, tiny_calibration: Any) -> None:
    """A plan with one value a row serves a forward with gradients after one without."""
    ids = torch.tensor([[5, 6, 7]] * 2)
    with ls.steering(tiny, plan_at(tiny_calibration, "resid_post", angle=[10, 20])):
        with torch.inference_mode():
            tiny(ids)
        tiny(ids).sum().backward()
    tiny.zero_grad()


def test_a_branch_and_the_norm_after_it_are_one_tensor(tiny: Any, tiny_calibration: Any) -> None:
    """On Gemma-2 and 3 they are the same; what is written under one name is read under the other, alike on every
    engine.
    """
    if not tiny.lens_info.architecture.startswith("gemma"):
        pytest.skip("Gemma-2 and 3 only")
    names = ["blocks.1.ln1_post.hook_out", "blocks.1.hook_attn_out", "blocks.1.hook_resid_mid"]
    with (
        ls.steering(tiny, plan_at(tiny_calibration, "attn_out")),
        ls.steering(tiny, ls.directional_ablation(tiny_calibration, at="ln1_post")),
    ):
        here = record_prompts(tiny, PROMPTS, names, engine="tl")
        there = record_prompts(tiny, PROMPTS, names, engine="hf")
    assert relative(here, there) < 1e-4
    assert torch.equal(here[:, 0], here[:, 1])


def test_a_plan_that_steers_nothing_is_told(tiny: Any, tiny_calibration: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Positions that no prompt has."""
    with ls.steering(tiny, plan_at(tiny_calibration, "norm_out", "all[999]")):
        ls.generate(tiny, "Hi", max_new_tokens=2)
    assert "steered no token" in caplog.text


def test_what_the_twin_cannot_do_is_refused(tiny: Any, tiny_calibration: Any) -> None:
    """Hooks of one's own, the stream after attention, an engine that does not exist; nothing is left behind."""
    tiny.add_hook("blocks.0.hook_resid_post", lambda a, hook: a)
    with pytest.raises(LensSteerError, match="added to the model by hand"):
        ls.generate(tiny, ["Hi"], engine="hf")
    tiny.reset_hooks()
    after_attention = plan_at(tiny_calibration, "resid_mid")
    if (
        info_of(tiny).backend == "bridge"
    ):  # whose hook point there is the input of the norm, and the stream goes past it
        with pytest.raises(LensSteerError, match=r"cannot be written on a TransformerBridge .*: use backend='hooked'"):
            ls.steering(tiny, after_attention).__enter__()
    else:
        with (
            ls.steering(tiny, after_attention),
            pytest.raises(LensSteerError, match="cannot be written by engine='hf'"),
        ):
            ls.generate(tiny, ["Hi"], engine="hf")
    with pytest.raises(LensSteerError, match="engine='tgi': use one of tl, hf, vllm"):
        ls.generate(tiny, ["Hi"], engine="tgi")
    with pytest.raises(LensSteerError, match="engine='tgi'"):
        ls.record(tiny, Contrast(PROMPTS[:2], PROMPTS[2:]), engine="tgi")


def test_a_serving_engine_records_on_the_twin(tiny: Any) -> None:
    """It has no activations: what needs them runs on the Hugging Face twin, and no engine is started."""
    pair = Contrast(PROMPTS[:2], PROMPTS[2:])
    served, own = (ls.record(tiny, pair, engine=engine, progress=False) for engine in ("vllm", "hf"))
    assert torch.equal(served.positive, own.positive)
    assert "lens_remote" not in vars(tiny)
    assert ls.generate(tiny, ["Hi"], max_new_tokens=4, engine="tl") == ls.generate(
        tiny, ["Hi"], max_new_tokens=4, engine="hf"
    )


def test_effects_count_the_steered_tokens_only(tiny: Any, tiny_calibration: Any) -> None:
    """Both engines count alike; the sums are those of the operator on the recorded vectors."""
    plan = ls.adaptive_angular(tiny_calibration, 90, threshold=0.1, at="blocks.2.ln2.hook_out", positions="prompt[-1]")
    logs = []
    for engine in ("tl", "hf"):
        log = ls.EffectLog()
        assert "nothing ran" in repr(log)
        with ls.steering(tiny, plan, effects=log):
            ls.generate(tiny, PROMPTS, max_new_tokens=3, engine=engine)
        logs.append(log.rows()[0])
        assert log.gate_fire_rate == log.rows()[0]["gate_fire_rate"]
    h = record_prompts(tiny, PROMPTS, plan.sites)[:, 0]
    moved, did = effect("adaptive", h, plan.steps[0].parameters)
    assert torch.equal(moved, plan.operator(like=h)(h))
    for row in logs:
        assert row["tokens"] == N
        assert row["gate_fire_rate"] == did.gate_fire_rate
        for name in ("displacement", "radial", "angular"):
            assert row[name] == pytest.approx(float(getattr(did, name).mean()), abs=1e-4)


def test_effects_do_not_depend_on_the_batch(qwen: Any, calibration: Any, refusal: Any) -> None:
    """Answers of different lengths: counted to their own ends, together as one by one, on both engines."""
    prompts = [*refusal.report.positive[:2], *refusal.report.negative[:2]]
    plan = ls.adaptive_angular(calibration, 130, at=calibration.discriminative_sites[:2], positions="generated")

    def counted(groups: list[Any], engine: str) -> list[dict[str, Any]]:
        log = ls.EffectLog()
        with ls.steering(qwen, plan, effects=log):
            for group in groups:
                ls.generate(qwen, group, max_new_tokens=40, engine=engine)
        return log.rows()

    alone = counted([[p] for p in prompts], "tl")
    for engine in ("tl", "hf"):
        for here, there in zip(counted([prompts], engine), alone, strict=True):
            assert here["tokens"] == there["tokens"]
            assert here["displacement"] == pytest.approx(there["displacement"], rel=1e-3)


def test_a_cache_run_leaves_the_twin_usable(tiny: Any) -> None:
    """What the libraries hook for themselves (Transformers captures outputs under a Bridge's ``run_with_cache``) is no
    hook of the user's.
    """
    tiny.run_with_cache(torch.tensor([[5, 6, 7]]), names_filter=["blocks.1.hook_resid_post"])
    assert ls.generate(tiny, ["Hi"], max_new_tokens=4, engine="hf") == ls.generate(
        tiny, ["Hi"], max_new_tokens=4, engine="tl"
    )
