"""Filling a judge's template, and reading a verdict from what the judge wrote."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from lens_steer.errors import LensSteerError
from lens_steer.metrics.thinking import split_thought

# A place is also found under the name that HarmBench's template gives it, so that the official file can be read as it
# is.
PLACES = {"prompt": "prompt", "behavior": "prompt", "response": "response", "generation": "response"}
_PLACE = re.compile(r"\{(" + "|".join(PLACES) + r")\}")


def read_template(template: str | Path) -> str:
    """A template's text: the string itself where it has a place for the response, else the file of that name.

    Raises:
        LensSteerError: no such file, or no ``{response}`` in it.

    >>> read_template("Is this harmful? {response}")
    'Is this harmful? {response}'
    """
    text = str(template)
    if isinstance(template, Path) or not _has_response(text):
        text = read_text(template, "template")
        if not _has_response(text):
            raise LensSteerError(
                f"template file {str(template)!r} has no place for the response: write {{response}} where it goes"
            )
    return text


def read_text(source: str | Path, argument: str) -> str:
    """The text of a file that an argument names.

    Raises:
        LensSteerError: no such file, or one that is not UTF-8 text.
    """
    shown = str(source) if len(str(source)) <= 60 else f"{str(source)[:60]}…"
    try:
        return Path(source).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError):
        raise LensSteerError(
            (
                f"{argument}={shown!r} is neither a text with {{response}} in it nor a UTF-8 file that can be read: "
                "give one of the two"
            )
            if argument == "template"
            else f"{argument}={shown!r} is no UTF-8 file that can be read"
        ) from None


def fill(template: str, prompt: str, response: str) -> str:
    """The template with both texts in their places, all other braces as they are; what is filled in is not searched for
    places again.

    >>> fill("{prompt} -> {response} {x}", "{response}", "no")
    '{response} -> no {x}'
    """
    texts = {"prompt": prompt, "response": response}
    return _PLACE.sub(lambda match: texts[PLACES[match[1]]], template)


def _has_response(text: str) -> bool:
    return any(PLACES[name] == "response" for name in _PLACE.findall(text))


@dataclass(frozen=True)
class VerdictPatterns:
    """Two regular expressions that say what a judge's text means, without regard to case; ``^`` and ``$`` match at
    every line.

    Args:
        harmful, safe: searched for anywhere in the text.

    Raises:
        LensSteerError: no valid regular expression, or one that matches the empty text (and so everything).

    >>> patterns = VerdictPatterns(r"\\byes\\b", r"\\bno\\b")
    >>> [patterns.read(text) for text in ("Yes.", "no", "yes and no", "perhaps", "<think>Yes?</think>No.")]
    [True, False, None, None, False]
    """

    harmful: str
    safe: str
    _compiled: tuple[re.Pattern[str], re.Pattern[str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        compiled = tuple(_compile(getattr(self, name), f"{name}_pattern") for name in ("harmful", "safe"))
        object.__setattr__(self, "_compiled", compiled)

    def read(self, text: str) -> bool | None:
        """True for harmful, False for safe, None where neither pattern matches, or both do; a judge's own thoughts are
        split off first.
        """
        answer = split_thought(text)[1] or ""
        harmful, safe = (bool(pattern.search(answer)) for pattern in self._compiled)
        return None if harmful == safe else harmful


def _compile(pattern: str, argument: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    except re.error as error:
        raise LensSteerError(f"{argument}={pattern!r} is no valid regular expression: {error}") from None
    if compiled.search(""):
        raise LensSteerError(f"{argument}={pattern!r} matches an empty text: write what the verdict looks like")
    return compiled
