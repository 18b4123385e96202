"""A chat template with its arguments and its date: what, beside the tokenizer, decides a prompt's token ids, and what
artifacts record of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date as calendar_date
from functools import lru_cache
from typing import Any

from lens_steer.errors import LensSteerError

log = logging.getLogger(__name__)

DATE = "2025-01-01"  # what a template that asks for today's date gets, so that ids are the same on every day
DIRECTIVES = (
    "-d",
    "-m",
    "-I",
    "-H",
    "-j",
    *"aAwdbBmyYHIpMSfjUWcxXGuVFTDReklshznt",
)  # of strftime, those of the C library that templates use among them
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
# set by us, or by apply_chat_template's own parameters of these names
RESERVED = (
    "messages", "conversation", "chat_template", "tokenize", "add_generation_prompt", "continue_final_message",
    "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
    "tokenizer_kwargs", "sanitize_control_tokens", "strftime_now", "raise_exception",
)  # fmt: skip


@dataclass(frozen=True)
class ChatTemplate:
    """How messages become text.

    Attributes:
        text: Jinja; empty where a tokenizer has none.
        args: handed to the template beside the messages, such as ``{"enable_thinking": False}``.
        date: that the template writes, as ``YYYY-MM-DD``; None where it writes none, or has one of its own.

    >>> thinking = ChatTemplate.of("{% if enable_thinking %}…{% endif %}", {"enable_thinking": False})
    >>> thinking.args, thinking.date, ChatTemplate.of("{{ strftime_now('%Y') }}").date
    ({'enable_thinking': False}, None, '2025-01-01')
    """

    text: str
    args: Mapping[str, Any] = field(default_factory=dict)
    date: str | None = None

    @classmethod
    def of(cls, text: str, args: Mapping[str, Any] | None = None, date: str | None = None) -> ChatTemplate:
        """A template with arguments that it asks for, and a date if it writes one: the one given, else :data:`DATE`
        where it would write today's.

        Raises:
            LensSteerError: arguments that are no mapping of plain values, or that the template has no use for; a date
                that is none, or that the template has no use for.
        """
        if args is not None and not isinstance(args, Mapping):
            raise LensSteerError(
                f"template_args={args!r}: give names with values, such as {{'enable_thinking': False}}"
            )
        given = dict(args or {})
        for name, value in given.items():
            if not isinstance(name, str) or name in RESERVED:
                raise LensSteerError(f"template_args: {name!r} is not the caller's to set: leave it out")
            if not _asks(text, name):
                raise LensSteerError(
                    f"template_args: the chat template has no use for {name!r} (={value!r}): check the name"
                )
        try:
            plain = json.loads(json.dumps(given))
        except (TypeError, ValueError) as error:
            raise LensSteerError(f"template_args={given!r}: values must be plain, as JSON has them ({error})") from None
        today, named = _asks(text, "strftime_now"), _asks(text, "date_string")
        if date is None:
            return cls(text, plain, DATE if today else None)
        if not today and not named:
            raise LensSteerError(f"template_date={date!r}: the chat template writes no date: leave it out")
        try:
            return cls(text, plain, calendar_date.fromisoformat(date).isoformat())
        except (TypeError, ValueError):
            raise LensSteerError(f"template_date={date!r} is no date: give it as YYYY-MM-DD, such as {DATE}") from None

    @property
    def hash(self) -> str:
        """SHA-256 of the template's text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def short(self) -> str:
        """Twelve digits that stand for template, arguments and date together."""
        whole = json.dumps([self.text, dict(self.args), self.date], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(whole.encode()).hexdigest()[:12]

    @property
    def plain(self) -> bool:
        """Whether it writes no special tokens, so that the tokenizer adds its own as to any text."""
        return self.text == PLAIN_TEMPLATE

    @property
    def options(self) -> dict[str, Any]:
        """What ``tokenizer.apply_chat_template`` is called with beside the messages: the arguments, and the date as
        templates ask for it.
        """
        given = dict(self.args)
        if self.date is None:
            return given
        when = calendar_date.fromisoformat(self.date)
        if _asks(self.text, "date_string"):  # Llama 3's
            given.setdefault("date_string", when.strftime("%d %b %Y"))
        return given | {"chat_template": _clock(when) + self.text} if _asks(self.text, "strftime_now") else given

    def row(self) -> dict[str, Any]:
        """As artifacts record it: the text's hash, arguments, date, the digits that stand for all three, and the text.

        >>> ChatTemplate("Hi").row()["hash"][:8], sorted(ChatTemplate("Hi").row())
        ('3639efcd', ['args', 'date', 'hash', 'short', 'text'])
        """
        return {"hash": self.hash, "args": dict(self.args), "date": self.date, "short": self.short, "text": self.text}

    @classmethod
    def read(cls, row: Mapping[str, Any] | None) -> ChatTemplate | None:
        """What :meth:`row` wrote; None where nothing was recorded.

        Raises:
            LensSteerError: a record without its parts.

        >>> ChatTemplate.read(ChatTemplate("Hi").row()) == ChatTemplate("Hi"), ChatTemplate.read(None)
        (True, None)
        """
        if row is None:
            return None
        try:
            return cls(str(row["text"]), dict(row["args"]), row["date"])
        except (KeyError, TypeError, ValueError):
            raise LensSteerError(f"the record of a chat template lacks text, args or date: {str(row)[:80]}") from None

    def differences(self, other: ChatTemplate) -> tuple[str, ...]:
        """In what two differ, in words.

        >>> ChatTemplate("Hi", {"a": 1}).differences(ChatTemplate("Hi"))
        ("args {'a': 1} and {}",)
        """
        texts = () if self.text == other.text else (f"template {self.hash[:12]} and {other.hash[:12]}",)
        pairs = (("args", dict(self.args), dict(other.args)), ("date", self.date, other.date))
        return (*texts, *(f"{name} {a} and {b}" for name, a, b in pairs if a != b))


def template_of(tokenizer: Any) -> ChatTemplate:
    """The template that a tokenizer applies, with what :func:`fix_template` laid down; with neither arguments nor a
    date of the caller's otherwise.
    """
    text = _text(tokenizer)
    kept = getattr(tokenizer, "lens_template", None)
    return kept if isinstance(kept, ChatTemplate) and kept.text == text else ChatTemplate.of(text)


def fix_template(tokenizer: Any, args: Mapping[str, Any] | None = None, date: str | None = None) -> None:
    """Lay down with which arguments and which date a tokenizer's template is applied.

    Raises:
        LensSteerError: see :meth:`ChatTemplate.of`; arguments or a date for a tokenizer without a template.
    """
    text = _text(tokenizer)
    if not text and (args or date):
        raise LensSteerError(
            "template_args and template_date are for a chat template, and the model has none: give chat_template"
        )
    vars(tokenizer)["lens_template"] = ChatTemplate.of(text, args, date)


def tell_difference(made: Any, model_template: ChatTemplate, told: set[tuple[str, str]]) -> None:
    """Warn, once for each pair, where something was made under another template, other arguments or another date than
    the model's.

    Args:
        made: a calibration, plan or probe; without a recorded template nothing is known and nothing said.
        model_template: of the model that is steered.
        told: pairs that were warned about.
    """
    own = getattr(made, "template", None)
    if not isinstance(own, ChatTemplate) or own == model_template or (own.short, model_template.short) in told:
        return
    told.add((own.short, model_template.short))
    log.warning(
        "the %s was made with another chat template than the model is loaded with (%s): its prompts had other "
        "token ids",
        type(made).__name__,
        "; ".join(own.differences(model_template)),
    )


@lru_cache(maxsize=8)
def _clock(when: calendar_date) -> str:
    """Jinja that puts a clock that stands still before a template: a ``strftime_now`` of its own (Transformers hands no
    functions to a template).
    """
    written = "".join(f" | replace({d!r}, {when.strftime(d)!r})" for d in ("%" + letter for letter in DIRECTIVES))
    return (
        f"{{%- macro strftime_now(format) -%}}{{{{ format | replace('%%', '\x00'){written} | replace('\x00', '%') "
        f"}}}}{{%- endmacro -%}}"
    )


def _text(tokenizer: Any) -> str:
    """The template's Jinja; of several the default one; empty without any."""
    found = getattr(tokenizer, "chat_template", None)
    if isinstance(found, Mapping):
        found = found.get("default")
    return found or ""


def _asks(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None
