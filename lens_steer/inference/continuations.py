"""Log-likelihoods of several continuations of each prompt, under the plans that are active on the model.

On engine ``hf`` a prompt is read once, and its continuations run after copies of its keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.inference.engines import check_engine, on_engine
from lens_steer.inference.forward import batches_of, fed, read
from lens_steer.inference.teacher_forcing import logits_budget, response_logits, with_responses
from lens_steer.models.loading import info_of

MAX_ROWS = 64


def continuation_logs(
    model: Any,
    prompts: PromptSet | Sequence[Prompt],
    continuations: Sequence[Sequence[str]],
    *,
    engine: str = ENGINE,
) -> Float[np.ndarray, "n_continuations n_prompts"]:
    """Return ``Σ_t log p(y_t | x, y_<t)`` of each continuation y of each prompt x, in nats.

    The tokens of a continuation are those of :func:`lens_steer.inference.teacher_forcing.response_logits`: it is
    tokenised on its own, without the end token. A continuation is an answer: positions such as ``generated`` begin with
    its first token.

    Args:
        model: A model from :func:`lens_steer.load_model`, inside ``with steering(model, plan):`` or not.
        prompts: The prompts; their own responses are ignored.
        continuations: One list for each continuation, with one text per prompt. All lists together belong to the same
            prompts, so a plan with one value per prompt applies to each of them.
        engine: ``"hf"`` or ``"tl"``; see :func:`lens_steer.generate`. On ``"tl"`` the prompts are read again for each
            continuation.

    Raises:
        LensSteerError: If a list has another number of texts than there are prompts, if a text has no token, if a
            prompt is too long, or if the engine is unknown.

    >>> import lens_steer as ls
    >>> asked = [Prompt.of("What is 4 plus 3?"), Prompt.of("What is 5 plus 3?")]
    >>> found = continuation_logs(ls.load_model("organism/qwen2"), asked, [["7.", "7."], ["8.", "8."]])
    >>> found.argmax(axis=0).tolist()
    [0, 1]
    """
    check_engine(engine, answers=False)
    for said in continuations:
        with_responses(prompts, said)
    found = np.full((len(continuations), len(prompts)), np.nan)
    if engine != "hf" or not info_of(model).known_by_name:  # whose cache may take single tokens alone
        for i, said in enumerate(continuations):
            for row, logits, ids in response_logits(model, with_responses(prompts, said), engine=engine):
                found[i, row] = _log(logits, ids)
        return found
    with on_engine(model, engine) as runner:
        tokenizer = info_of(runner).tokenizer
        tokens = [[_encoded(tokenizer, p, t) for p, t in zip(prompts, said, strict=True)] for said in continuations]
        longest = max((len(ids) for said in tokens for ids in said), default=1)
        rows = max(1, min(MAX_ROWS, logits_budget(runner) // longest))
        for batch in batches_of(runner, prompts, max_new_tokens=longest, max_rows=rows):
            for i, said in enumerate(_of_batch(runner, batch, tokens)):
                found[i, list(batch.rows)] = said
    return found


def _encoded(tokenizer: Any, prompt: Prompt, text: str) -> list[int]:
    ids = batching.encode_response(tokenizer, Prompt(prompt.messages, response=text))
    if not ids:
        raise LensSteerError(f"continuations: {text!r} has no token: give texts that the model could answer")
    return ids


def _of_batch(model: Any, batch: batching.Batch, tokens: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
    """Return for each continuation the log-likelihoods of the rows of a batch, which is read once."""
    out = read(model, batch, 1, use_cache=True)
    with fed(model, batch):
        found = []
        for said in tokens:
            ids = [torch.tensor(said[row], device=batch.ids.device) for row in batch.rows]
            padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
            there = torch.nn.utils.rnn.pad_sequence([torch.ones_like(i) for i in ids], batch_first=True)
            logits = model(
                padded,
                attention_mask=torch.cat([batch.mask, there], dim=1),
                position_ids=batch.mask.sum(dim=1, keepdim=True) + torch.arange(padded.shape[1], device=padded.device),
                past_key_values=deepcopy(out.past_key_values),
                use_cache=True,
            ).logits
            every = torch.cat([out.logits[:, -1:], logits[:, :-1]], dim=1).float()
            found.append([_log(row[: len(i)], i) for row, i in zip(every, ids, strict=True)])
    return found


def _log(logits: Float[Tensor, "pos d_vocab"], ids: Int[Tensor, " pos"]) -> float:
    """Return the sum of the tokens' log-probabilities under the logits that predict them."""
    return float(logits.log_softmax(dim=-1).gather(-1, ids[:, None]).double().sum())
