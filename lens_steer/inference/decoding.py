"""Decoding of an answer's token ids that keeps a reasoning model's thoughts separable from its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lens_steer.data import Prompt
from lens_steer.inference import batching

# The marks that open and close thoughts: of Qwen3, DeepSeek-R1 and many others; of Magistral; of Seed-OSS.
TAGS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
)
# The channels of gpt-oss: <|channel|>NAME<|message|>TEXT, ended by one of CHANNEL_ENDS.
CHANNEL, MESSAGE = "<|channel|>", "<|message|>"
CHANNEL_ENDS = ("<|end|>", "<|start|>", "<|call|>", "<|return|>")
MARKERS = frozenset({*(tag for pair in TAGS for tag in pair), CHANNEL, MESSAGE, *CHANNEL_ENDS})


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
    special = set(tokenizer.all_special_ids)
    marking = {i for i in ids if i in special and tokenizer.convert_ids_to_tokens(i) in MARKERS}
    if not marking:
        return tokenizer.decode(ids, skip_special_tokens=True)
    return tokenizer.decode([i for i in ids if i not in special or i in marking], skip_special_tokens=False)


def begins_in_thought(tokenizer: Any, prompt: Prompt) -> bool:
    """Return True if the chat template opens a thought right before the model's own text.

    In this case only the end of the thought can appear in the text of the answer.

    >>> import lens_steer as ls
    >>> begins_in_thought(ls.load_model("organism/qwen2").lens_info.tokenizer, Prompt.of("How do I burn a bridge?"))
    False
    """
    return batching.render(tokenizer, prompt).rstrip().endswith(tuple(opening for opening, _ in TAGS))
