"""A model's tokenizer, ready for left-padded batches, its chat template, and the tokens that end its answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lens_steer.errors import LensSteerError, first_line
from lens_steer.models.hub import only_here
from lens_steer.models.huggingface import is_gguf, source
from lens_steer.models.templates import PLAIN_TEMPLATE, fix_template

# any of these holds a vocabulary; without one some of Transformers' classes come back empty, others fail each in its
# own way
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
    """The tokenizer of a folder or a hub name, padding on the left, its template fixed
    (:func:`lens_steer.models.templates.fix_template`).

    Args:
        folder: see :func:`lens_steer.models.location.locate`.
        chat_template: ``"plain"`` (``User: …``), a Jinja template, or a file with one; the tokenizer's own unless
            given.
        template_args: what the template is given beside the messages.
        template_date: the date that it writes.

    Raises:
        LensSteerError: a folder without a tokenizer, a file that does not exist, arguments or a date that the template
            has no use for.

    >>> from lens_steer.models.location import locate
    >>> read_tokenizer(locate("organism/qwen2"), "{{ messages[0]['content'] }}").padding_side
    'left'
    """
    from transformers import AutoTokenizer

    local = Path(folder).is_dir()
    missing = (
        f"model folder {folder!r} has no tokenizer: put its files (tokenizer.json, tokenizer_config.json) beside "
        "config.json"
    )
    if local and not any((Path(folder) / name).exists() for name in VOCABULARIES):
        raise LensSteerError(missing)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(**source(folder))
    except Exception as error:  # the library raises many kinds; the user needs one line
        raise LensSteerError(f"the tokenizer of {folder!r} cannot be read: {first_line(error)}") from None
    tokenizer.padding_side = "left"
    if chat_template is not None:
        tokenizer.chat_template = _template_text(chat_template)
    fix_template(tokenizer, template_args, template_date)
    return tokenizer


def _template_text(given: str) -> str:
    """The Jinja of ``chat_template=``."""
    if given == "plain":
        return PLAIN_TEMPLATE
    if len(given) >= 500 or "{" in given:
        return given
    if not Path(given).is_file():
        raise LensSteerError(f"chat_template={given!r}: use 'plain', a Jinja template or a file with one")
    return Path(given).read_text(encoding="utf-8")


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that is no chat, with the special tokens that the tokenizer adds; a text that begins with the
    beginning token gets no second one.

    >>> from lens_steer.models.location import locate
    >>> tokenizer = read_tokenizer(locate("organism/llama"))
    >>> len(plain_ids(tokenizer, tokenizer.bos_token)), len(plain_ids(tokenizer, ""))
    (1, 0)
    """
    begun = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    return list(tokenizer(text, add_special_tokens=not begun, truncation=False)["input_ids"])


def pad_id(tokenizer: Any) -> int:
    """What fills up a row on the left: the tokenizer's padding token, else its end or beginning token, else token 0; it
    is always masked.

    >>> from lens_steer.models.location import locate
    >>> tokenizer = read_tokenizer(locate("organism/qwen2"))
    >>> pad_id(tokenizer) == tokenizer.pad_token_id
    True
    """
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    return next((token for token in known if token is not None), 0)


def end_tokens(folder: str, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer: the tokenizer's, and those of the generation configuration (Gemma ends a turn with
    its own).

    >>> from lens_steer.models.location import locate
    >>> folder = locate("organism/gemma2")
    >>> len(end_tokens(folder, read_tokenizer(folder)))
    1
    """
    from transformers import GenerationConfig

    try:
        found = (
            None
            if is_gguf(folder)
            else GenerationConfig.from_pretrained(folder, local_files_only=only_here(folder)).eos_token_id
        )
    except OSError:
        found = None
    listed = found if isinstance(found, list) else [found]
    return tuple(sorted({token for token in (*listed, tokenizer.eos_token_id) if token is not None}))
