"""Gemma-3 checkpoints with a vision tower: their text part is loaded, steered and exported as the whole model has
it.
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.interop.exports.certificate import Trial
from lens_steer.interop.exports.lora import export_lora
from lens_steer.interop.exports.merged import export_merged
from lens_steer.interop.imports.model_facts import model_facts
from lens_steer.models import sites
from lens_steer.models.footprint import Shape
from lens_steer.models.huggingface import text_part
from lens_steer.models.layout import known_layout
from lens_steer.models.loading import hf_twin
from lens_steer.models.location import read_config
from lens_steer.operators.rotation import selective_rotation
from tests.test_families import IDS, logits
from tests.test_folding import AFFINE, plan_of
from tests.test_parity import PROMPTS
from tests.tiny import build, config_of, save_random


@pytest.fixture(scope="module", params=["tied", "untied"])
def with_images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A tiny Gemma-3 with a vision tower, as a folder, and as Transformers has it."""
    from transformers import AutoTokenizer, Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

    folder = build("gemma3_text", tmp_path_factory.mktemp("images"))
    tied = request.param == "tied"
    text = config_of("gemma3_text", AutoTokenizer.from_pretrained(folder), tie_word_embeddings=tied)
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    config = Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=5,
        boi_token_index=6,
        eoi_token_index=7,
        tie_word_embeddings=tied,
    )
    save_random(config, folder)
    whole = Gemma3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return folder, whole


def test_the_text_part_of_a_checkpoint_with_images(with_images: tuple[Path, Any], tmp_path: Path) -> None:
    """Logits and steered answers are the whole model's on text, under both names that checkpoints give the weights."""
    folder, whole = with_images
    wanted = whole(IDS, token_type_ids=torch.zeros_like(IDS)).logits
    renamed = tmp_path / "renamed"
    shutil.copytree(folder, renamed)
    tensors = load_file(renamed / "model.safetensors")
    assert any(k.startswith("language_model.model.") for k in tensors)
    other = {
        k.replace("language_model.model.", "model.language_model.").replace("language_model.lm_head", "lm_head"): v
        for k, v in tensors.items()
    }
    save_file(other, renamed / "model.safetensors", metadata={"format": "pt"})
    for place in (folder, renamed):
        model: Any = ls.load_model(place)
        assert model.lens_info.architecture == "gemma3_text"
        assert (logits(model) - wanted).abs().max() < 1e-4
        assert (logits(hf_twin(model)) - wanted).abs().max() < 1e-4
    plan = plan_of(model, ("selective", "norm_out", AFFINE["selective"]))
    handles = [
        whole.get_submodule(
            sites.parse(s).module(known_layout("gemma3_text", 4)).replace("model.", "model.language_model.", 1)
        ).register_forward_hook(lambda module, args, out: selective_rotation(out, **AFFINE["selective"]))
        for s in plan.sites
    ]
    steered = whole(IDS, token_type_ids=torch.zeros_like(IDS)).logits
    for handle in handles:
        handle.remove()
    with ls.steering(model, plan):
        assert (logits(model) - steered).abs().max() < 1e-4
    assert (steered - wanted).abs().max() > 1e-2


def test_what_is_known_of_a_checkpoint_with_images(with_images: tuple[Path, Any]) -> None:
    """The text part's shape and size; what only the whole says is carried over, and the whole stays as it is."""
    folder, whole = with_images
    facts = model_facts(str(folder))
    assert (facts.architecture, facts.n_layers, facts.d_model) == ("gemma3_text", 4, 48)
    twin = hf_twin(ls.load_model(folder))
    shape = Shape.of(whole.config)
    assert shape == Shape.of(read_config("images", str(folder)))
    assert shape.parameters == sum(p.numel() for p in twin.parameters())
    before = copy.deepcopy(whole.config.to_dict())
    assert text_part(whole.config).tie_word_embeddings == whole.config.tie_word_embeddings
    assert whole.config.to_dict() == before


def test_exports_of_a_checkpoint_with_images(with_images: tuple[Path, Any], tmp_path: Path) -> None:
    """Merged weights are an ordinary text model; an adapter would fit one of the two only, and the mend does what it
    says.
    """
    model: Any = ls.load_model(with_images[0])
    plan, trial = plan_of(model, ("selective", "ln1,ln2", AFFINE["selective"])), Trial(PROMPTS, new_tokens=4)
    assert export_merged(plan, model, tmp_path / "merged", trial=trial).verdict == "pass"
    assert json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))["model_type"] == "gemma3_text"
    pytest.importorskip("peft", reason="adapters need the extra 'export'")
    with pytest.raises(
        LensSteerError, match=r"text part of a checkpoint with images.*save_pretrained\(folder\).*or export merged"
    ):
        export_lora(plan, model, tmp_path / "adapter", trial=trial)
    assert not (tmp_path / "adapter").exists()
    text = tmp_path / "text"
    ls.hf_twin(model).save_pretrained(text)
    model.lens_info.tokenizer.save_pretrained(text)
    alone: Any = ls.load_model(text)
    assert torch.equal(logits(alone), logits(model))
    own = plan_of(alone, ("selective", "ln1,ln2", AFFINE["selective"]))
    assert export_lora(own, alone, tmp_path / "adapter", trial=trial).verdict == "pass"
