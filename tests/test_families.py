"""Qwen3, Mistral and Gemma-3 in every shape that their configurations allow: held exactly, handed to a
TransformerBridge, or refused with the mend.
"""

from __future__ import annotations

import importlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.interop.exports.folding import fold
from lens_steer.interop.imports.model_facts import guessed_architecture
from lens_steer.interop.imports.official import _architecture
from lens_steer.models import hooked_transformer, sites
from lens_steer.models.footprint import Shape
from lens_steer.models.hooked_transformer import hooked_config
from lens_steer.models.layout import known_layout
from lens_steer.models.location import read_config
from tests.conftest import HAS_HOOKED
from tests.test_folding import AFFINE, difference, plan_of
from tests.test_parity import PROMPTS
from tests.tiny import GEMMA3_ROPE, LLAMA3, YARN, build, config_of, save_random

LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
IDS = torch.randint(
    0, 1400, (2, 60), generator=torch.Generator().manual_seed(0)
)  # longer than every window and trained length
WITH_HOOKED = pytest.mark.skipif(not HAS_HOOKED, reason="TransformerLens 4 has no HookedTransformer")

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A tiny model of a family with changes to its configuration; each family's tokenizer is trained once."""
    whole: dict[str, Path] = {}

    def made(family: str, **changes: Any) -> Path:
        from transformers import AutoTokenizer

        if family not in whole:
            whole[family] = build(family, tmp_path_factory.mktemp(family))
        folder = tmp_path_factory.mktemp(f"{family}-changed")
        shutil.copytree(whole[family], folder, dirs_exist_ok=True)
        return save_random(config_of(family, AutoTokenizer.from_pretrained(folder), **changes), folder)

    return made


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        out = model(IDS)
    return out if isinstance(out, torch.Tensor) else out.logits


def plain(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


HELD: list[tuple[str, dict[str, Any]]] = [
    ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    (
        "qwen2",
        {"rope_parameters": YARN | {"attention_factor": 1.3, "beta_fast": 16, "beta_slow": 2, "truncate": False}},
    ),
    ("qwen3", {"tie_word_embeddings": False, "use_sliding_window": False, "rope_parameters": LINEAR}),
    ("qwen3", {"rope_parameters": LLAMA3}),
    ("qwen3", {"head_dim": 8, "num_key_value_heads": 4, "rope_parameters": PLAIN}),
    ("llama", {"rope_parameters": LINEAR}),
    ("mistral", {"sliding_window": None, "tie_word_embeddings": True, "rope_parameters": LINEAR}),
    ("mistral", {"rope_parameters": YARN}),
    ("mistral", {"rope_parameters": LLAMA3, "num_key_value_heads": 1, "rms_norm_eps": 1e-3}),
    ("gemma3_text", {"rope_parameters": GEMMA3_ROPE | {"full_attention": YARN}, "final_logit_softcapping": 3.0}),
    (
        "gemma3_text",
        {
            "tie_word_embeddings": False,
            "layer_types": ["full_attention"] * 4,
            "rope_parameters": GEMMA3_ROPE | {"full_attention": LLAMA3},
        },
    ),
    ("gemma3_text", {"layer_types": ["sliding_attention"] * 4}),
]


@pytest.mark.parametrize(("family", "changes"), HELD)
def test_every_shape_that_is_held(make: Make, family: str, changes: dict[str, Any]) -> None:
    """Windows, scalings of the rotary embedding, tied or not, one key head or many: logits of each backend equal
    Hugging Face's to 1e-4, and the change is one.
    """
    folder = make(family, **changes)
    wanted = logits(plain(folder))
    assert (logits(plain(make(family))) - wanted).abs().max() > 1e-2
    for backend in ("hooked", "bridge") if HAS_HOOKED else ("bridge",):
        model: Any = ls.load_model(folder, backend=backend)
        assert model.lens_info.backend == backend
        assert (logits(model) - wanted).abs().max() < 1e-4


@WITH_HOOKED
@pytest.mark.parametrize(
    ("family", "field"),
    [
        ("qwen3", "use_qk_norm"),
        ("qwen3", "use_local_attn"),
        ("qwen3", "use_yarn_rope"),
        ("qwen3", "yarn_attention_factor"),
        ("mistral", "use_local_attn"),
        ("gemma3_text", "use_qk_norm"),
        ("gemma3_text", "use_local_attn"),
        ("gemma3_text", "rotary_base_local"),
        ("gemma3_text", "rotary_scaling_factor"),
        ("gemma3_text", "attn_scale"),
        ("gemma3_text", "rotary_base"),
    ],
)
def test_every_mapped_field_shows(make: Make, family: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out of the mapping, any of them moves the logits: a parity test would see it."""
    folder = make(family)
    wanted = logits(plain(folder))

    def without(config: Any, name: str) -> dict[str, Any]:
        mapped = hooked_config(config, name)
        assert mapped.pop(field) is not None
        return mapped

    monkeypatch.setattr("lens_steer.models.backends.hooked_config", without)
    if field == "use_qk_norm":  # whose gains would have nowhere to go
        convert = importlib.import_module("transformer_lens.pretrained.weight_conversions")
        name = hooked_transformer.CONVERTERS[family]
        own = getattr(convert, name)
        monkeypatch.setattr(convert, name, lambda m, cfg: {k: v for k, v in own(m, cfg).items() if "_norm.w" not in k})
    assert (logits(ls.load_model(folder, backend="hooked")) - wanted).abs().max() > 1e-2


ELSEWHERE: list[tuple[str, dict[str, Any], str]] = [
    ("qwen3", {"attention_bias": True}, "attention_bias=True"),
    ("qwen3", {"rope_parameters": LINEAR}, "scaled by 'linear' in sliding and other blocks alike"),
    ("mistral", {"rope_parameters": LINEAR}, "scaled by 'linear' in sliding and other blocks alike"),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "scaled by 'dynamic'"),
    ("gemma3_text", {"attention_bias": True}, "attention_bias=True"),
    (
        "gemma3_text",
        {"rope_parameters": GEMMA3_ROPE | {"sliding_attention": LINEAR}},
        "scaled by 'linear' in its sliding blocks",
    ),
    (
        "gemma3_text",
        {"rope_parameters": GEMMA3_ROPE | {"full_attention": LLAMA3}},
        "scaled by 'llama3' in sliding and other blocks alike",
    ),
]


@pytest.mark.parametrize(("family", "changes", "message"), ELSEWHERE)
def test_what_a_hooked_transformer_cannot_hold(
    make: Make, family: str, changes: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused for ``backend="hooked"`` with the reason; ``auto`` says it and takes a TransformerBridge, which has it
    exactly.
    """
    folder = make(family, **changes)
    if HAS_HOOKED:
        with pytest.raises(LensSteerError, match=f"has .*{message}.*: load it with backend='bridge'"):
            ls.load_model(folder, backend="hooked")
    with caplog.at_level(logging.WARNING, "lens_steer"):
        model: Any = ls.load_model(folder)
    assert model.lens_info.backend == "bridge"
    assert (message in caplog.text) == HAS_HOOKED
    wanted = logits(plain(folder))
    assert (logits(model) - wanted).abs().max() < 1e-4
    assert (logits(plain(make(family))) - wanted).abs().max() > 1e-3


def test_what_is_refused_on_every_backend(make: Make) -> None:
    """An encoder; a soft cap that Transformers and TransformerLens treat otherwise."""
    for backend in ("auto", "bridge"):
        with pytest.raises(
            LensSteerError, match="use_bidirectional_attention=True, an encoder .*: load a model that generates"
        ):
            ls.load_model(make("gemma3_text", use_bidirectional_attention=True), backend=backend)
        with pytest.raises(
            LensSteerError, match="attn_logit_softcapping=2.0, which Transformers leaves out .*: set it to null"
        ):
            ls.load_model(make("gemma3_text", attn_logit_softcapping=2.0), backend=backend)


@pytest.mark.parametrize("family", ["qwen3", "mistral", "gemma3_text"])
def test_folding_is_exact(make: Make, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 throughout (Hugging Face's norms would compute in float32) weights do what hooks do to 1e-12, before
    norms of queries and keys too.
    """
    name = family.removesuffix("_text")
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")

    def norm(self: Any, x: torch.Tensor) -> torch.Tensor:
        eps = self.eps if name == "gemma3" else self.variance_epsilon
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * (self.weight + float(name == "gemma3"))

    monkeypatch.setattr(getattr(module, f"{name.capitalize()}RMSNorm"), "forward", norm)
    model: Any = ls.load_model(make(family), dtype="float64", backend="bridge")
    for step in (("selective", AFFINE["selective"]), ("ablate", AFFINE["ablate"])):
        found = fold(plan_of(model, (step[0], "ln1,ln2", step[1])), model, into="merged")
        off, effect = difference(model, found)
        assert off < 1e-12
        assert effect > 0.05


def test_names_of_sites() -> None:
    """Gemma-3's as Gemma-2's, the others' as Llama's; norms of queries and keys are no sites."""
    gemma, qwen = known_layout("gemma3_text", 4), known_layout("qwen3", 4)
    assert sites.point("blocks.1.hook_attn_out", gemma) == "blocks.1.ln1_post.hook_out"
    assert sites.point("blocks.1.hook_mlp_out", gemma) == "blocks.1.ln2_post.hook_out"
    assert sites.point("blocks.1.hook_attn_out", known_layout("mistral", 2)) == "blocks.1.hook_attn_out"
    assert sites.Site(2, "mlp_out").described(gemma) == "output of model.layers.2.post_feedforward_layernorm"
    assert sites.Site(2, "resid_mid").described(qwen) == "input of model.layers.2.post_attention_layernorm"
    text_part = "model.language_model.layers.3.pre_feedforward_layernorm"
    assert sites.parse_module(text_part, gemma).name == "blocks.3.ln2.hook_out"
    assert len(sites.resolve("norm_out", gemma)) == 16
    assert len(sites.resolve("norm_out", qwen)) == 8
    with pytest.raises(LensSteerError, match="is not a norm of the model"):
        sites.parse_module("model.layers.0.self_attn.q_norm", qwen)


def test_families_by_name() -> None:
    """Said by the name, or asked for."""
    names = {
        "Qwen/Qwen3-8B": "qwen3",
        "Qwen2.5-7B-Instruct": "qwen2",
        "mistralai/Mistral-7B-Instruct-v0.3": "mistral",
        "Meta-Llama-3.1-8B": "llama",
        "google/gemma-2-2b-it": "gemma2",
        "google/gemma-3-4b-it": "gemma3_text",
    }
    assert {name: guessed_architecture(name) for name in names} == names
    for name in ("Qwen3-30B-A3B-Instruct", "Mixtral-8x7B", "phi-4", "llama-mistral-merge"):
        with pytest.raises(LensSteerError, match="does not say its architecture: give architecture=… .*mistral"):
            guessed_architecture(name)


def test_parameters_of_published_models() -> None:
    """Mistral 7B, Qwen3 0.6B and Gemma-3 1B have as many as is published."""
    from transformers import Gemma3TextConfig, MistralConfig, Qwen3Config

    shapes: list[tuple[Any, int]] = [
        (MistralConfig(), 7_241_732_096),
        (
            Qwen3Config(
                hidden_size=1024,
                intermediate_size=3072,
                num_hidden_layers=28,
                num_attention_heads=16,
                num_key_value_heads=8,
                tie_word_embeddings=True,
            ),
            596_049_920,
        ),
        (
            Gemma3TextConfig(
                vocab_size=262144,
                hidden_size=1152,
                intermediate_size=6912,
                num_hidden_layers=26,
                num_attention_heads=4,
                num_key_value_heads=1,
                head_dim=256,
            ),
            999_885_952,
        ),
    ]
    for config, published in shapes:
        assert Shape.of(config).parameters == published


def test_a_configuration_as_hubs_hold_it(make: Make, tmp_path: Path) -> None:
    """Two bases, a scaling and a pattern of windows under the names of Gemma-3's release."""
    folder = make("gemma3_text")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["rope_parameters"], config["layer_types"]
    config |= {
        "rope_theta": 1e6,
        "rope_local_base_freq": 5e3,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window_pattern": 3,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    read = read_config("tiny", str(folder))
    assert hooked_transformer.attention_types(read) == ["local", "local", "global", "local"]
    mapped = hooked_config(read, "tiny")
    assert (mapped["rotary_base"], mapped["rotary_base_local"], mapped["rotary_scaling_factor"]) == (1e6, 5e3, 8.0)
    assert (logits(ls.load_model(folder)) - logits(plain(folder))).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_weights_that_are_not_all_there(make: Make, family: str) -> None:
    """Refused, and not filled with random numbers."""
    folder = make(family)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.2.self_attn.q_norm.weight"], tensors["model.layers.3.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        LensSteerError, match=r"lack 'model.layers.2.self_attn.q_norm.weight' and 1 more: fetch or save"
    ):
        ls.load_model(folder)


def test_a_long_prompt_with_padding_and_cache(make: Make) -> None:
    """Answers that outgrow the window, beside short prompts, are the same on every engine and with every token computed
    anew.
    """
    for family in ("qwen3", "mistral", "gemma3_text"):
        model: Any = ls.load_model(make(family))
        plan = plan_of(model, ("selective", "norm_out", AFFINE["selective"]))
        long = batching.encode(model.lens_info.tokenizer, PROMPTS[2])
        assert len(long) > 2 * 8
        with ls.steering(model, plan):
            wanted = ls.generate(model, PROMPTS, max_new_tokens=24, engine="tl")
            assert ls.generate(model, PROMPTS, max_new_tokens=24, engine="hf") == wanted
            assert ls.generate(model, PROMPTS, max_new_tokens=24, kv_cache=False, engine="tl") == wanted
            assert [ls.generate(model, p, max_new_tokens=24, engine="tl")[0] for p in PROMPTS] == wanted


def test_published_calibrations_by_name() -> None:
    """The family that the model's name says, if it has the norms that the archive names."""
    two = [
        f"model.layers.{block}.{norm}" for block in range(2) for norm in ("input_layernorm", "post_attention_layernorm")
    ]
    four = [*two, "model.layers.0.pre_feedforward_layernorm"]
    for names, model, family in (
        (two, "Qwen3-8B", "qwen3"),
        (two, "Mistral-7B-Instruct-v0.3", "mistral"),
        (two, "Llama-3.2-3B", "llama"),
        (two, "some-model", "qwen2"),
        (four, "gemma-3-4b-it", "gemma3_text"),
        (four, "gemma-2-2b-it", "gemma2"),
        (four, "some-model", "gemma2"),
        (two, "gemma-2-2b-it", "qwen2"),
    ):
        assert _architecture(names, model) == family
