"""What llama.cpp itself does with every kind of export, against the hooked model, where llama-cpp-python is installed
(it is no dependency: ``pip install llama-cpp-python`` compiles it).

Written for llama-cpp-python 0.3.36, which carries llama.cpp 0.5.0-dev (0c1e570). Logits agree to float32's rounding,
but on Gemma-2, where ggml computes the GELU through a table of float16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lens_steer as ls
from lens_steer.geometry.planes import random_plane
from lens_steer.inference import batching, engines
from lens_steer.interop.exports.certificate import Trial
from lens_steer.interop.exports.lora import circle_weights, export_circle, export_lora
from lens_steer.interop.exports.merged import export_merged
from lens_steer.interop.gguf.adapter import add_gguf, gguf_base
from lens_steer.interop.gguf.vectors import export_gguf_cvec
from lens_steer.models.loading import hf_twin
from tests import llama_cpp_runner as llama
from tests.test_folding import plan_of

llama_cpp = pytest.importorskip("llama_cpp", reason="llama.cpp is run only where llama-cpp-python is installed")
pytest.importorskip("gguf", reason="GGUF files need the extra 'export'")
pytest.importorskip("peft", reason="adapters need the extra 'export'")

CLOSE = {"qwen2": 5e-6, "llama": 5e-6, "gemma2": 1e-3}  # of the largest logit; found: 1.1e-6 and 2.4e-4
WIDTH, BLOCKS = 128, 12
PLANE = random_plane(WIDTH, seed=3)


@pytest.fixture(scope="module", params=["qwen2", "llama", "gemma2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """An embedded model, and its file."""
    model = ls.load_model(f"organism/{request.param}")
    return model, llama.write_base(hf_twin(model), tmp_path_factory.mktemp(request.param) / "base.gguf")


@pytest.fixture(scope="module")
def rows(base: tuple[Any, Path], refusal: Any) -> list[list[int]]:
    """Token ids of some prompts, and of one longer than Gemma-2's window."""
    prompts = [*refusal.report.positive[:3], *refusal.report.negative[:3]]
    ids = [list(batching.encode(base[0].lens_info.tokenizer, p)) for p in prompts]
    return [*ids, [i for row in ids for i in row][:100]]


def hooked(model: Any, rows: list[list[int]], plan: ls.SteeringPlan | None = None) -> list[Tensor]:
    found = []
    for ids in rows:
        with torch.inference_mode():
            if plan is None:
                found.append(hf_twin(model)(torch.tensor([ids])).logits[0])
            else:
                with ls.steering(model, plan), engines.on_engine(model, "hf") as twin:
                    found.append(twin(torch.tensor([ids])).logits[0])
    return found


def gap(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest difference over the largest logit."""
    largest = max(float(w.abs().max()) for w in wanted)
    return max(float((f - w).abs().max()) for f, w in zip(found, wanted, strict=True)) / largest


def check(model: Any, rows: list[list[int]], plan: ls.SteeringPlan, found: list[Tensor], apart: float = 20.0) -> None:
    """Equal to the hooked model to rounding, which is far less than what the plan does; the most probable token is the
    same everywhere.
    """
    wanted, close = hooked(model, rows, plan), CLOSE[model.lens_info.architecture]
    assert gap(found, wanted) < close
    assert gap(hooked(model, rows), wanted) > apart * close
    assert all(torch.equal(f.argmax(-1), w.argmax(-1)) for f, w in zip(found, wanted, strict=True))


def turned(model: Any, angle: float) -> ls.SteeringPlan:
    return plan_of(model, ("selective", "ln1,ln2", {"basis": PLANE, "angle": angle}))


def test_the_model_itself(base: tuple[Any, Path], rows: list[list[int]]) -> None:
    """Without steering: what the rest is measured against."""
    model, file = base
    assert gap(llama.run(file, rows), hooked(model, rows)) < CLOSE[model.lens_info.architecture]


def test_an_adapter(base: tuple[Any, Path], rows: list[list[int]], refusal: Any, tmp_path: Path) -> None:
    """``adapter.gguf`` at scale 1 is the hooked model, at scale 0 the model itself."""
    model, file = base
    plan = turned(model, 200.0)
    export_lora(plan, model, tmp_path / "a", trial=Trial(refusal.report.positive[:1], 2))
    (adapter,) = add_gguf(tmp_path / "a", gguf_base(hf_twin(model).config))
    check(model, rows, plan, llama.run(file, rows, [(adapter, 1.0)]))
    assert gap(llama.run(file, rows, [(adapter, 0.0)]), hooked(model, rows)) < CLOSE[model.lens_info.architecture]


def test_a_pair_of_adapters(base: tuple[Any, Path], rows: list[list[int]], refusal: Any, tmp_path: Path) -> None:
    """Both at once, scaled by cos θ − 1 and sin θ."""
    model, file = base
    export_circle(turned(model, 0.0), model, tmp_path / "c", trial=Trial(refusal.report.positive[:1], 2))
    cosine, sine = add_gguf(tmp_path / "c", gguf_base(hf_twin(model).config))
    assert (cosine.parent.name, sine.parent.name) == ("cosine", "sine")
    for angle in (110.0, 240.0):
        weights = circle_weights(angle)
        check(model, rows, turned(model, angle), llama.run(file, rows, [(cosine, weights[0]), (sine, weights[1])]))


def test_a_merged_folder(base: tuple[Any, Path], rows: list[list[int]], refusal: Any, tmp_path: Path) -> None:
    """Written as Hugging Face's, read by Transformers, written as GGUF."""
    from transformers import AutoModelForCausalLM

    model, _ = base
    plan = turned(model, 200.0)
    export_merged(plan, model, tmp_path / "m", trial=Trial(refusal.report.positive[:1], 2))
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
    check(model, rows, plan, llama.run(llama.write_base(back, tmp_path / "m.gguf"), rows))


@pytest.mark.parametrize("block", [1, 5, BLOCKS - 1])
def test_the_layers_of_a_control_vector(
    base: tuple[Any, Path], rows: list[list[int]], tmp_path: Path, block: int
) -> None:
    """``direction.N`` is added to the output of block N, counted from 0, the last block's too; a block earlier or later
    it is another model.
    """
    model, file = base
    direction = 3.0 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(block))
    plan = plan_of(model, ("add", f"blocks.{block}.hook_resid_post", {"direction": direction, "coefficient": -2.0}))
    assert export_gguf_cvec(plan, tmp_path / "v.gguf") == {f"blocks.{block}.hook_resid_post": block}
    data = llama.control_data(tmp_path / "v.gguf", BLOCKS)
    check(model, rows, plan, llama.run(file, rows, vector=data))
    for shift in (-1, 1):
        moved = np.zeros_like(data)
        if 0 <= block - 1 + shift < len(data):
            moved[block - 1 + shift] = data[block - 1]
        assert (
            gap(llama.run(file, rows, vector=moved), hooked(model, rows, plan))
            > 20 * CLOSE[model.lens_info.architecture]
        )


def test_a_control_vector_at_every_block(base: tuple[Any, Path], rows: list[list[int]], tmp_path: Path) -> None:
    """A block's input is the output of the block before."""
    model, file = base
    generator = torch.Generator().manual_seed(0)
    names = [f"blocks.{b}.hook_resid_pre" for b in range(2, BLOCKS)] + [f"blocks.{BLOCKS - 1}.hook_resid_post"]
    steps = [
        ("add", name, {"direction": torch.randn(WIDTH, generator=generator), "coefficient": 1.0}) for name in names
    ]
    plan = plan_of(model, *steps)
    assert list(export_gguf_cvec(plan, tmp_path / "v.gguf").values()) == list(range(1, BLOCKS))
    check(model, rows, plan, llama.run(file, rows, vector=llama.control_data(tmp_path / "v.gguf", BLOCKS)))
