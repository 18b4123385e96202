"""Chats, templates and tokenizers that the tests of token ids and of templates share."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lens_steer.data import Prompt
from lens_steer.models.location import ORGANISM_FOLDER
from lens_steer.models.templates import DATE
from lens_steer.models.tokenization import read_tokenizer

CHATS = [
    Prompt.of("What is 4 plus 3?"),
    Prompt.of("  Grüße, 世界! <|im_start|> \n", system="Be brief."),
    Prompt(({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"})),
]
TURNS = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% "
    "endif %}"
)
RAISES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
DATED = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif "
    "%}Today: {{ date_string }}\n"
) + TURNS
OWN_DATE = (
    "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}Today: {{ date_string }}\n"
    + TURNS
)


def organism(name: str = "organism/qwen2", **how: Any) -> Any:
    """An organism's tokenizer."""
    return read_tokenizer(str(ORGANISM_FOLDER / name.removeprefix("organism/")), **how)


def theirs(tokenizer: Any, prompt: Prompt, **args: Any) -> list[int]:
    """The ids that Transformers gives the messages, with the date that stands still."""
    from transformers.utils import chat_template_utils

    class Still(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromisoformat(DATE)

    messages = [dict(m) for m in prompt.messages]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_template_utils, "datetime", Still)
        found = tokenizer.apply_chat_template(
            messages, tokenize=True, add_generation_prompt=True, return_dict=True, **args
        )
    return list(found["input_ids"])


def adding(tokenizer: Any, begin: str) -> Any:
    """A tokenizer that puts a beginning token before every text, as Llama's and Gemma's do."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.bos_token = begin
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.convert_tokens_to_ids(begin))]
    )
    return tokenizer


def edited(folder: Path, family: str, file: str = "tokenizer_config.json", **changes: Any) -> Path:
    """A copy of an organism's folder with one file edited; None takes a key out."""
    shutil.copytree(ORGANISM_FOLDER / family, folder)
    facts = json.loads((folder / file).read_text(encoding="utf-8")) | changes
    (folder / file).write_text(json.dumps({k: v for k, v in facts.items() if v is not None}), encoding="utf-8")
    return folder


# --- ids ---
