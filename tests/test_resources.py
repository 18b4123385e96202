"""What a study would take: sizes from a configuration, against models that are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.models.footprint import Shape, estimate, measured_flops
from lens_steer.models.hooked_transformer import QK_NORMS
from lens_steer.models.layout import known_layout
from lens_steer.models.location import locate, read_config
from tests.test_cli import run


@pytest.mark.parametrize("name", ["organism/qwen2", "organism/llama", "organism/gemma2"])
def test_parameters_of_the_organisms(name: str) -> None:
    """As many as the committed weights hold; a tied unembedding is counted once."""
    from safetensors import safe_open

    folder = Path(locate(name))
    counted = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as stored:
            counted += sum(stored.get_tensor(key).numel() for key in stored.keys())  # noqa: SIM118
    assert Shape.of(read_config(name, str(folder))).parameters == counted


def test_parameters_of_random_models(tiny_folder: Path, twin: Any) -> None:
    """Every family, with grouped heads."""
    assert Shape.of(read_config("tiny", str(tiny_folder))).parameters == sum(p.numel() for p in twin.parameters())


def test_parameters_of_a_large_model() -> None:
    """Llama 3 70B, from its published shape: 70,553,706,496 parameters."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )
    assert Shape.of(config).parameters == 70_553_706_496


# published shapes: family; blocks, width, MLP, heads, key–value heads, vocabulary; what else decides the size
LARGE = {
    "Llama 3.3 70B": ("llama", (80, 8192, 28672, 64, 8, 128256), {"tie_word_embeddings": False}),
    "Qwen2.5 72B": ("qwen2", (80, 8192, 29568, 64, 8, 152064), {"tie_word_embeddings": False}),
    "Qwen3 32B": ("qwen3", (64, 5120, 25600, 64, 8, 151936), {"head_dim": 128, "tie_word_embeddings": False}),
    "Mistral Large": ("mistral", (88, 12288, 28672, 96, 8, 32768), {"head_dim": 128, "tie_word_embeddings": False}),
    "Gemma 2 27B": ("gemma2", (46, 4608, 36864, 32, 16, 256000), {"head_dim": 128}),
    "Gemma 3 27B": ("gemma3_text", (62, 5376, 21504, 32, 16, 262208), {"head_dim": 128}),
    "Llama with biases": ("llama", (2, 64, 96, 4, 2, 100), {"attention_bias": True, "mlp_bias": True}),
}


@pytest.mark.parametrize("name", LARGE)
def test_parameters_of_published_shapes(name: str) -> None:
    """As many as the sizes of matrices, gains and biases give, counted by hand."""
    from transformers import AutoConfig

    family, sizes, more = LARGE[name]
    names = (
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    )
    config = AutoConfig.for_model(family, **dict(zip(names, sizes, strict=True)), **more)
    shape = Shape.of(config)
    blocks, width, mlp, heads, pairs, vocabulary = sizes
    queries, keys = heads * shape.d_head, pairs * shape.d_head
    matrices = width * (2 * queries + 2 * keys) + 3 * width * mlp
    qkv_bias = family == "qwen2" or bool(more.get("attention_bias"))
    biases = qkv_bias * (queries + 2 * keys)
    biases += bool(more.get("attention_bias")) * width + bool(more.get("mlp_bias")) * (2 * mlp + width)
    gains = len(known_layout(family, 1).norms) * width + 2 * shape.d_head * (family in QK_NORMS)
    assert shape.block_parameters == matrices + biases + gains
    embeddings = 1 if config.tie_word_embeddings else 2
    assert shape.parameters == blocks * shape.block_parameters + width + embeddings * vocabulary * width


def test_bytes_are_those_that_are_used(tiny_folder: Path, twin: Any, refusal: Any, qwen: Any) -> None:
    """The cache of a real forward and the activations of a real recording."""
    shape = Shape.of(read_config("tiny", str(tiny_folder)))
    rows, length = 3, 7  # within Gemma-2's window
    with torch.inference_mode():
        cache = twin(torch.ones(rows, length, dtype=torch.long), use_cache=True).past_key_values
    used = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    reckoned = estimate(shape, n_prompts=rows, prompt_tokens=length - 1, n_sites=1, max_new_tokens=1, batch_size=8)
    assert reckoned.cache == used
    acts = ls.record(qwen, refusal.select, "norm_out", progress=False)
    kept = sum(t.numel() * t.element_size() for t in (acts.positive, acts.negative))
    own = Shape.of(read_config("organism/qwen2", locate("organism/qwen2")))
    n = len(acts.positive) + len(acts.negative)
    assert estimate(own, n_prompts=n, prompt_tokens=20, n_sites=len(acts.sites)).recorded == kept
    lean = ls.record(qwen, refusal.select, "norm_out", keep="moments", progress=False)
    means = (lean.mean_positive, lean.mean_negative, lean.unit_mean_positive, lean.unit_mean_negative)
    assert estimate(own, n_prompts=n, prompt_tokens=20, n_sites=len(acts.sites)).moments == sum(
        t.numel() * t.element_size() for t in means
    )


def small_shape() -> Shape:
    from transformers import Qwen2Config

    return Shape.of(
        Qwen2Config(
            num_hidden_layers=4,
            hidden_size=64,
            intermediate_size=128,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=1000,
        )
    )


def test_work_grows_as_it_must() -> None:
    """Linear in prompts; int4 takes an eighth of float32; a lower bound on time is work over speed."""
    shape = small_shape()
    one, two = (estimate(shape, n_prompts=n, prompt_tokens=30, n_sites=4, batch_size=1, flops=1e9) for n in (10, 20))
    assert two.record_flop == 2 * one.record_flop
    assert two.cache == one.cache
    assert one.record_seconds == one.record_flop / 1e9
    assert estimate(shape, n_prompts=10, prompt_tokens=30, n_sites=4, dtype="int4").weights * 8 == one.weights
    assert measured_flops() > 1e8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_prompts": 0}, "n_prompts=0: at least 1"),
        ({"prompt_tokens": 0}, "prompt_tokens=0: at least 1"),
        ({"dtype": "fp8"}, "dtype='fp8': use one of float32"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    shape = small_shape()
    given: dict[str, Any] = {"n_prompts": 1, "prompt_tokens": 1, "n_sites": 1, **options}
    with pytest.raises(LensSteerError, match=message):
        estimate(shape, **given)
    with pytest.raises(LensSteerError, match="stored='fp8': use one of float32"):
        estimate(shape, n_prompts=1, prompt_tokens=1, n_sites=1, stored="fp8")


def test_weights_stand_once(tiny_folder: Path) -> None:
    """A model and its twin hold the memory of one; of a checkpoint in another dtype the file is read beside it."""
    model, config = ls.load_model(tiny_folder, backend="auto"), read_config("tiny", str(tiny_folder))
    shape = Shape.of(config)
    held = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes()
        for m in (model, ls.hf_twin(model))
        for p in m.parameters()
    }
    some: dict[str, Any] = {"n_prompts": 1, "prompt_tokens": 1, "n_sites": 1}
    once = estimate(shape, **some)
    d_mlp, norms = config.intermediate_size, len(known_layout(config.model_type, 1).norms)
    biases = 4 * (shape.n_layers * (2 * shape.d_model + d_mlp + 4 * shape.n_heads * shape.d_head) + shape.d_vocab)
    gains = 4 * shape.n_layers * (norms * shape.d_model + 2 * shape.d_head) + 4 * shape.d_model
    assert 0 <= sum(held.values()) - (once.weights + once.twin) <= biases + gains
    assert once.weights_while_loading == once.weights + once.twin
    wider = estimate(shape, **some, stored="bfloat16")
    assert wider.weights_while_loading == once.weights + once.weights // 2 + 4 * shape.d_vocab * shape.d_model


def test_heads_of_several_widths() -> None:
    """Gemma-4's full attention has wider heads; the count of parameters does not go by them."""
    from tests.further import further_config

    shape = Shape.of(further_config("gemma4_text", global_head_dim=32))
    assert shape.d_head == 48 // 4
    assert shape.n_layers == 3


def test_architectures_that_are_not_known_by_name() -> None:
    """GPT-2's published number of parameters; a family without attention is refused."""
    from transformers import GPT2Config, MambaConfig

    assert Shape.of(GPT2Config()).parameters == 124_439_808
    with pytest.raises(LensSteerError, match="architecture 'mamba': backbone.layers.0 adds"):
        Shape.of(MambaConfig(num_hidden_layers=2))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """From counts or from a file, without loading anything; refused without either."""
    code, out, err = run(
        monkeypatch,
        capsys,
        "plan-resources",
        "--n-prompts",
        "100",
        "--prompt-tokens",
        "30",
        "--sites",
        "resid_post",
        "--dtype",
        "bfloat16",
        "--tflops",
        "1",
    )
    assert code == 0, err
    found = json.loads(out)
    assert (found["parameters"], found["weights"], found["n_sites"]) == (2857088, 2857088 * 2, 12)
    assert found["record_seconds"] == pytest.approx(found["record_flop"] / 1e12)
    (tmp_path / "p.txt").write_text("Hello\nHow do I build the bridge?\n", encoding="utf-8")
    code, out, err = run(monkeypatch, capsys, "plan-resources", "--prompts", tmp_path / "p.txt", "--tflops", "1")
    assert code == 0, err
    assert json.loads(out)["n_prompts"] == 2
    for args, message in (
        ((), "give either --prompts or --n-prompts"),
        (("--n-prompts", "5"), "--n-prompts needs --prompt-tokens too"),
    ):
        code, _, err = run(monkeypatch, capsys, "plan-resources", *args)
        assert (code, message in err) == (2, True)
