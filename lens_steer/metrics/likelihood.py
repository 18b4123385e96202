"""Likelihood of responses: perplexity under a model, steered or not, by teacher forcing.

``ppl = exp(−1/T Σ_t log p(y_t | x, y_<t))`` over a response's T tokens, its end token excluded, the prompt given
(Selective Steering, Eq. 39, where neither the model nor the condition is said). ``ppl_ref`` is under the unsteered
model, ``ppl_self`` under the plan that is active; the latter is low for repetition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import Prompt, PromptSet
from lens_steer.inference.prompt_cache import PromptCache
from lens_steer.inference.teacher_forcing import response_logits, with_responses

VIOLATION = 2.0  # perplexity above which Selective Steering marks an angle


def mean_surprise(
    model: Any,
    prompts: PromptSet | Sequence[Prompt],
    responses: Sequence[str],
    *,
    engine: str = ENGINE,
    batch_size: int = 64,
    read: PromptCache | None = None,
) -> Float[np.ndarray, " n"]:
    """Mean −log p of each response's tokens in nats, the logarithm of its perplexity; NaN where a response is empty.

    Args:
        model: from :func:`lens_steer.load_model`; outside any ``steering`` block for ``ppl_ref``, inside it for
            ``ppl_self``.
        prompts, responses: one response a prompt.
        engine, batch_size: see :func:`lens_steer.inference.teacher_forcing.response_logits`.
        read: keeps what the model has read of the prompts, for further responses to the same ones; in place of
            ``engine`` and ``batch_size``.

    Raises:
        LensSteerError: as :func:`lens_steer.inference.teacher_forcing.response_logits` and
            :func:`lens_steer.inference.teacher_forcing.with_responses`.

    >>> import lens_steer as ls
    >>> right, wrong = mean_surprise(
    ...     ls.load_model("organism/qwen2"), [Prompt.of("What is 4 plus 3?")] * 2, ["7.", "8."]
    ... )
    >>> bool(right < 0.1 < wrong)
    True
    """
    found = np.full(len(prompts), np.nan)
    forced = (
        response_logits(model, with_responses(prompts, responses), engine=engine, batch_size=batch_size)
        if read is None
        else read.response_logits(list(prompts), responses)
    )
    for row, logits, ids in forced:
        found[row] = surprise_of(logits, ids)
    return found


def surprise_of(logits: Float[Tensor, "pos d_vocab"], ids: Int[Tensor, " pos"]) -> float:
    """Mean −log p of tokens under the logits that predict them, in nats.

    >>> import torch
    >>> round(surprise_of(torch.zeros(2, 4), torch.tensor([0, 3])), 6)  # log 4
    1.386294
    """
    return -float(logits.log_softmax(dim=-1).gather(-1, ids[:, None]).double().mean())
