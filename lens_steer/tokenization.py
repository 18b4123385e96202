"""A model's tokenizer, ready for left-padded batches, its chat template, and the tokens that end its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lens_steer.errors import LensSteerError
from lens_steer.hub import only_here

PLAIN_TEMPLATE = (
    "{{ bos_token if bos_token else '' }}{% for message in messages %}"
    "{{ message['role'].capitalize() + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def read_tokenizer(folder: str, chat_template: str | None = None) -> Any:
    """The tokenizer of a folder or a hub name, padding on the left.

    Args:
        folder: see :func:`lens_steer.folders.locate`.
        chat_template: ``"plain"`` (``User: …``), a Jinja template, or a file with one; the tokenizer's own unless given.

    Raises:
        LensSteerError: a file that does not exist.

    >>> from lens_steer.folders import locate
    >>> read_tokenizer(locate("organism/qwen2"), "{{ messages[0]['content'] }}").padding_side
    'left'
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=only_here(folder))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    if chat_template is not None:
        path = Path(chat_template) if len(chat_template) < 500 and "{" not in chat_template else None
        if chat_template == "plain":
            tokenizer.chat_template = PLAIN_TEMPLATE
        elif path is not None:
            if not path.exists():
                raise LensSteerError(f"chat_template={chat_template!r}: use 'plain', a Jinja template or a file with one")
            tokenizer.chat_template = path.read_text(encoding="utf-8")
        else:
            tokenizer.chat_template = chat_template
    return tokenizer


def end_tokens(folder: str, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer: the tokenizer's, and those of the generation configuration (Gemma ends a turn with its own).

    >>> from lens_steer.folders import locate
    >>> folder = locate("organism/gemma2")
    >>> len(end_tokens(folder, read_tokenizer(folder)))
    1
    """
    from transformers import GenerationConfig

    try:
        found = GenerationConfig.from_pretrained(folder, local_files_only=only_here(folder)).eos_token_id
    except OSError:
        found = None
    listed = found if isinstance(found, list) else [found]
    return tuple(sorted({token for token in (*listed, tokenizer.eos_token_id) if token is not None}))
