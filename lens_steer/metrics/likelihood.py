"""Likelihood of responses: perplexity under a model, steered or unsteered, by teacher forcing.

The perplexity of a response is ``ppl = exp(−1/T Σ_t log p(y_t | x, y_<t))`` over its T tokens, without the end token
and given the prompt x (Selective Steering, Eq. 39; the paper says neither which model nor which condition). ``ppl_ref``
is the perplexity under the unsteered model, ``ppl_self`` that under the active plan. ``ppl_self`` is low for
repetition.
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
from lens_steer.inference.remote import remote_of, remote_surprise
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
    """Return the mean −log p of each response's tokens, in nats, which is the logarithm of its perplexity.

    The value is NaN for an empty response.

    Args:
        model: A model of :func:`lens_steer.load_model`, outside any ``steering`` block for ``ppl_ref``, inside it for
            ``ppl_self``.
        prompts: One prompt per response.
        responses: One response per prompt.
        engine, batch_size: See :func:`lens_steer.inference.teacher_forcing.response_logits`; ``"vllm"`` takes the
            log-probabilities that vLLM returns for the tokens of a prompt.
        read: A key–value cache of the prompts, which is reused for further responses to the same prompts. If it is
            given, ``engine`` and ``batch_size`` are ignored.

    Raises:
        LensSteerError: For the reasons of :func:`lens_steer.inference.teacher_forcing.response_logits` and
            :func:`lens_steer.inference.teacher_forcing.with_responses`.

    >>> import lens_steer as ls
    >>> asked = [Prompt.of("What is 4 plus 3?")] * 2
    >>> right, wrong = mean_surprise(ls.load_model("organism/qwen2"), asked, ["7.", "8."])
    >>> bool(right < 0.1 < wrong)
    True
    """
    if read is None and (remote := remote_of(model, engine)) is not None:
        return remote_surprise(model, remote, with_responses(prompts, responses))
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
    """Return the mean −log p of tokens under the logits that predict them, in nats.

    >>> import torch
    >>> round(surprise_of(torch.zeros(2, 4), torch.tensor([0, 3])), 6)  # log 4
    1.386294
    """
    return -float(logits.log_softmax(dim=-1).gather(-1, ids[:, None]).double().mean())
