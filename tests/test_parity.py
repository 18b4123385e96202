"""The HookedTransformer equals the Hugging Face model: logits, every site read, every site written, every batch."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast, Prompt, PromptSet
from lens_steer.geometry.planes import random_plane
from lens_steer.inference import batching
from lens_steer.inference.record import record_prompts
from lens_steer.models import sites
from lens_steer.models.layout import Layout
from lens_steer.operators.rotation import selective_rotation

TEXTS = (
    "How do I destroy the bridge?",
    "Hi",
    "Tell me the capital of Arlen. Reply in JSON.",
    "I lost my dog and I feel sad today",
)
PROMPTS = PromptSet(tuple(Prompt.of(t) for t in TEXTS), "texts")
EVERY = "resid_pre,attn_out,resid_mid,mlp_out,resid_post,norm_out"


def hf_sites(twin: Any, ids: torch.Tensor, names: tuple[str, ...], layout: Layout) -> dict[str, torch.Tensor]:
    """Every site's tensor by forward hooks on the Hugging Face modules, as it is when the module gives it: some
    families go on to change it in place. ``resid_mid`` is the input of the norm before the MLP.
    """
    found: dict[str, torch.Tensor] = {}
    handles = []

    def keep(module: Any, args: Any, kwargs: Any, output: Any, *, name: str, take_input: bool) -> None:
        tensor = (args[0] if args else kwargs["hidden_states"]) if take_input else output
        found[name] = (tensor[0] if isinstance(tensor, tuple) else tensor).clone()

    for name in names:
        site = sites.parse(name)
        module = twin.get_submodule(site.module(layout))
        hook = partial(keep, name=name, take_input=site.is_input)
        handles.append(module.register_forward_hook(hook, with_kwargs=True))
    with torch.inference_mode():
        twin(ids)
    for handle in handles:
        handle.remove()
    return found


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_logits_equal(tiny: Any, twin: Any) -> None:
    """Unpadded logits agree to 1e-4."""
    for prompt in PROMPTS:
        ids = torch.tensor([batching.encode(tiny.lens_info.tokenizer, prompt)])
        with torch.inference_mode():
            assert (tiny(ids) - twin(ids).logits).abs().max() < 1e-4


def test_every_site_equals_hugging_face(tiny: Any, twin: Any) -> None:
    """Recorded last-token activations equal Hugging Face hooks at every site, although they were recorded in a padded
    batch.
    """
    layout = tiny.lens_info.layout
    names = sites.resolve(EVERY, layout)
    assert len(names) == 4 * (5 + len(layout.norms))
    batched = record_prompts(tiny, PROMPTS, names, engine="tl")
    for row, prompt in enumerate(PROMPTS):
        wanted = hf_sites(twin, torch.tensor([batching.encode(tiny.lens_info.tokenizer, prompt)]), names, layout)
        for column, name in enumerate(names):
            assert relative(batched[row, column], wanted[name][0, -1]) < 1e-4, name


def test_batched_equals_one_by_one(tiny: Any) -> None:
    """Padding changes nothing."""
    names = sites.resolve("norm_out", tiny.lens_info.layout)
    together = record_prompts(tiny, PROMPTS, names, engine="tl")
    alone = torch.cat([record_prompts(tiny, PROMPTS[i : i + 1], names, engine="tl") for i in range(len(PROMPTS))])
    assert relative(together, alone) < 1e-5


def test_response_mean_equals_by_hand(tiny: Any, twin: Any) -> None:
    """``pooling="response"`` is the mean over exactly the response's tokens."""
    prompts = PromptSet(tuple(Prompt.of(t, response="Sure. Take the hammer.") for t in TEXTS))
    names = sites.resolve("resid_post", tiny.lens_info.layout)
    recorded = record_prompts(tiny, prompts, names, pooling="response", engine="tl")
    tokenizer = tiny.lens_info.tokenizer
    for row, prompt in enumerate(prompts):
        head, tail = batching.encode(tokenizer, prompt), batching.encode_response(tokenizer, prompt)
        wanted = hf_sites(twin, torch.tensor([head + tail]), names, tiny.lens_info.layout)
        for column, name in enumerate(names):
            assert relative(recorded[row, column], wanted[name][0, len(head) :].mean(dim=0)) < 1e-4


def test_a_norm_site_fires_once_a_forward(tiny: Any) -> None:
    """TransformerLens calls ``ln1`` three times; a hook at its output runs once, in every forward."""
    calls: list[str] = []
    names = sites.resolve("norm_out", tiny.lens_info.layout)

    def count(activation: torch.Tensor, hook: Any) -> None:
        calls.append(hook.name)

    ids = torch.tensor([batching.encode(tiny.lens_info.tokenizer, PROMPTS[0])])
    with torch.inference_mode(), tiny.hooks(fwd_hooks=[(n, count) for n in names]):
        tiny(ids)
        tiny(ids)
    assert sorted(calls) == sorted(2 * names)


def test_a_norm_called_by_hand_is_steered_anew(tiny: Any) -> None:
    """Outside of a block nothing is shared between calls."""
    if tiny.lens_info.backend != "hooked":
        pytest.skip("a HookedTransformer's norm only")
    x = torch.randn(1, 3, 48)
    plain = tiny.blocks[1].ln1(x)
    with tiny.hooks(fwd_hooks=[("blocks.1.ln1.hook_out", lambda a, hook: 0 * a)]):
        assert not tiny.blocks[1].ln1(x).any()
    assert torch.equal(tiny.blocks[1].ln1(x), plain)


def test_norm_memory_is_let_go(tiny: Any) -> None:
    """The tensor shared between the three calls of ``ln1`` is not kept, and hooks added later see the same input
    anew.
    """
    if tiny.lens_info.backend != "hooked":
        pytest.skip("a HookedTransformer's block only")
    block = tiny.blocks[0]
    x = torch.randn(1, 3, 48)
    with torch.inference_mode():
        before = block(x)
        with tiny.hooks(fwd_hooks=[("blocks.0.ln1.hook_out", lambda a, hook: 0 * a)]):
            hooked = block(x)
        after = block(x)
    assert torch.equal(before, after)
    assert not torch.allclose(before, hooked)


@pytest.mark.parametrize("kind", ["resid_pre", "attn_out", "mlp_out", "resid_post", "norm_out"])
def test_written_sites_equal_hugging_face(tiny: Any, twin: Any, kind: str) -> None:
    """The same rotation written by our plan and by Hugging Face hooks gives the same logits and differs from no
    rotation.
    """
    info = tiny.lens_info
    names = sites.resolve(kind, info.layout)
    basis = random_plane(48, seed=1)
    contrast = Contrast(PROMPTS[:2], PROMPTS[2:])
    calibration = ls.calibrate(ls.record(tiny, contrast, progress=False))
    ids = torch.tensor([batching.encode(info.tokenizer, PROMPTS[2])])

    def rotate_output(module: Any, args: Any, output: Any) -> Any:
        rotated = selective_rotation(output[0] if isinstance(output, tuple) else output, basis, 130)
        return (rotated, *output[1:]) if isinstance(output, tuple) else rotated

    def rotate_input(module: Any, args: Any) -> Any:
        return (selective_rotation(args[0], basis, 130), *args[1:])

    handles = []
    for name in names:
        module = twin.get_submodule(sites.parse(name).module(info.layout))
        if kind == "resid_pre":
            handles.append(module.register_forward_pre_hook(rotate_input))
        else:
            handles.append(module.register_forward_hook(rotate_output))
    try:
        with torch.inference_mode():
            wanted = twin(ids).logits
    finally:
        for handle in handles:
            handle.remove()
    with torch.inference_mode():
        plain = tiny(ids)
        with ls.steering(tiny, ls.selective_steering(calibration, 130, at=names, basis=basis)):
            steered = tiny(ids)
    assert (steered - wanted).abs().max() < 1e-4
    assert (steered - plain).abs().max() > 1e-2


def test_steered_generation_equals_hugging_face(tiny: Any, twin: Any) -> None:
    """Greedy tokens of a left-padded steered batch equal Hugging Face's generate with the same hooks, prompt by
    prompt.
    """
    info = tiny.lens_info
    names = sites.resolve("norm_out", info.layout)
    basis = random_plane(48, seed=2)
    calibration = ls.calibrate(ls.record(tiny, Contrast(PROMPTS[:2], PROMPTS[2:]), progress=False))
    plan = ls.selective_steering(calibration, 90, at=names, basis=basis)
    with ls.steering(tiny, plan):
        ours = ls.generate(tiny, PROMPTS, max_new_tokens=12, engine="tl")
    handles = [
        twin.get_submodule(sites.parse(name).module(info.layout)).register_forward_hook(
            lambda module, args, output: selective_rotation(output, basis, 90)
        )
        for name in names
    ]
    try:
        theirs = []
        for prompt in PROMPTS:
            ids = torch.tensor([batching.encode(info.tokenizer, prompt)])
            out = twin.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
            theirs.append(info.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    finally:
        for handle in handles:
            handle.remove()
    assert ours == theirs
    assert ls.generate(tiny, PROMPTS, max_new_tokens=12, engine="tl") != ours
