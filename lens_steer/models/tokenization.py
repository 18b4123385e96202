"""The tokenizer of a model, prepared for left-padded batches and chats, and the tokens that end its answers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lens_steer.errors import LensSteerError, first_line
from lens_steer.models.hub import only_here
from lens_steer.models.huggingface import is_gguf, source
from lens_steer.models.templates import PLAIN_TEMPLATE, fix_template

# Each of these files holds a vocabulary. Without one, some tokenizer classes of Transformers are returned empty, and
# others fail with different errors.
VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
    "tekken.json",
)  # fmt: skip


def read_tokenizer(
    folder: str,
    chat_template: str | None = None,
    template_args: Mapping[str, Any] | None = None,
    template_date: str | None = None,
) -> Any:
    """Read the tokenizer of a folder or a hub name, with padding on the left and a fixed chat template.

    See :func:`lens_steer.models.templates.fix_template`.

    Args:
        folder: The folder, file or hub name; see :func:`lens_steer.models.location.locate`.
        chat_template: ``"plain"`` (``User: …``), a Jinja template, or a file with one. None: the tokenizer's own
            template.
        template_args: The arguments of the template besides the messages. None: no arguments.
        template_date: The date that the template writes. None: see :meth:`lens_steer.models.templates.ChatTemplate.of`.

    Raises:
        LensSteerError: If the folder holds no tokenizer, if a file does not exist, or if the template does not use an
            argument or the date.

    >>> from lens_steer.models.location import locate
    >>> read_tokenizer(locate("organism/qwen2"), "{{ messages[0]['content'] }}").padding_side
    'left'
    """
    from transformers import AutoTokenizer

    if Path(folder).is_dir() and not any((Path(folder) / name).exists() for name in VOCABULARIES):
        raise LensSteerError(
            f"model folder {folder!r} has no tokenizer: put its files (tokenizer.json, tokenizer_config.json) beside "
            "config.json"
        )
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(**source(folder))
    except Exception as error:  # Transformers raises many types of exceptions; the user gets one line.
        raise LensSteerError(f"the tokenizer of {folder!r} cannot be read: {first_line(error)}") from None
    tokenizer.padding_side = "left"
    if chat_template is not None:
        tokenizer.chat_template = template_text(chat_template)
    fix_template(tokenizer, template_args, template_date)
    return tokenizer


def template_text(given: str, named: str = "chat_template") -> str:
    """Return the Jinja text that the argument ``chat_template`` stands for: itself, ``plain``, or the text of a file.

    Args:
        given: The argument.
        named: Its name, for messages.

    Raises:
        LensSteerError: If it is none of them, or if the file is empty or no UTF-8 text.

    >>> template_text("plain") == PLAIN_TEMPLATE, template_text("{{ messages }}")
    (True, '{{ messages }}')
    """
    if given == "plain":
        return PLAIN_TEMPLATE
    if len(given) >= 500 or "{" in given:
        return given
    if not Path(given).is_file():
        raise LensSteerError(f"{named}={given!r}: use 'plain', a Jinja template or a file with one")
    try:
        text = Path(given).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise LensSteerError(f"{named}={given!r}: the file is no UTF-8 text: save it as UTF-8") from None
    if not text.strip():
        raise LensSteerError(f"{named}={given!r}: the file is empty: put a Jinja template into it")
    return text


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a text that is no chat, with the special tokens that the tokenizer adds.

    A text that already begins with the beginning-of-sequence token gets no special tokens.

    >>> from lens_steer.models.location import locate
    >>> tokenizer = read_tokenizer(locate("organism/llama"))
    >>> len(plain_ids(tokenizer, tokenizer.bos_token)), len(plain_ids(tokenizer, ""))
    (1, 0)
    """
    begun = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    return list(tokenizer(text, add_special_tokens=not begun, truncation=False)["input_ids"])


def pad_id(tokenizer: Any) -> int:
    """Return the token id that fills a row on the left; it is always masked.

    It is the padding token of the tokenizer, otherwise its end token, otherwise its beginning-of-sequence token,
    otherwise token 0.

    >>> from lens_steer.models.location import locate
    >>> tokenizer = read_tokenizer(locate("organism/qwen2"))
    >>> pad_id(tokenizer) == tokenizer.pad_token_id
    True
    """
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    return next((token for token in known if token is not None), 0)


def end_tokens(folder: str, tokenizer: Any) -> tuple[int, ...]:
    """Return the ids of the tokens that end an answer.

    They are the end token of the tokenizer and those of the generation configuration (Gemma ends a turn with a separate
    token).

    >>> from lens_steer.models.location import locate
    >>> folder = locate("organism/gemma2")
    >>> len(end_tokens(folder, read_tokenizer(folder)))
    1
    """
    from transformers import GenerationConfig

    found = None
    if not is_gguf(folder):
        with suppress(OSError):
            found = GenerationConfig.from_pretrained(folder, local_files_only=only_here(folder)).eos_token_id
    listed = found if isinstance(found, list) else [found]
    return tuple(sorted({token for token in (*listed, tokenizer.eos_token_id) if token is not None}))
