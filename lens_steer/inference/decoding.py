"""Decoding of an answer's token ids that keeps a reasoning model's thoughts separable from its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lens_steer.data import Prompt
from lens_steer.inference import batching
from lens_steer.models.thoughts import CHANNEL, CHANNEL_ENDS, MESSAGE, TAGS, THOUGHT_CHANNEL

# What a special token must be a part of, so that it stays in a decoded answer.
_MARKS = (*(mark for pair in TAGS for mark in pair), CHANNEL, MESSAGE, *CHANNEL_ENDS)


def decode_answer(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of an answer's tokens without special tokens, except those that mark thoughts.

    Qwen3's ``<think>`` is an ordinary added token and survives ``skip_special_tokens=True``. The channels of gpt-oss
    and Magistral's ``[THINK]`` are special tokens: they would vanish, and thoughts and answer would run together.

    Args:
        tokenizer: The tokenizer of the model.
        ids: The token ids of the answer, without the end token.

    >>> import lens_steer as ls
    >>> tokenizer = ls.load_model("organism/qwen2").lens_info.tokenizer
    >>> decode_answer(tokenizer, [*tokenizer("Gladly.", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id])
    'Gladly.'
    """
    special = _special_ids(tokenizer)
    marking = {i for i in special.intersection(ids) if any(tokenizer.convert_ids_to_tokens(i) in m for m in _MARKS)}
    if not marking:
        return tokenizer.decode(ids, skip_special_tokens=True)
    return tokenizer.decode([i for i in ids if i not in special or i in marking], skip_special_tokens=False)


def _special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids that ``skip_special_tokens=True`` leaves out.

    They are more than ``all_special_ids``, which holds those alone that the tokenizer has a name for.
    """
    kept = vars(tokenizer).get("lens_special_ids")
    if kept is None or kept[0] != len(tokenizer):
        added = getattr(tokenizer, "added_tokens_decoder", {})
        ids = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
        kept = vars(tokenizer)["lens_special_ids"] = (len(tokenizer), frozenset(ids))
    return kept[1]


def begins_in_thought(tokenizer: Any, prompt: Prompt) -> bool:
    """Return True if the chat template opens a thought right before the model's own text.

    In this case only the end of the thought can appear in the text of the answer.

    >>> import lens_steer as ls
    >>> begins_in_thought(ls.load_model("organism/qwen2").lens_info.tokenizer, Prompt.of("How do I burn a bridge?"))
    False
    """
    return opens_thought(batching.render(tokenizer, prompt))


def opens_thought(text: str) -> bool:
    """Return True if a text ends with the mark that opens a thought, white space apart.

    >>> opens_thought("User: How?\\nAssistant: <think>\\n"), opens_thought("Assistant: <think>\\n\\n</think>\\n")
    (True, False)
    """
    return text.rstrip().endswith((*(opening for opening, _ in TAGS), THOUGHT_CHANNEL))
