"""Checkpoints with images of several families: the text part is loaded, and gives what the whole model gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.models.huggingface import is_text_part
from lens_steer.models.structure import StructureError
from tests.further import HEADS, SHAPE, build_further, default_config, further_config

VISION = {
    **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"image_size": 16, "patch_size": 8},
}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
OTHER = {"head_dim": 8, "num_key_value_heads": 2, "global_head_dim": 8}
# family of the whole → its text part, and the rest of the configuration
WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma4": ("gemma4_text", {"vision_config": VISION | OTHER, "audio_config": None}),
    "llama4": (
        "llama4_text",
        {"vision_config": VISION | {"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16}},
    ),
    "mistral3": ("mistral", {"vision_config": VISION | {"head_dim": 8, "model_type": "pixtral"}}),
    "qwen3_5": (
        "qwen3_5_text",
        {
            "vision_config": {
                **{"hidden_size": 16, "intermediate_size": 16, "depth": 1, "num_heads": 2, "patch_size": 8},
                **{"out_hidden_size": 48, "num_position_embeddings": 16},
            }
        },
    ),
}
IDS = torch.randint(20, 1000, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=WHOLE)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, str]:
    """A tiny checkpoint with a vision tower, as a folder and as Transformers has it."""
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    folder = build_further("phi3", tmp_path_factory.mktemp(request.param))
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    part, rest = WHOLE[request.param]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if part == "mistral":
        text = default_config(part, **SHAPE | HEADS)
    else:
        text = further_config(part, tokenizer, **({"rope_parameters": ROPE} if part == "qwen3_5_text" else {}))
    torch.manual_seed(0)
    config = default_config(request.param, text_config=text.to_dict(), **rest)
    model = AutoModelForImageTextToText.from_config(config).float().eval()
    model.save_pretrained(folder)
    return folder, model, part


def test_logits_are_the_whole_model_s(whole: tuple[Path, Any, str], capsys: pytest.CaptureFixture[str]) -> None:
    """On text; nothing is said of the weights that are left out."""
    folder, model, part = whole
    found: Any = ls.load_model(folder)
    with torch.inference_mode():
        wanted, out = model(IDS).logits, found(IDS)
    assert found.lens_info.architecture == part
    assert (getattr(out, "logits", out) - wanted).abs().max() < 1e-5
    told = capsys.readouterr()
    assert "UNEXPECTED" not in told.out + told.err


def test_weights_under_other_names(whole: tuple[Path, Any, str], tmp_path: Path) -> None:
    """Refused with the mend, and nothing is filled with random numbers."""
    folder, _, _ = whole
    for path in folder.iterdir():
        if path.name != "model.safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = {f"odd.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LensSteerError, match="lack .*: fetch or save the whole model again, or save its text part"):
        ls.load_model(tmp_path)


def test_a_text_part_without_a_causal_model(tmp_path: Path) -> None:
    """Qwen2.5-VL, whose positions have three axes, is refused before any weight is read."""
    folder = build_further("phi3", tmp_path)
    (folder / "config.json").write_text(json.dumps(default_config("qwen2_5_vl").to_dict()), encoding="utf-8")
    with pytest.raises(StructureError, match="Transformers has no causal language model for its text part"):
        ls.load_model(folder)


def test_a_gguf_file_is_not_read_for_that(tmp_path: Path) -> None:
    """It holds one model, and its header takes seconds: here there is not even a file."""
    assert not is_text_part(str(tmp_path / "none.gguf"))
