"""Batched greedy generation, under whatever steering is active on the model."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from lens_steer import chat
from lens_steer.errors import LensSteerError
from lens_steer.models import info_of
from lens_steer.prompts import Prompt, PromptSet


def generate(
    model: Any,
    prompts: PromptSet | list[Prompt] | list[str],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 128,
    progress: bool = False,
) -> list[str]:
    """Greedy answers in the order of the prompts.

    Prompts run left-padded in batches of similar length, each batch with a fresh key–value cache; an answer ends at the model's
    end-of-turn token. Batched answers equal the answers one by one.

    Args:
        model: from :func:`lens_steer.load_model`, inside ``with steering(model, plan):`` or not.
        prompts: a prompt set, prompts, or plain strings (single user turns).
        max_new_tokens: of each answer.
        batch_size: prompts a batch at most.
        progress: show a bar.

    Raises:
        LensSteerError: no prompts, a prompt that leaves no room in the context, ``max_new_tokens`` below 1.
    """
    if not len(prompts):
        raise LensSteerError("prompts is empty: give at least one")
    if max_new_tokens < 1:
        raise LensSteerError(f"max_new_tokens={max_new_tokens}: at least 1 is needed")
    info = info_of(model)
    tokenizer = info.tokenizer
    chats = [Prompt.of(p) if isinstance(p, str) else p for p in prompts]
    answers = [""] * len(chats)
    batches = chat.batches(
        tokenizer, chats, n_ctx=int(model.cfg.n_ctx), max_new_tokens=max_new_tokens, max_rows=batch_size,
        device=model.cfg.device,
    )  # fmt: skip
    with tqdm(total=len(chats), desc="generate", unit="prompt", disable=not progress, leave=False) as bar:
        for batch in batches:
            new = _continue(model, batch, max_new_tokens)
            for row, ids in zip(batch.rows, new.tolist(), strict=True):
                answers[row] = tokenizer.decode(_until_end(ids, info.end_tokens), skip_special_tokens=True)
            bar.update(len(batch.rows))
    return answers


def _continue(model: Any, batch: chat.Batch, max_new_tokens: int) -> Int[Tensor, "batch new"]:
    with torch.inference_mode():
        out = model.generate(
            batch.ids, max_new_tokens=max_new_tokens, do_sample=False, stop_at_eos=True, eos_token_id=list(info_of(model).end_tokens),
            prepend_bos=False, padding_side="left", verbose=False, return_type="tokens",
        )  # fmt: skip
    return out[:, batch.ids.shape[1] :]


def _until_end(ids: list[int], ends: tuple[int, ...]) -> list[int]:
    return ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))]
