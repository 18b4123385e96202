"""Adapters as GGUF: names and order of rows, written and read back, what llama.cpp's format cannot hold; llama.cpp
itself runs them in test_llama_cpp.py.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.interop.exports.certificate import Trial
from lens_steer.interop.exports.folding import fold
from lens_steer.interop.exports.lora import export_bank, export_circle, export_lora
from lens_steer.interop.gguf.adapter import (
    GgufBase,
    add_gguf,
    check_gguf,
    gguf_base,
    read_gguf_adapter,
    read_peft,
    row_order,
    tensor_name,
    write_gguf_adapter,
)
from lens_steer.interop.gguf.files import write_gguf
from lens_steer.models.loading import hf_twin
from tests.imported import loaded, logits_of
from tests.test_folding import ADD, TURN, plan_of
from tests.test_parity import PROMPTS

gguf = pytest.importorskip("gguf", reason="GGUF files need the extra 'export'")
pytest.importorskip("peft", reason="adapters need the extra 'export'")

QUICK = Trial(PROMPTS[:1], new_tokens=2)
ROTATED = ("selective", "ln1,ln2", TURN[1])


@pytest.fixture(scope="module")
def exported(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A tiny model of each family and an adapter of a rotation."""
    model, folder = loaded(tiny_folder), tmp_path_factory.mktemp("exported") / "a"
    export_lora(plan_of(model, ROTATED), model, folder, trial=QUICK)
    return model, folder


@pytest.fixture
def adapter(exported: tuple[Any, Path], tmp_path: Path) -> tuple[Any, Path]:
    """The same in a folder of one's own."""
    return exported[0], Path(shutil.copytree(exported[1], tmp_path / "a"))


def test_written_and_read_back(adapter: tuple[Any, Path]) -> None:
    """Every tensor under llama.cpp's name and in float32; the factors come back as PEFT's, to the last bit, and change
    the base as the hooks do.
    """
    model, folder = adapter
    base = gguf_base(hf_twin(model).config)
    assert add_gguf(folder, base) == [folder / "adapter.gguf"]
    factors, _ = read_peft(folder)
    reader = gguf.GGUFReader(folder / "adapter.gguf")
    fields = {
        name: reader.get_field(name).contents()
        for name in ("general.architecture", "general.type", "adapter.type", "adapter.lora.alpha")
    }
    assert list(fields.values()) == [base.architecture, "adapter", "lora", 2.0]
    shapes = {tensor.name: (tensor.tensor_type.name, *(int(n) for n in tensor.shape)) for tensor in reader.tensors}
    heads = 4 * (
        16 if base.architecture in ("gemma2", "gemma3", "qwen3") or model.lens_info.architecture == "mistral" else 12
    )
    assert shapes["blk.3.attn_q.weight.lora_a"] == ("F32", 48, 2)  # GGUF lists the last axis first
    assert shapes["blk.3.attn_q.weight.lora_b"] == ("F32", 2, heads)
    assert len(shapes) == 2 * len(factors) == 2 * 5 * 4
    back = read_gguf_adapter(folder / "adapter.gguf", base, factors)
    changed = ls.load_model(model.lens_info.folder)
    with torch.no_grad():
        for module, (a, b) in back.items():
            assert torch.equal(a, factors[module][0])
            assert torch.equal(b, factors[module][1])
            hf_twin(changed).get_submodule(module).weight += b @ a
    tokens = torch.arange(11)[None] + 40
    with ls.steering(model, plan_of(model, ROTATED)):
        wanted = logits_of(model, tokens)
    assert float((logits_of(hf_twin(changed), tokens) - wanted).abs().max()) < 1e-4
    assert float((logits_of(model, tokens) - wanted).abs().max()) > 0.1
    assert (
        json.loads((folder / "certificate.json").read_text(encoding="utf-8"))["gguf"]["equal_to_adapter_after_reading"]
        is True
    )


def test_the_order_of_rows_is_the_rotary_one() -> None:
    """Rotating neighbours of the reordered rows gives the attention scores that rotating halves gives in Hugging Face's
    order.
    """
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    heads, width, places = 3, 8, 5
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, heads, places, width, generator=generator) for _ in range(2))
    angles = torch.arange(places)[:, None] * 0.7 ** torch.arange(width // 2)
    doubled = torch.cat([angles, angles], dim=-1)[None]
    hugging_face = apply_rotary_pos_emb(q, k, doubled.cos(), doubled.sin())
    order = row_order("model.layers.0.self_attn.q_proj", heads * width, GgufBase("llama", 1, heads, heads, False))

    def neighbours(x: torch.Tensor) -> torch.Tensor:
        rows = x.transpose(1, 2).reshape(places, heads * width)[:, order].view(places, heads, width // 2, 2)
        turned = torch.view_as_complex(rows) * torch.polar(torch.ones(()), angles)[:, None]
        return torch.view_as_real(turned).flatten(2)

    scores = torch.einsum("hqd,hkd->hqk", hugging_face[0][0], hugging_face[1][0])
    assert torch.allclose(torch.einsum("qhd,khd->hqk", neighbours(q), neighbours(k)), scores, atol=1e-5)
    assert not torch.equal(order, torch.arange(heads * width))


def test_only_llama_and_only_queries_and_keys_are_reordered() -> None:
    """Keys by their own number of heads."""
    base = GgufBase("llama", 2, 4, 2, False)
    plain = torch.arange(16)
    moved = {
        name: not torch.equal(row_order(f"model.layers.1.{name}", 16, base), plain)
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj")
    }
    assert [name for name, other in moved.items() if other] == ["self_attn.q_proj", "self_attn.k_proj"]
    assert row_order("model.layers.1.self_attn.k_proj", 16, base).tolist() == [
        0,
        4,
        1,
        5,
        2,
        6,
        3,
        7,
        8,
        12,
        9,
        13,
        10,
        14,
        11,
        15,
    ]
    assert torch.equal(row_order("model.layers.1.self_attn.q_proj", 16, replace(base, architecture="qwen2")), plain)


def test_every_layer_has_its_name() -> None:
    """Those that plans fold into; a tied unembedding has none."""
    base = GgufBase("qwen2", 3, 4, 2, False)
    assert [
        tensor_name(f"model.layers.2.{m}", base)
        for m in ("self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
    ] == [
        "blk.2.attn_k.weight",
        "blk.2.attn_output.weight",
        "blk.2.ffn_up.weight",
        "blk.2.ffn_down.weight",
    ]
    assert tensor_name("lm_head", base) == "output.weight"
    for module, other, message in (
        ("lm_head", replace(base, tied=True), "from its embedding, and no adapter reaches lm_head alone"),
        ("model.layers.3.self_attn.q_proj", base, "has no name in GGUF for architecture 'qwen2'"),
    ):
        with pytest.raises(LensSteerError, match=message):
            tensor_name(module, other)


def test_architectures() -> None:
    """Mistral's files are Llama's; Gemma-2's unembedding is always the embedding; others are refused."""
    facts = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
    found = {
        name: gguf_base(SimpleNamespace(model_type=name, **facts)) for name in ("llama", "mistral", "gemma2", "qwen2")
    }
    assert [(b.architecture, b.tied) for b in found.values()] == [
        ("llama", False),
        ("llama", False),
        ("gemma2", True),
        ("qwen2", False),
    ]
    with pytest.raises(LensSteerError, match="model type 'phi3' has no GGUF adapter here"):
        gguf_base(SimpleNamespace(model_type="phi3", **facts))


def test_a_bank_and_a_pair(qwen: Any, calibration: Any, tmp_path: Path) -> None:
    """A file beside every adapter; scales add up to the angle."""
    plan, base = ls.selective_steering(calibration, 0, at="blocks.3.ln2.hook_out"), gguf_base(hf_twin(qwen).config)
    export_bank(plan, [0, 90], qwen, tmp_path / "bank", trial=QUICK)
    assert [f.parent.name for f in add_gguf(tmp_path / "bank", base)] == ["angle_000", "angle_090"]
    export_circle(plan, qwen, tmp_path / "circle", trial=QUICK)
    cosine, sine = add_gguf(tmp_path / "circle", base)
    modules = [f"model.layers.3.mlp.{n}" for n in ("gate_proj", "up_proj")]
    both = [read_gguf_adapter(f, base, modules) for f in (cosine, sine)]
    quarter = read_gguf_adapter(tmp_path / "bank" / "angle_090" / "adapter.gguf", base, modules)
    for m in modules:
        changes = [b[m][1] @ b[m][0] for b in both]
        total = changes[1] - changes[0]  # at 90°: sin θ = 1, cos θ − 1 = −1
        assert torch.allclose(total, quarter[m][1] @ quarter[m][0], atol=1e-6)


def test_the_scale_is_in_what_is_read(adapter: tuple[Any, Path]) -> None:
    """llama.cpp multiplies by alpha over rank; without alpha by 1."""
    model, folder = adapter
    base, (factors, config) = gguf_base(hf_twin(model).config), read_peft(folder)
    for alpha, scale in ((6.0, 3.0), (0.0, 1.0)):
        (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": alpha}), encoding="utf-8")
        write_gguf_adapter(folder, folder / "x.gguf", base)
        back = read_gguf_adapter(folder / "x.gguf", base, factors)
        assert all(torch.allclose(back[m][1], scale * b) for m, (_, b) in factors.items())


def test_what_llama_cpp_cannot_hold(tiny_folder: Path, tmp_path: Path) -> None:
    """Constants, before the export and after; a turned stream reaches the unembedding."""
    model = loaded(tiny_folder)
    base = gguf_base(hf_twin(model).config)
    constant = plan_of(model, ("add", "ln1", ADD[1]))
    with pytest.raises(LensSteerError, match=r"adds a constant to model.layers.0.self_attn.q_proj.*gguf-cvec"):
        check_gguf(fold(constant, model), base)
    export_lora(constant, model, tmp_path / "a", trial=QUICK)
    with pytest.raises(LensSteerError, match="adds a constant to model.layers"):
        add_gguf(tmp_path / "a", base)
    assert not (tmp_path / "a" / "adapter.gguf").exists()
    if model.lens_info.architecture in ("llama", "qwen2"):
        folded = fold(plan_of(model, ("selective", "resid_mid", TURN[1])), model)
        check_gguf(folded, replace(base, tied=False))
        with pytest.raises(LensSteerError, match="no adapter reaches lm_head"):
            check_gguf(folded, replace(base, tied=True))


def test_other_adapters(adapter: tuple[Any, Path], tmp_path: Path) -> None:
    """Zeros as biases are nothing; what this project does not write is refused by name."""
    model, folder = adapter
    base, file = gguf_base(hf_twin(model).config), folder / "adapter_model.safetensors"
    tensors, config = load_file(file), json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    name = next(n for n in tensors if n.endswith("q_proj.lora_B.weight"))
    save_file(tensors | {name.replace("weight", "bias"): torch.zeros(len(tensors[name]))}, file)
    write_gguf_adapter(folder, tmp_path / "ok.gguf", base)
    for change, message in (
        (
            {name.replace("weight", "bias"): torch.ones(len(tensors[name]))},
            "adds a constant to model.layers.0.self_attn.q_proj",
        ),
        ({name.replace("lora_B", "lora_C"): torch.ones(2)}, r"no plain adapter \(base_model.model.*lora_C"),
    ):
        save_file(tensors | change, file)
        with pytest.raises(LensSteerError, match=message):
            write_gguf_adapter(folder, tmp_path / "x.gguf", base)
    save_file(tensors, file)
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True}), encoding="utf-8")
    with pytest.raises(LensSteerError, match=r"no plain adapter \(use_rslora\)"):
        write_gguf_adapter(folder, tmp_path / "x.gguf", base)
    with pytest.raises(LensSteerError, match="holds no adapter"):
        write_gguf_adapter(tmp_path / "nothing", tmp_path / "x.gguf", base)
    with pytest.raises(LensSteerError, match="holds no adapter: write one with 'lens-steer export lora'"):
        add_gguf(tmp_path / "nothing", base)
    assert not (tmp_path / "x.gguf").exists()


def test_other_files(adapter: tuple[Any, Path], tmp_path: Path) -> None:
    """Another architecture's adapter, a control vector, a tensor of no layer, a quantised or a damaged file."""
    model, folder = adapter
    base, (factors, _) = gguf_base(hf_twin(model).config), read_peft(folder)
    write_gguf_adapter(folder, tmp_path / "a.gguf", base)
    with pytest.raises(LensSteerError, match="not an adapter for 'falcon'"):
        read_gguf_adapter(tmp_path / "a.gguf", replace(base, architecture="falcon"), factors)
    with pytest.raises(LensSteerError, match="which belongs to none of the layers"):
        read_gguf_adapter(tmp_path / "a.gguf", base, list(factors)[1:])
    write_gguf(tmp_path / "v.gguf", "controlvector", {}, {"direction.1": torch.ones(4)})
    with pytest.raises(LensSteerError, match="is 'controlvector' of type None"):
        read_gguf_adapter(tmp_path / "v.gguf", base, factors)
    writer = gguf.GGUFWriter(tmp_path / "i.gguf", base.architecture)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((2, 48), np.int32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(LensSteerError, match="is stored as I32"):
        read_gguf_adapter(tmp_path / "i.gguf", base, factors)
    (tmp_path / "c.gguf").write_bytes((tmp_path / "a.gguf").read_bytes()[:200])
    with pytest.raises(LensSteerError, match="is corrupt or truncated"):
        read_gguf_adapter(tmp_path / "c.gguf", base, factors)
