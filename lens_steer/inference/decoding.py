"""Token ids of an answer as text, in which a reasoning model's thoughts can still be told from its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lens_steer.data import Prompt
from lens_steer.inference import batching

# how thoughts open and close: Qwen3, DeepSeek-R1 and many others; Magistral; Seed-OSS
TAGS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
)
CHANNEL, MESSAGE = "<|channel|>", "<|message|>"  # of gpt-oss: <|channel|>NAME<|message|>TEXT, ended by one of the next
CHANNEL_ENDS = ("<|end|>", "<|start|>", "<|call|>", "<|return|>")
MARKERS = frozenset({*(tag for pair in TAGS for tag in pair), CHANNEL, MESSAGE, *CHANNEL_ENDS})


def decode_answer(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of an answer's tokens, special tokens left out but for those that mark thoughts.

    Qwen3's ``<think>`` is an ordinary added token and survives ``skip_special_tokens=True``; gpt-oss' channels and
    Magistral's ``[THINK]`` are special tokens and would vanish, thoughts and answer running into each other.

    Args:
        tokenizer: of the model.
        ids: without the end token.

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
    """Whether the chat template has opened a thought where the model's own text begins, so that only its end can show
    in the text.

    >>> import lens_steer as ls
    >>> begins_in_thought(ls.load_model("organism/qwen2").lens_info.tokenizer, Prompt.of("How do I burn a bridge?"))
    False
    """
    return batching.render(tokenizer, prompt).rstrip().endswith(tuple(opening for opening, _ in TAGS))
