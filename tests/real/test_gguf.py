"""Models in 4 bits from a ``.gguf`` file: ids, logits and answers are those of the model that Transformers reads from
it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import lens_steer as ls
from lens_steer.data import Prompt
from lens_steer.inference import batching
from lens_steer.models.loading import hf_twin
from tests.real.conftest import GGUF
from tests.real.test_parity import NEW, digests, plain_generate, template_ids

pytest.importorskip("gguf", reason="reading a .gguf file needs the package gguf")
QUESTIONS = ["What is the capital of France?", "Write a line about the sea.", "Is 17 a prime number?"]


def test_a_gguf_file_is_the_model_that_transformers_reads(models: Path, name: str) -> None:
    """Weights dequantised alike, so the Hugging Face engine's logits are equal to the bit and the other's to rounding;
    ids are the template's own, and the answers the same.
    """
    file = models / GGUF[name]
    if not file.exists():
        pytest.skip(f"no {file.name} where LENS_STEER_REAL_MODELS points")
    model: Any = ls.load_model(file, dtype="float32")
    tokenizer = model.lens_info.tokenizer
    theirs = AutoModelForCausalLM.from_pretrained(models, gguf_file=file.name, dtype=torch.float32).eval()
    assert model.lens_info.tokenizer.eos_token_id in model.lens_info.end_tokens
    encoded = [template_ids(tokenizer, question) for question in QUESTIONS]
    assert [batching.encode(tokenizer, Prompt.of(q)) for q in QUESTIONS] == [ids[0].tolist() for ids in encoded]
    ids = encoded[-1]
    with torch.inference_mode():
        wanted = theirs(ids).logits
        assert torch.equal(hf_twin(model)(ids).logits, wanted)
        torch.testing.assert_close(model(ids), wanted, atol=2e-3, rtol=1e-4)
    answers = ls.generate(model, QUESTIONS, max_new_tokens=NEW)
    assert digests(answers) == digests(plain_generate(theirs, tokenizer, QUESTIONS, lambda h: h, []))
