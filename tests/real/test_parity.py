"""What is recorded, and what steered models answer, against Hugging Face with plain hooks and nothing of ours."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import lens_steer as ls
from lens_steer.data import Contrast, PromptSet
from tests.real.conftest import CODER

# Post hoc: at 60° and within 12 tokens, as before, 11 of the 32 answers changed, fewer than the half that is asked for.
N, NEW, ANGLE = 32, 16, 180.0


def instructions(folder: Path, file: str, n: int) -> list[str]:
    """The first instructions of a published file."""
    return [row["instruction"] for row in json.loads((folder / file).read_text(encoding="utf-8"))[:n]]


def digests(texts: list[str]) -> list[str]:
    """So that a failing comparison prints no text."""
    return [hashlib.sha256(t.encode()).hexdigest()[:12] for t in texts]


@pytest.fixture(scope="module")
def plain(models: Path, name: str) -> Any:
    """The model as Hugging Face has it, loaded by Hugging Face alone."""
    return AutoModelForCausalLM.from_pretrained(models / name, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(models: Path, name: str) -> Any:
    return AutoTokenizer.from_pretrained(models / name)


def template_ids(tokenizer: Any, text: str) -> torch.Tensor:
    chat = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)[
        "input_ids"
    ]


def test_every_path_feeds_the_templates_own_ids(exact: Any, tokenizer: Any, prompts: Path) -> None:
    """Recording, generating and teacher forcing give the model the chat template's ids to the token, on both
    engines.
    """
    texts = instructions(prompts, "harmless_val.json", 5)
    wanted = {tuple(template_ids(tokenizer, t)[0].tolist()) for t in texts}
    seen: set[tuple[int, ...]] = set()

    def watch(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs.get("input_ids", kwargs.get("input"))
        mask = kwargs.get("attention_mask")
        if ids is not None and ids.ndim == 2 and ids.shape[1] > 1:
            width = ids.shape[1]
            for row in range(len(ids)):
                kept = ids[row] if mask is None else ids[row][mask[row, -width:].bool()]
                seen.add(tuple(kept.tolist()))

    from lens_steer.models.loading import hf_twin

    # bodies, not heads: recording calls the decoder without its unembedding
    handles = [m.register_forward_pre_hook(watch, with_kwargs=True) for m in (hf_twin(exact).model,)]
    try:
        pair = Contrast(PromptSet(tuple(ls.load_prompts(texts))), PromptSet(tuple(ls.load_prompts(texts))))
        ls.record(exact, pair, sites=["blocks.1.ln1.hook_out"], progress=False)
        assert seen == wanted
        seen.clear()
        ls.generate(exact, texts, max_new_tokens=1)
        assert seen == wanted
    finally:
        for handle in handles:
            handle.remove()


def last_token(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Output of every norm at each prompt's last token, one prompt at a time: [prompt, site, d_model] in network
    order.
    """
    rows = []
    for text in texts:
        found: list[torch.Tensor] = []
        hooks = [
            norm.register_forward_hook(lambda m, a, out, found=found: found.append(out[0, -1].clone()))
            for block in model.model.layers
            for norm in (block.input_layernorm, block.post_attention_layernorm)
        ]
        with torch.no_grad():
            model(template_ids(tokenizer, text), use_cache=False)
        for hook in hooks:
            hook.remove()
        rows.append(torch.stack(found))
    return torch.stack(rows)


@pytest.mark.parametrize("engine", ["hf", "tl"])
def test_class_means_are_plain_hugging_faces(
    exact: Any, plain: Any, tokenizer: Any, prompts: Path, engine: str
) -> None:
    """Batched and padded, through either engine: class means at every norm output equal unpadded forwards with plain
    hooks to 1e-4 of their length.
    """
    harmful, harmless = (instructions(prompts, f, 8) for f in ("harmful_train.json", "harmless_train.json"))
    acts = ls.record(exact, ls.load_contrast(positive=harmful, negative=harmless), engine=engine, progress=False)
    for side, texts in ((acts.positive, harmful), (acts.negative, harmless)):
        ours, theirs = side.mean(dim=0), last_token(plain, tokenizer, texts).mean(dim=0)
        error = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp_min(1e-6)
        assert float(error.max()) < 1e-4


def plain_generate(
    model: Any, tokenizer: Any, texts: list[str], edit: Callable[[torch.Tensor], torch.Tensor], at: list[str]
) -> list[str]:
    """Greedy answers one prompt at a time, with an edit of the output of some modules."""
    hooks = [model.get_submodule(path).register_forward_hook(lambda m, a, out: edit(out)) for path in at]
    answers = []
    for text in texts:
        ids = template_ids(tokenizer, text)
        with torch.no_grad():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, repetition_penalty=1.0
            )
        answers.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    for hook in hooks:
        hook.remove()
    return answers


def test_steered_answers_are_those_of_plain_hooks(
    exact: Any, plain: Any, tokenizer: Any, prompts: Path, name: str
) -> None:
    """Selective steering, batched, against a rotation matrix in plain hooks, one prompt at a time; at least half of the
    answers change.
    """
    if name != CODER:
        pytest.skip("one model is enough")
    acts = ls.record(
        exact,
        ls.load_contrast(
            positive=instructions(prompts, "harmful_train.json", N),
            negative=instructions(prompts, "harmless_train.json", N),
        ),
        progress=False,
    )
    calibration = ls.calibrate(acts)
    assert calibration.discriminative_sites
    b = calibration.basis.double()
    c, s = math.cos(math.radians(ANGLE)), math.sin(math.radians(ANGLE))
    turned = torch.stack([c * b[0] + s * b[1], c * b[1] - s * b[0]])
    matrix = (torch.eye(b.shape[1], dtype=torch.float64) + (turned - b).T @ b).float()
    which = {"ln1": "input_layernorm", "ln2": "post_attention_layernorm"}
    at = [f"model.layers.{n.split('.')[1]}.{which[n.split('.')[2]]}" for n in calibration.discriminative_sites]
    texts = instructions(prompts, "harmless_val.json", N)
    wanted = plain_generate(plain, tokenizer, texts, lambda h: h @ matrix.T, at)
    unsteered = plain_generate(plain, tokenizer, texts, lambda h: h, at)
    assert sum(a != b for a, b in zip(wanted, unsteered, strict=True)) >= N / 2
    with ls.steering(exact, ls.selective_steering(calibration, ANGLE)):
        steered = ls.generate(exact, texts, max_new_tokens=NEW)
    assert digests(steered) == digests(wanted)
    assert digests(ls.generate(exact, texts, max_new_tokens=NEW)) == digests(unsteered)
