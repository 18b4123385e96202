"""Prompts in the form in which a model reads them: the rendered text, its token ids, and the text of each token."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.models.location import locate
from lens_steer.models.tokenization import read_tokenizer


@dataclass(frozen=True)
class Tokens:
    """One prompt in the form in which the model reads it.

    Attributes:
        prompt: The last user message.
        text: The rendered chat.
        ids: The token ids.
        tokens: The text of each id, decoded on its own. If several tokens form one character, each of them shows as
            U+FFFD.
    """

    prompt: str
    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]

    def row(self) -> dict[str, Any]:
        """Return the fields as a dictionary, in the form in which the command line prints them."""
        return asdict(self)


def tokens(model: Any, prompts: batching.Prompts) -> list[Tokens]:
    """Return the rendered text and the tokens of each prompt.

    The ids are those of every forward and of every generation.

    Args:
        model: A model from :func:`lens_steer.load_model`; or a name or folder as that function takes it, of which only
            the tokenizer is read; or a tokenizer from :func:`lens_steer.models.tokenization.read_tokenizer`.
        prompts: A prompt set, a list of prompts, or plain strings (single user turns). A single prompt or string counts
            as a list of one.

    Raises:
        LensSteerError: If there is no such model or tokenizer, if the tokenizer has no chat template, or if the
            template refuses the messages.

    >>> tokens("organism/qwen2", "What is 4 plus 3?")[0].tokens[:6]
    ('<|im_start|>', 'user', '\\n', 'What', ' is', ' ')
    """
    tokenizer, found = _tokenizer_of(model), []
    for prompt in batching.chats(prompts):
        ids = batching.encode(tokenizer, prompt)
        pieces = tuple(tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in ids)
        found.append(Tokens(prompt.text, batching.render(tokenizer, prompt), tuple(ids), pieces))
    return found


def _tokenizer_of(model: Any) -> Any:
    if isinstance(model, (str, Path)):
        return read_tokenizer(locate(model))
    info = getattr(model, "lens_info", None)
    return model if info is None else info.tokenizer


# Instructions that begin and end in different ways: what their token ids have in common at the end is the template's.
_INSTRUCTIONS = ("a", "Why?", "Stop.", "Go!", "1", "(x)", 'say "hi"', "é", "a:", "…")


def tokens_after_instruction(tokenizer: Any) -> tuple[int, ...]:
    """Return the ids of the tokens with which every prompt ends in the chat template, whatever the instruction is.

    They are the template's tokens after the instruction ("end of instruction"), the last of which decides the first
    token of the answer. They are found by rendering instructions with different endings. A template whose text after
    the instruction merges with it into one token has that token left out.

    Args:
        tokenizer: A tokenizer with a chat template.

    Raises:
        LensSteerError: If there is no such token, as in a template that ends with the instruction itself.

    >>> import lens_steer as ls
    >>> tokenizer = ls.load_model("organism/qwen2").lens_info.tokenizer
    >>> tokenizer.convert_ids_to_tokens(tokens_after_instruction(tokenizer))
    ['<|im_end|>', 'Ċ', '<|im_start|>', 'assistant', 'Ċ']
    """
    first, *others = (batching.encode(tokenizer, Prompt.of(text)) for text in _INSTRUCTIONS)
    n = 0
    while n < len(first) and all(n < len(ids) and ids[-1 - n] == first[-1 - n] for ids in others):
        n += 1
    if not n:
        raise LensSteerError(
            "the chat template has no token after the instruction that is the same for every prompt: give the model a "
            "template with one (chat_template)"
        )
    return tuple(first[len(first) - n :])
