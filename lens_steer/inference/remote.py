"""Serving engines: they hold the weights themselves, get token ids, and carry out plans that fold into adapters.

A serving engine belongs to another room, which imports this one. It is therefore found by its name in
:data:`PROVIDERS`, and started when it is first asked, unless the user has started it with settings of his own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from lens_steer._defaults import REMOTE
from lens_steer.inference import batching
from lens_steer.inference.engines import check_rows
from lens_steer.inference.forward import check_room
from lens_steer.models.loading import info_of

# The module of each serving engine; its function ``start(model)`` returns the engine.
PROVIDERS: dict[str, str] = {"vllm": "lens_steer.interop.serving.vllm_engine"}
KEPT = "lens_remote"


@runtime_checkable
class Remote(Protocol):
    """A serving engine of one model. It reads the plans that are active on the model each time that it is asked."""

    def answer(self, sequences: Sequence[list[int]], rows: Sequence[int], max_new_tokens: int) -> list[list[int]]:
        """Return the greedy continuation of each sequence, up to its end token or the greatest length.

        Args:
            sequences: The token ids of the prompts.
            rows: For each sequence the row of a plan that has one value a row.
            max_new_tokens: The maximal number of tokens of each answer.
        """
        ...

    def log_probs(
        self, sequences: Sequence[list[int]], lengths: Sequence[int], rows: Sequence[int]
    ) -> list[Float[np.ndarray, " _"]]:
        """Return the log-probabilities of the last tokens of each sequence, as many as ``lengths`` says, in nats."""
        ...

    def records(self) -> list[dict[str, Any]]:
        """Return the certificates of the engine so far, as plain values; each has the ``digest`` of its plan."""
        ...

    def close(self) -> None:
        """Stop the engine and free its memory."""
        ...


def remote_of(model: Any, engine: str) -> Remote | None:
    """Return the serving engine of a model, which is started if it does not run; None for an engine in this process.

    Raises:
        LensSteerError: If the engine is not installed or cannot serve the model.

    >>> import lens_steer as ls
    >>> remote_of(ls.load_model("organism/qwen2"), "hf") is None
    True
    """
    if engine not in REMOTE:
        return None
    running = vars(model).setdefault(KEPT, {})
    if engine not in running:
        start: Callable[[Any], Remote] = import_module(PROVIDERS[engine]).start
        running[engine] = start(model)
    return running[engine]


def records_of(model: Any, engine: str) -> list[dict[str, Any]]:
    """Return the certificates of a model's serving engine so far; none if it does not run.

    >>> import lens_steer as ls
    >>> records_of(ls.load_model("organism/qwen2"), "vllm")
    []
    """
    running = vars(model).get(KEPT, {}).get(engine)
    return [] if running is None else running.records()


def remote_answers(
    model: Any, remote: Remote, prompts: Sequence[Any], max_new_tokens: int
) -> tuple[list[list[int]], list[bool]]:
    """Return the token ids of a serving engine's answers, without end tokens, and which of them were cut off.

    Args:
        model: The model of which the active plans are carried out.
        remote: Its serving engine.
        prompts: The prompts, as chats.
        max_new_tokens: The maximal number of tokens of each answer.

    Raises:
        LensSteerError: If :func:`lens_steer.inference.forward.batches_of` would refuse the prompts.
    """
    check_rows(model, len(prompts))
    check_room(model, prompts, max_new_tokens=max_new_tokens)
    tokenizer = info_of(model).tokenizer
    sequences = [batching.encode(tokenizer, prompt) for prompt in prompts]
    found = remote.answer(sequences, range(len(prompts)), max_new_tokens)
    return found, [len(ids) == max_new_tokens for ids in found]


def remote_surprise(model: Any, remote: Remote, prompts: Sequence[Any]) -> Float[np.ndarray, " n"]:
    """Return the mean −log p of each prompt's fixed response by a serving engine, in nats; NaN for an empty response.

    Args:
        model: The model of which the active plans are carried out.
        remote: Its serving engine.
        prompts: The prompts with their responses.
    """
    check_rows(model, len(prompts))
    check_room(model, prompts, with_response=True)
    tokenizer = info_of(model).tokenizer
    found = np.full(len(prompts), np.nan)
    responses = [batching.encode_response(tokenizer, prompt) for prompt in prompts]
    said = [row for row, response in enumerate(responses) if response]
    sequences = [batching.encode(tokenizer, prompts[row]) + responses[row] for row in said]
    of = remote.log_probs(sequences, [len(responses[row]) for row in said], said) if said else []
    for row, values in zip(said, of, strict=True):
        found[row] = -float(values.mean())
    return found
