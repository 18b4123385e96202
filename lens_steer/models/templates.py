"""Chat templates with their arguments and their date.

Besides the tokenizer, they decide the token ids of a prompt, so artifacts record them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date as calendar_date
from functools import lru_cache
from typing import Any

from lens_steer.errors import LensSteerError

log = logging.getLogger(__name__)

DATE = "2025-01-01"  # The date for templates that ask for today's date, so that token ids are the same on every day.
# The directives of strftime, including those of the C library that templates use.
DIRECTIVES = ("-d", "-m", "-I", "-H", "-j", *"aAwdbBmyYHIpMSfjUWcxXGuVFTDReklshznt")
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
# Arguments that this library sets, or that apply_chat_template has as parameters of the same names.
RESERVED = (
    "messages", "conversation", "chat_template", "tokenize", "add_generation_prompt", "continue_final_message",
    "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
    "tokenizer_kwargs", "sanitize_control_tokens", "strftime_now", "raise_exception",
)  # fmt: skip


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template, which turns messages into text, with its arguments and its date.

    Attributes:
        text: The Jinja template; empty if the tokenizer has none.
        args: The arguments of the template besides the messages, such as ``{"enable_thinking": False}``.
        date: The date that the template writes, as ``YYYY-MM-DD``; None if it writes no date or has a fixed date
            itself.

    >>> thinking = ChatTemplate.of("{% if enable_thinking %}…{% endif %}", {"enable_thinking": False})
    >>> thinking.args, thinking.date, ChatTemplate.of("{{ strftime_now('%Y') }}").date
    ({'enable_thinking': False}, None, '2025-01-01')
    """

    text: str
    args: Mapping[str, Any] = field(default_factory=dict)
    date: str | None = None

    @classmethod
    def of(cls, text: str, args: Mapping[str, Any] | None = None, date: str | None = None) -> ChatTemplate:
        """Return a template with arguments and a date, after a check that the template uses them.

        If no date is given, a template that would write today's date gets :data:`DATE`.

        Raises:
            LensSteerError: If the arguments are no mapping of plain values or the template does not use them, or if the
                date is invalid or the template does not use a date.
        """
        if args is not None and not isinstance(args, Mapping):
            raise LensSteerError(
                f"template_args={args!r}: give names with values, such as {{'enable_thinking': False}}"
            )
        given = dict(args or {})
        for name, value in given.items():
            if isinstance(value, str) and value.lower() in ("true", "false"):
                raise LensSteerError(
                    f"template_args: {name}={value!r} is a text, which counts as true: write {value.lower()} without "
                    "quotation marks (in Python True or False)"
                )
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
        """The SHA-256 hash of the template's text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def short(self) -> str:
        """The first twelve hexadecimal digits of a hash of template, arguments and date together."""
        whole = json.dumps([self.text, dict(self.args), self.date], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(whole.encode()).hexdigest()[:12]

    @property
    def plain(self) -> bool:
        """True if the template writes no special tokens, so that the tokenizer adds its own as for any text."""
        return self.text == PLAIN_TEMPLATE

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of ``tokenizer.apply_chat_template`` besides the messages.

        They are the template arguments, and the date in the form in which the template asks for it.
        """
        given = dict(self.args)
        if self.date is None:
            return given
        when = calendar_date.fromisoformat(self.date)
        if _asks(self.text, "date_string"):  # Llama 3 uses this argument.
            given.setdefault("date_string", when.strftime("%d %b %Y"))
        return given | {"chat_template": _clock(when) + self.text} if _asks(self.text, "strftime_now") else given

    def row(self) -> dict[str, Any]:
        """Return the record that artifacts store.

        It holds the hash of the text, the arguments, the date, :attr:`short`, and the text.

        >>> ChatTemplate("Hi").row()["hash"][:8], sorted(ChatTemplate("Hi").row())
        ('3639efcd', ['args', 'date', 'hash', 'short', 'text'])
        """
        return {"hash": self.hash, "args": dict(self.args), "date": self.date, "short": self.short, "text": self.text}

    @classmethod
    def read(cls, row: Mapping[str, Any] | None) -> ChatTemplate | None:
        """Return the template that :meth:`row` recorded; None if nothing was recorded.

        Raises:
            LensSteerError: If parts of the record are missing.

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
        """Describe in words in what two templates differ.

        >>> ChatTemplate("Hi", {"a": 1}).differences(ChatTemplate("Hi"))
        ("args {'a': 1} and {}",)
        """
        texts = () if self.text == other.text else (f"template {self.hash[:12]} and {other.hash[:12]}",)
        pairs = (("args", dict(self.args), dict(other.args)), ("date", self.date, other.date))
        return (*texts, *(f"{name} {a} and {b}" for name, a, b in pairs if a != b))


def template_of(tokenizer: Any) -> ChatTemplate:
    """Return the template that a tokenizer applies, with the arguments and the date that :func:`fix_template` set.

    If :func:`fix_template` was not called, it is the tokenizer's template without arguments and with the default date.
    """
    text = _text(tokenizer)
    kept = getattr(tokenizer, "lens_template", None)
    return kept if isinstance(kept, ChatTemplate) and kept.text == text else ChatTemplate.of(text)


def fix_template(tokenizer: Any, args: Mapping[str, Any] | None = None, date: str | None = None) -> None:
    """Set the arguments and the date with which the template of a tokenizer is applied.

    Raises:
        LensSteerError: As :meth:`ChatTemplate.of`, and if arguments or a date are given for a tokenizer without a
            template.
    """
    text = _text(tokenizer)
    if not text and (args or date):
        raise LensSteerError(
            "template_args and template_date are for a chat template, and the model has none: give chat_template"
        )
    vars(tokenizer)["lens_template"] = ChatTemplate.of(text, args, date)


@contextmanager
def another_template(tokenizer: Any, text: str) -> Iterator[None]:
    """Let a tokenizer apply another chat template within the context, without arguments and with the default date.

    Args:
        tokenizer: The tokenizer; after the context it has its own template again, with its arguments and its date.
        text: The Jinja template.

    >>> from lens_steer.models.location import locate
    >>> from lens_steer.models.tokenization import read_tokenizer
    >>> tokenizer = read_tokenizer(locate("organism/qwen2"))
    >>> with another_template(tokenizer, PLAIN_TEMPLATE):
    ...     template_of(tokenizer).plain
    True
    >>> template_of(tokenizer).plain
    False
    """
    own, kept = getattr(tokenizer, "chat_template", None), vars(tokenizer).get("lens_template")
    tokenizer.chat_template = text
    try:
        fix_template(tokenizer)
        yield
    finally:
        tokenizer.chat_template, vars(tokenizer)["lens_template"] = own, kept


def tell_difference(made: Any, model_template: ChatTemplate, told: set[tuple[str, str]]) -> None:
    """Warn if an artifact was made under another template, other arguments or another date than the model's.

    Each pair of templates is warned about only once.

    Args:
        made: A calibration, a plan or a probe. If it has no recorded template, there is no warning.
        model_template: The template of the model that is steered.
        told: The pairs that were warned about; a new pair is added.
    """
    own = getattr(made, "template", None)
    if not isinstance(own, ChatTemplate) or own == model_template or (own.short, model_template.short) in told:
        return
    told.add((own.short, model_template.short))
    log.warning(
        "the %s was made with another chat template than the model is loaded with (%s): its prompts had other token "
        "ids",
        type(made).__name__,
        "; ".join(own.differences(model_template)),
    )


@lru_cache(maxsize=8)
def _clock(when: calendar_date) -> str:
    """Return Jinja code that defines a ``strftime_now`` with a fixed date, to be put before a template.

    The code is a macro, because Transformers passes no functions of the caller to a template.
    """
    # Each directive such as %Y is replaced by its text for the fixed date. The escaped %% is replaced by a NUL
    # character first and put back as % at the end, so that the percent sign of %%Y does not start a directive.
    written = "".join(f" | replace({d!r}, {when.strftime(d)!r})" for d in ("%" + letter for letter in DIRECTIVES))
    return (
        f"{{%- macro strftime_now(format) -%}}{{{{ format | replace('%%', '\x00'){written} | replace('\x00', '%') "
        f"}}}}{{%- endmacro -%}}"
    )


def _text(tokenizer: Any) -> str:
    """Return the Jinja text of the template; of several templates the default one; empty if there is none."""
    found = getattr(tokenizer, "chat_template", None)
    if isinstance(found, Mapping):
        found = found.get("default")
    return found or ""


def _asks(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None
