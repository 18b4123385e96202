"""Prompts as a model gets them: the rendered text, its token ids, and each token by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lens_steer.data import Prompt, PromptSet
from lens_steer.inference import batching
from lens_steer.models.location import locate
from lens_steer.models.tokenization import read_tokenizer


@dataclass(frozen=True)
class Tokens:
    """One prompt as the model gets it.

    Attributes:
        prompt: the last user message.
        text: the rendered chat.
        ids: token ids.
        tokens: each id's text by itself; a character that several tokens make up shows as U+FFFD in each of them.
    """

    prompt: str
    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]

    def row(self) -> dict[str, Any]:
        """As the command line prints it."""
        return asdict(self)


def tokens(model: Any, prompts: PromptSet | Sequence[Prompt] | Sequence[str] | Prompt | str) -> list[Tokens]:
    """What each prompt becomes before the model sees it; the ids are those of every forward and every generation.

    Args:
        model: from :func:`lens_steer.load_model`; or a name or folder as it takes them, of which the tokenizer alone is
            read; or a tokenizer of :func:`lens_steer.models.tokenization.read_tokenizer`.
        prompts: a prompt set, prompts, or plain strings (single user turns); one alone is a list of one.

    Raises:
        LensSteerError: no such model or tokenizer, no chat template, one that refuses the messages.

    >>> tokens("organism/qwen2", "What is 4 plus 3?")[0].tokens[:6]
    ('<|im_start|>', 'user', '\\n', 'What', ' is', ' ')
    """
    tokenizer = _tokenizer_of(model)
    given = [prompts] if isinstance(prompts, (str, Prompt)) else prompts
    found = []
    for prompt in (Prompt.of(p) if isinstance(p, str) else p for p in given):
        ids = batching.encode(tokenizer, prompt)
        pieces = tuple(tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in ids)
        found.append(Tokens(prompt.text, batching.render(tokenizer, prompt), tuple(ids), pieces))
    return found


def _tokenizer_of(model: Any) -> Any:
    if isinstance(model, (str, Path)):
        return read_tokenizer(locate(model))
    info = getattr(model, "lens_info", None)
    return model if info is None else info.tokenizer
