"""Layouts that are found on models: many families, the known ones, a family with made-up names, and what is refused."""

from __future__ import annotations

import importlib
import re
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lens_steer.errors import LensSteerError
from lens_steer.models.block_reader import StructureError, read_block
from lens_steer.models.layout import KNOWN, Block, Layout, known_layout, layout_row, read_layout_row
from lens_steer.models.proof import prove, require
from lens_steer.models.structure import find_layout, layout_of, read_layout
from lens_steer.models.trace import on_meta, traced
from tests.further import FURTHER, default_config, further_config, layout_by
from tests.tiny import config_of

NO_IDS = types.SimpleNamespace(bos_token_id=0, eos_token_id=1, pad_token_id=2)


@pytest.mark.parametrize("family", KNOWN)
def test_what_is_known_by_name_is_found(family: str) -> None:
    """The table of six layouts holds what is found on models of these families."""
    config = config_of(family, NO_IDS)
    assert find_layout(config) == known_layout(family, 4) == layout_of(config)


def test_what_sets_families_apart() -> None:
    """Parallel blocks, norms on either side, formulas, multiples, hybrids, further branches: by hand."""
    found = {name: layout_by(name) for name in FURTHER}
    first = {name: layout.blocks[0] for name, layout in found.items()}
    assert {name for name, b in first.items() if b.parallel} == {
        *("cohere", "cohere2", "falcon", "gpt_neox", "phi", "stablelm")
    }
    assert first["gpt_neox"].norms == ("ln1", "ln2")
    assert first["cohere"].norms == first["falcon"].norms == first["phi"].norms == ("ln1",)
    assert first["olmo2"].norms == first["exaone4"].norms == ("ln1_post", "ln2_post")
    assert first["olmo2"].middle == "mlp"
    assert first["glm4"].norms == ("ln1", "ln1_post", "ln2", "ln2_post")
    assert first["olmo"].formula["ln1"] == "LayerNorm without gain"
    assert first["nanochat"].formula["ln1"] == "RMSNorm without gain"
    assert first["gemma"].formula["ln1"] == "RMSNorm (1 + w)"
    assert first["gpt2"].formula["ln1"] == "LayerNorm + b"
    assert first["opt"].path["mlp_out"] == "fc2"
    assert {name for name, b in first.items() if not b.sums} == {"falcon_h1", "gemma4_text", "granite", "granitemoe"}
    assert first["granite"].scaled == ("attn_out", "mlp_out")
    assert first["falcon_h1"].others == ("mamba",)
    assert first["gemma4_text"].others == ("post_per_layer_input_norm",)
    assert first["gemma4_text"].rescaled
    hybrids = {name: [at for _, at in layout.alike()] for name, layout in found.items() if len(layout.alike()) > 1}
    turns = [(0, 1), (2,)]
    assert hybrids == {
        **{"jamba": [(0, 2), (1,)], "lfm2": [(0, 2), (1,)], "llama4_text": [(0, 2), (1,)]},
        "deepseek_v3": [(0,), (1, 2)],  # one kind of sites, but experts from the second block on
        **{"qwen3_5_text": turns, "qwen3_next": turns},
    }
    assert [b.flat for b in found["llama4_text"].blocks] == [(), ("mlp_out",), ()]  # experts
    assert first["opt"].flat == ("ln2", "mlp_out", "resid_mid")
    assert [b.attends for b in found["lfm2"].blocks] == [False, True, False]
    mixed = set(hybrids) - {"llama4_text"}
    assert all(b.attends for name, layout in found.items() if name not in mixed for b in layout.blocks)


def renamed_llama(draw: torch.Generator) -> tuple[Any, dict[str, str]]:
    """The source of Transformers' Llama with random names of its modules, as a package of its own."""
    theirs = importlib.import_module("transformers.models.llama.modeling_llama")
    names = ["input_layernorm", "post_attention_layernorm", "self_attn", "mlp", "layers", "norm", "embed_tokens"]
    letters = "abcdefghijklmnopqrstuvwxyz"
    new = {n: "".join(letters[i] for i in torch.randint(26, (9,), generator=draw)) for n in names}
    new["model"] = "q" + new["mlp"]
    source = Path(str(theirs.__file__)).read_text(encoding="utf-8")
    source = re.sub(r"^@auto_docstring.*\n", "", source, flags=re.MULTILINE)
    for old, name in new.items():
        source = re.sub(rf"self\.{old}\b", f"self.{name}", source)
        source = re.sub(rf"decoder_layer\.{old}\b", f"decoder_layer.{name}", source)
    source = source.replace('base_model_prefix = "model"', f'base_model_prefix = "{new["model"]}"')
    source = source.replace('"model.embed_tokens.weight"', f'"{new["model"]}.{new["embed_tokens"]}.weight"')
    source = source.replace('_input_embed_layer = "embed_tokens"', f'_input_embed_layer = "{new["embed_tokens"]}"')
    module = types.ModuleType("transformers.models.llama.renamed")
    module.__package__ = "transformers.models.llama"
    sys.modules[module.__name__] = module
    exec(compile(source, "renamed", "exec"), vars(module))
    return module, new


@pytest.mark.parametrize("seed", [0, 1])
def test_names_do_not_matter(seed: int) -> None:
    """A Llama whose modules have random names: the same layout under those names, and proved."""
    from transformers import LlamaConfig

    module, new = renamed_llama(torch.Generator().manual_seed(seed))
    config = LlamaConfig(vocab_size=97, hidden_size=48, num_hidden_layers=2, num_attention_heads=4)
    with torch.device("meta"):
        model = module.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    model.get_input_embeddings = lambda: getattr(getattr(model, new["model"]), new["embed_tokens"])
    layout = read_layout(model, traced(model), "renamed")
    plain = known_layout("llama", 2)
    assert layout.layers == f"{new['model']}.{new['layers']}"
    assert layout.final_norm == f"{new['model']}.{new['norm']}"
    assert layout.blocks[0].path == {kind: new[name] for kind, name in plain.blocks[0].path.items()}
    torch.manual_seed(0)
    require(prove(module.LlamaForCausalLM(config).eval(), layout), "renamed")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("bert", "'bert': bert.encoder.layer.0 does not give its input plus what it adds: the output is made by 'nat"),
        ("mamba", "backbone.layers.0 adds backbone.layers.0.mixer .does not. to the stream, in which no attention and"),
        ("bloom", "is made by 'add' in 'transformer.h.0.mlp'"),
        ("doge", "model.layers.0 does not give its input plus what it adds"),
        ("gemma3n_text", "adds the result of 'permute' in 'model.layers.0' to the stream, and not the output of a mod"),
        ("hrm_text", "its blocks, model.L_module.layers, run 6 times in a forward"),
        ("granitemoehybrid", "adds the result of 'add' in 'model.layers.0' to the stream"),
        ("xlm", "its forward pass cannot be traced without weights: Tensor.item"),
        ("falcon_mamba", "in which no attention and MLP can be told apart"),
    ],
)
def test_other_structures_are_refused(config: str, message: str) -> None:
    """Norms in the stream, no attention, sums inside of a module, several streams, blocks that run again."""
    made = default_config(config)
    if config not in ("gemma3n_text", "hrm_text"):  # whose other fields go by the number of blocks
        made.num_hidden_layers = 2
    with pytest.raises(StructureError, match=message):
        find_layout(made)


def test_a_gated_norm_is_no_norm() -> None:
    """A norm inside of a module that goes on from it: what attention reads is not its output, so it is no site."""
    layout = find_layout(default_config("axk2", num_hidden_layers=4))
    assert all("ln1" not in block.norms for block in layout.blocks)


def test_a_configuration_is_left_as_it_is() -> None:
    """Also its dtype, by which ``dtype="auto"`` loads."""
    config = further_config("phi3")
    config.dtype = torch.float16
    before = config.to_dict()
    find_layout(config)
    assert config.to_dict() == before
    assert config.dtype == torch.float16


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("whisper", "'whisper' is an encoder with a decoder"),
        ("qwen2_5_vl", "'qwen2_5_vl' holds more than a model of text"),
    ],
)
def test_more_than_a_decoder_is_refused(family: str, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        find_layout(default_config(family))


class Toy(nn.Module):
    """A block that adds its MLP before attention: every name says otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attn, self.mlp = nn.Linear(16, 16), nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        h = h + self.attn(self.ln1(h))
        normed_ = self.ln2(h)
        return h + self.mlp(normed_, normed_, normed_, need_weights=False)[0]


class ToyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Toy()])

    def forward(self, input_ids: torch.Tensor, **given: Any) -> torch.Tensor:
        h = torch.zeros(1, input_ids.shape[1], 16, dtype=torch.bfloat16, device="meta") + 1
        return self.blocks[0](h)


def test_an_mlp_before_attention_is_refused() -> None:
    """Whatever its modules are called."""
    with torch.device("meta"):
        model = ToyModel().to(torch.bfloat16).eval()
    with pytest.raises(StructureError, match=r"block 0 adds blocks.0.attn \(does not\), blocks.0.mlp \(attends\)"):
        read_block(model, traced(model), "blocks.0", "block 0")


def test_bad_layouts() -> None:
    """Each said in a line."""
    with pytest.raises(LensSteerError, match="architecture 'gpt2' is not known by name .qwen2, "):
        known_layout("gpt2", 2)
    with pytest.raises(LensSteerError, match="layout is not of the form that was saved"):
        Layout.from_json({"layers": "model.layers"})
    with pytest.raises(LensSteerError, match="layout is not of the form"):
        read_layout_row({"layout": {"blocks": [{"at": [0], "modules": [], "formulas": {}}]}})
    model: Any = on_meta(further_config("gpt2"))
    model.transformer.ln_f = nn.Identity()
    with pytest.raises(StructureError, match="architecture 'gpt2': no norm reads the output of the last block"):
        read_layout(model, traced(model), "gpt2")


def test_a_layout_goes_with_an_artifact() -> None:
    """Saved where the architecture is not known by name, and nothing where it is."""
    from lens_steer.models.fits import ModelRef

    layout = layout_by("lfm2")
    made = ModelRef(model="m", architecture="lfm2", n_layers=3, own_layout=layout)
    assert read_layout_row(layout_row(made)) == layout == made.layout
    with pytest.raises(LensSteerError, match="its layout is found on the model"):
        _ = replace(made, own_layout=None).layout
    assert Block(modules=(("attn_out", "a"),), formulas=()).sums
