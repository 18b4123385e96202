"""Answers that are scored while they are written, so that no second pass reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_steer.inference.batching import Prompts
from lens_steer.inference.decoding import decode_answer
from lens_steer.inference.engines import on_engine
from lens_steer.inference.forward import batches_of
from lens_steer.inference.generation import answer_ids, asked
from lens_steer.models.loading import info_of

# A function of the float32 logits of the first tokens.
Score = Callable[[Float[Tensor, "batch d_vocab"]], Float[Tensor, " batch"]]


@dataclass(frozen=True, eq=False)
class Scored:
    """Answers with what their generation told of them.

    Attributes:
        texts: The answers.
        cut: True for each answer that was cut off.
        surprise: The mean −log p of each answer's tokens under the model that wrote them, in nats, without the end
            token; NaN for an empty answer.
        first: What ``first`` returned for the logits of each answer's first token; NaN for an empty answer.
    """

    texts: list[str]
    cut: list[bool]
    surprise: Float[np.ndarray, " n"]
    first: Float[np.ndarray, " n"]


def scored_answers(
    model: Any,
    prompts: Prompts,
    first: Score,
    *,
    max_new_tokens: int = 64,
    batch_size: int = 128,
) -> Scored:
    """Return the answers of :func:`lens_steer.generate` on engine ``hf``, scored while they are written.

    A greedy token is the likeliest one, so its probability is that of the largest logit, and no second pass reads the
    answers. The values equal those of teacher forcing
    (:func:`lens_steer.inference.teacher_forcing.response_logits`) up to rounding where the text of an answer is
    tokenised as it was written.

    Args:
        model, prompts, max_new_tokens, batch_size: See :func:`lens_steer.generate`.
        first: A function of the float32 logits of the first tokens, such as a refusal score.

    Raises:
        LensSteerError: As :func:`lens_steer.generate`.

    >>> import lens_steer as ls
    >>> found = scored_answers(ls.load_model("organism/qwen2"), ["What is 4 plus 3?"], lambda logits: logits.argmax(-1))
    >>> found.texts, bool(found.surprise[0] < 0.1)
    (['7.'], True)
    """
    chats = asked(prompts, max_new_tokens)
    tokenizer, n = info_of(model).tokenizer, len(chats)
    found = Scored([""] * n, [False] * n, np.full(n, np.nan), np.full(n, np.nan))
    with on_engine(model, "hf") as runner:
        for batch in batches_of(runner, chats, max_new_tokens=max_new_tokens, max_rows=batch_size):
            heard = Heard(first)
            written = answer_ids(runner, batch, max_new_tokens, heard=heard)
            for i, (row, ids) in enumerate(zip(batch.rows, written, strict=True)):
                text = decode_answer(tokenizer, ids)
                found.texts[row], found.cut[row] = text, len(ids) == max_new_tokens
                if text:
                    found.surprise[row] = heard.surprise(i, len(ids))
                    found.first[row] = float(heard.scores[i])
    return found


class Heard:
    """A logits processor that changes nothing and keeps the log-probability of the likeliest token of every step.

    Args:
        first: A function of the float32 logits of the first tokens; ``scores`` is what it returned.
    """

    def __init__(self, first: Score) -> None:
        self._first = first
        self.logs: list[Float[Tensor, " batch"]] = []
        self.scores: Tensor = torch.empty(0)

    def __call__(self, ids: Int[Tensor, "batch pos"], logits: Float[Tensor, "batch d_vocab"]) -> Tensor:
        if not self.logs:
            self.scores = self._first(logits.float()).double().cpu()
        self.logs.append((logits.amax(dim=-1) - logits.logsumexp(dim=-1)).double().cpu())
        return logits

    def surprise(self, i: int, n: int) -> float:
        """Return the mean −log p of the first ``n`` tokens of the i-th row, in nats; NaN without a token."""
        return -float(torch.stack([step[i] for step in self.logs[:n]]).mean()) if n else float("nan")
