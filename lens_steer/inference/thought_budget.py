"""A budget for the thoughts of a reasoning model: a thought that reaches it is closed, and the answer begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.inference.batching import Batch
from lens_steer.inference.segments import ANSWER, THOUGHT, Segments
from lens_steer.models.loading import info_of
from lens_steer.models.thoughts import needed_marks


def check_budget(max_thought_tokens: int | None, engine: str, model: Any = None, max_new_tokens: int = 0) -> None:
    """Refuse a budget that cannot be kept.

    Args:
        max_thought_tokens: The budget; None for none, which is never refused.
        engine: The engine that answers.
        model: A model, loaded or described without its weights, whose marks are looked for. None: no model yet.
        max_new_tokens: The maximal number of tokens of each answer, thoughts and marks included.

    Raises:
        LensSteerError: If the budget is no number of tokens, if the engine has no budgets, if the model has no marks of
            thoughts that are known, or if the budget and the closing mark leave no token of the answer.

    >>> check_budget(16, "hf")
    """
    if max_thought_tokens is None:
        return
    if max_thought_tokens < 0:
        raise LensSteerError(
            f"max_thought_tokens={max_thought_tokens}: give the number of tokens of the thoughts, 0 or more"
        )
    if engine != "hf":
        raise LensSteerError(
            f"max_thought_tokens={max_thought_tokens}: only engine 'hf' closes thoughts, and the engine is {engine!r}"
        )
    if model is not None:
        tokenizer, what = info_of(model).tokenizer, f"max_thought_tokens={max_thought_tokens}"
        closing = needed_marks(tokenizer, what, "leave it out, max_new_tokens is the length of everything").closing
        taken = max_thought_tokens + len(tokenizer(closing, add_special_tokens=False)["input_ids"])
        if taken >= max_new_tokens:
            raise LensSteerError(
                f"{what} and the closing mark take {taken} of max_new_tokens={max_new_tokens}, so that no answer is "
                "left: give a larger max_new_tokens"
            )


class ThoughtBudget:
    """A logits processor of Transformers that writes the closing mark where the thoughts of an answer are too long.

    As soon as the thoughts of an answer have ``most`` tokens, the tokens of the closing mark are the only ones that can
    be written next. Everything else is left as the model has it.

    Args:
        tokenizer: The tokenizer of the model.
        batch: The prompts.
        most: The maximal number of tokens in the thoughts of each answer, marks not counted.
        end_tokens: The tokens that end an answer.

    Attributes:
        ended: For each row, True where the model would have gone on with its thought.

    Raises:
        LensSteerError: If the model has no marks of thoughts that are known.
    """

    def __init__(self, tokenizer: Any, batch: Batch, most: int, end_tokens: Sequence[int]) -> None:
        self._segments = Segments(tokenizer, f"max_thought_tokens={most}")
        self._most = most
        self._width = batch.ids.shape[1]
        real = batch.mask.bool().tolist()
        self._readers = [
            self._segments.reader([token for token, there in zip(row, own, strict=True) if there])
            for row, own in zip(batch.ids.tolist(), real, strict=True)
        ]
        self._thought = [0] * len(batch.rows)
        self._closing = list(tokenizer(self._segments.marks.closing, add_special_tokens=False)["input_ids"])
        self._due: list[list[int]] = [[] for _ in batch.rows]
        self._end_tokens, self._over = frozenset(end_tokens), [False] * len(batch.rows)
        self.ended = [False] * len(batch.rows)

    def __call__(
        self, ids: Int[Tensor, "batch pos"], logits: Float[Tensor, "batch d_vocab"]
    ) -> Float[Tensor, "batch d_vocab"]:
        """Return the logits of the next tokens, where a thought is closed with the mark's token alone."""
        for row, token in enumerate(ids[:, -1].tolist() if ids.shape[1] > self._width else ()):
            self._over[row] |= token in self._end_tokens  # what follows in this row is padding
            self._thought[row] += self._segments.read(self._readers[row], token)[0] == THOUGHT
        likeliest = logits.argmax(dim=-1).tolist()
        logits = logits.clone()
        for row, reader in enumerate(self._readers):
            if self._over[row]:
                continue
            if not self._due[row] and reader.segment == THOUGHT and self._thought[row] >= self._most:
                self._due[row] = list(self._closing)
                self.ended[row] |= likeliest[row] != self._closing[0]
            if self._due[row]:
                token = self._due[row].pop(0)
                reader.segment = reader.segment if self._due[row] else ANSWER
                logits[row] = -torch.inf
                logits[row, token] = 0.0
        return logits
