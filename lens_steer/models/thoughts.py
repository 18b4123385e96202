"""The marks between which a reasoning model writes its thoughts, found from its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lens_steer.errors import LensSteerError

# The marks that open and close thoughts: of Qwen3, DeepSeek-R1 and many others; of Magistral; of Seed-OSS; of EXAONE
# Deep; of Kimi; of Command A Reasoning; of Gemma 4.
TAGS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<thought>", "</thought>"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
)
# The channels of gpt-oss: <|channel|>NAME<|message|>TEXT, ended by one of CHANNEL_ENDS. FINAL is the channel that is
# shown to the user; every other channel is thought.
CHANNEL, MESSAGE, FINAL = "<|channel|>", "<|message|>", "final"
CHANNEL_ENDS = ("<|end|>", "<|start|>", "<|call|>", "<|return|>")
THOUGHT_CHANNEL = f"{CHANNEL}analysis{MESSAGE}"
ANSWER_CHANNEL = f"<|end|><|start|>assistant{CHANNEL}{FINAL}{MESSAGE}"


@dataclass(frozen=True)
class Marks:
    """The marks of a model's thoughts.

    Attributes:
        opening: What opens a thought.
        closing: What closes a thought, so that the answer can begin.
        found_in: Where they were found: the chat template, the response template or the vocabulary.

    >>> Marks(*TAGS[0], "chat template").channels, Marks(THOUGHT_CHANNEL, ANSWER_CHANNEL, "vocabulary").channels
    (False, True)
    """

    opening: str
    closing: str
    found_in: str

    @property
    def channels(self) -> bool:
        """True for the channels of gpt-oss, which name what follows."""
        return self.opening == THOUGHT_CHANNEL


def marks_of(tokenizer: Any) -> Marks | None:
    """Return the marks between which a model writes its thoughts; None if it has none that are known.

    The chat template is read first, then the response template that a tokenizer of Transformers may have, then the
    tokens that were added to the vocabulary. Among several pairs of marks, one of which both are there comes first.

    Args:
        tokenizer: The tokenizer of a model.

    >>> import lens_steer as ls
    >>> marks_of(ls.load_model("organism/qwen2").lens_info.tokenizer) is None
    True
    """
    for where, text in _texts(tokenizer):
        if CHANNEL in text and MESSAGE in text:
            return Marks(THOUGHT_CHANNEL, ANSWER_CHANNEL, where)
        for wanted in (all, any):
            for pair in TAGS:
                if wanted(mark in text for mark in pair):
                    return Marks(*pair, where)
    return None


def needed_marks(tokenizer: Any, for_what: str, mend: str) -> Marks:
    """Return :func:`marks_of`, where something cannot go on without them.

    Args:
        tokenizer: The tokenizer of a model.
        for_what: What needs them, with which the message begins.
        mend: What to do without them, with which the message ends.

    Raises:
        LensSteerError: If the model has no marks that are known.
    """
    marks = marks_of(tokenizer)
    if marks is None:
        known = ", ".join(opening for opening, _ in TAGS)
        raise LensSteerError(
            f"{for_what}: neither the templates nor the vocabulary of the model have a mark of thoughts that is known "
            f"({known}, or the channels of gpt-oss): {mend}"
        )
    return marks


def _texts(tokenizer: Any) -> Iterator[tuple[str, str]]:
    template = getattr(tokenizer, "chat_template", None)
    yield "chat template", template if isinstance(template, str) else json.dumps(template, ensure_ascii=False)
    response = getattr(tokenizer, "response_template", None)
    yield "response template", json.dumps(response, ensure_ascii=False, default=str)
    yield "vocabulary", "\n".join(getattr(tokenizer, "get_added_vocab", dict)())
