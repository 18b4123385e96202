"""The proof of a layout: what holds to rounding, every error that it has to see, and half precision."""

from __future__ import annotations

import types
from dataclasses import replace
from typing import Any

import pytest
import torch

from lens_steer.errors import LensSteerError
from lens_steer.models.layout import Layout, known_layout
from lens_steer.models.proof import ProofError, prove, require
from lens_steer.models.structure import find_layout
from tests.further import FURTHER, further_config, layout_by, random_model
from tests.tiny import config_of

NO_IDS = types.SimpleNamespace(bos_token_id=0, eos_token_id=1, pad_token_id=2)


@pytest.mark.parametrize("family", FURTHER)
def test_layouts_are_proved(family: str) -> None:
    """On a random model of each family everything that its layout says holds to rounding."""
    config, layout = further_config(family), layout_by(family)
    assert len(layout.blocks) == config.num_hidden_layers
    for row in prove(random_model(config), layout):
        assert row.error < 1e-5, row
    assert Layout.from_json(layout.to_json()) == layout


def wrong(layout: Layout, **changes: Any) -> Layout:
    return replace(layout, blocks=tuple(replace(block, **changes) for block in layout.blocks))


SUMMED, WIRED = "a block gives its input + attn_out + mlp_out", "norms and branches read what they should"
FORMULA, MIXED = "every norm computes its formula", "a parallel block's attention alone mixes tokens"


def failing(model: Any, layout: Layout) -> list[str]:
    return [row.check for row in prove(model, layout) if not row.holds]


def swapped(layout: Layout, a: str, b: str) -> Layout:
    """The same with the modules of two kinds exchanged."""
    return wrong(
        layout,
        modules=tuple((layout.blocks[0].path | {a: layout.blocks[0].path[b], b: layout.blocks[0].path[a]}).items()),
    )


def test_the_proof_sees_every_error() -> None:
    """Another module as a branch, formulas, exchanged norms and branches, wrong readers, attention to the right."""
    from transformers import LlamaConfig

    config = config_of("gemma2", NO_IDS)
    layout, model = find_layout(config), random_model(config)
    modules = layout.blocks[0].path
    attn = wrong(layout, modules=tuple((modules | {"attn_out": "self_attn"}).items()))
    assert failing(model, attn) == [SUMMED, WIRED]
    assert failing(model, wrong(layout, formulas=tuple((k, "RMSNorm") for k in layout.blocks[0].norms))) == [FORMULA]
    times = wrong(layout, modules=tuple((modules | {"mlp_out": "mlp"}).items()), scaled=("mlp_out",))
    assert failing(model, times) == [SUMMED]
    assert failing(model, replace(layout, final_formula="LayerNorm (1 + w)")) == [FORMULA]
    assert failing(model, replace(layout, final_norm="model.layers.1.input_layernorm"))[0].startswith(
        "each block reads"
    )
    with pytest.raises(ProofError, match=r"model 'm' is not built as was found: 'a block gives .*' fails at model"):
        require(prove(model, attn), "m")
    llama = random_model(LlamaConfig(vocab_size=97, hidden_size=48, num_hidden_layers=2, num_attention_heads=4))
    plain = known_layout("llama", 2)
    assert failing(llama, plain) == []
    assert failing(llama, swapped(plain, "ln1", "ln2")) == [WIRED]
    assert failing(llama, swapped(plain, "attn_out", "mlp_out")) == [WIRED]
    assert failing(llama, wrong(plain, middle="input_layernorm")) == [WIRED]
    assert WIRED in failing(llama, wrong(plain, middle="", parallel=True))
    assert SUMMED in failing(
        llama, wrong(plain, modules=(*plain.blocks[0].modules[:3], ("mlp_out", "input_layernorm")))
    )
    with pytest.raises(LensSteerError, match="the check 'every norm computes its formula' cannot be made: "):
        prove(llama, replace(plain, final_norm="model.layers.0.self_attn", final_formula="RMSNorm"))
    for block in llama.model.layers:
        block.self_attn.is_causal = False
    assert "a later token changes no earlier logits" in failing(llama, plain)


@pytest.mark.parametrize("family", ["cohere", "falcon", "gpt_neox", "stablelm"])
def test_the_proof_tells_parallel_branches_apart(family: str) -> None:
    """Exchanged, their sum is the same; but what is called the MLP then mixes tokens."""
    layout, model = layout_by(family), random_model(further_config(family))
    assert MIXED in failing(model, swapped(layout, "attn_out", "mlp_out"))


def test_the_proof_sees_others_that_add_nothing_and_free_numbers() -> None:
    """Where a block multiplies, parts that it does not multiply still count once, by one number for all prompts."""
    layout, model = layout_by("falcon_h1"), random_model(further_config("falcon_h1"))
    assert failing(model, wrong(layout, others=())) == [SUMMED]
    assert failing(model, wrong(layout, scaled=())) == [SUMMED]
    granite = layout_by("granite")
    assert failing(random_model(further_config("granite")), wrong(granite, scaled=("attn_out",))) == [SUMMED]


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 50.0), (torch.bfloat16, 1000.0), (torch.float16, 50.0)])
def test_a_branch_shows_beside_a_long_stream(dtype: torch.dtype, size: float) -> None:
    """Beside a stream that is far longer than what a block adds, in half precision, a wrong branch is still seen."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=97, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.1
    )
    model = random_model(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[::2] *= size
    model = model.to(dtype)
    plain = known_layout("llama", 2)
    assert failing(model, plain) == []
    twice = plain.blocks[0].path | {"attn_out": "mlp"}
    assert SUMMED in failing(model, wrong(plain, modules=tuple(twice.items())))


SOME = ("llama4_text", "gpt_oss", "olmo2", "cohere")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "family", [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in FURTHER]
)
def test_half_precision_is_within_its_bounds(family: str, dtype: torch.dtype) -> None:
    """Bounds by dtype hold, and a wrong branch is still seen."""
    layout, model = layout_by(family), random_model(further_config(family)).to(dtype)
    require(prove(model, layout), family)
    twice = {"attn_out": layout.blocks[0].path["mlp_out"], "mlp_out": layout.blocks[0].path["mlp_out"]}
    with pytest.raises(ProofError, match="input"):
        require(prove(model, wrong(layout, modules=tuple((layout.blocks[0].path | twice).items()))), family)
