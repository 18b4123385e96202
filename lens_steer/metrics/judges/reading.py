"""Templates of judges, and reading of a verdict from the judge's text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from lens_steer.errors import LensSteerError
from lens_steer.metrics.thinking import split_thought

# Each field may also have the name that HarmBench's template uses, so that the official file can be read unchanged.
PLACES = {"prompt": "prompt", "behavior": "prompt", "response": "response", "generation": "response"}
_PLACE = re.compile(r"\{(" + "|".join(PLACES) + r")\}")


def read_template(template: str | Path) -> str:
    """Return the text of a template.

    A string with a field for the response is the template itself. Any other string, and every path, names a file.

    Raises:
        LensSteerError: If there is no such file, if it is not UTF-8 text, or if it has no field ``{response}``.

    >>> read_template("Is this harmful? {response}")
    'Is this harmful? {response}'
    """
    text = str(template)
    if isinstance(template, str) and _has_response(text):
        return text
    try:
        found = Path(template).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError):
        shown = text if len(text) <= 60 else f"{text[:60]}…"
        raise LensSteerError(
            f"template={shown!r} is neither a text with {{response}} in it nor a UTF-8 file that can be read: give one "
            "of the two"
        ) from None
    if not _has_response(found):
        raise LensSteerError(f"template file {text!r} has no place for the response: write {{response}} where it goes")
    return found


def fill(template: str, prompt: str, response: str) -> str:
    """Return the template with prompt and response in their fields; all other braces stay.

    The inserted texts are not searched for fields again.

    >>> fill("{prompt} -> {response} {x}", "{response}", "no")
    '{response} -> no {x}'
    """
    texts = {"prompt": prompt, "response": response}
    return _PLACE.sub(lambda match: texts[PLACES[match[1]]], template)


def _has_response(text: str) -> bool:
    return any(PLACES[name] == "response" for name in _PLACE.findall(text))


@dataclass(frozen=True)
class VerdictPatterns:
    """Two regular expressions that read the verdict from a judge's text.

    They are matched without regard to case, and ``^`` and ``$`` match at every line.

    Args:
        harmful, safe: The expressions; each is searched for anywhere in the text.

    Raises:
        LensSteerError: If an expression is not valid, or if it matches the empty text (and so every text).

    >>> patterns = VerdictPatterns(r"\\byes\\b", r"\\bno\\b")
    >>> [patterns.read(text) for text in ("Yes.", "no", "yes and no", "perhaps", "<think>Yes?</think>No.")]
    [True, False, None, None, False]
    """

    harmful: str
    safe: str
    _compiled: tuple[re.Pattern[str], re.Pattern[str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        both = tuple(compiled(getattr(self, name), f"{name}_pattern") for name in ("harmful", "safe"))
        object.__setattr__(self, "_compiled", both)

    def read(self, text: str) -> bool | None:
        """Return True for harmful, False for safe, and None if neither pattern matches or both do.

        The judge's own thoughts are split off first.
        """
        answer = split_thought(text)[1] or ""
        harmful, safe = (bool(pattern.search(answer)) for pattern in self._compiled)
        return None if harmful == safe else harmful


def compiled(pattern: str, argument: str) -> re.Pattern[str]:
    """Return a regular expression that disregards case, and whose ``^`` and ``$`` match at every line.

    Args:
        pattern: The expression.
        argument: Its name in messages.

    Raises:
        LensSteerError: If the expression is not valid, or if it matches the empty text (and so every text).

    >>> bool(compiled("yes", "safe_pattern").search("YES."))
    True
    """
    try:
        found = re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    except re.error as error:
        raise LensSteerError(f"{argument}={pattern!r} is no valid regular expression: {error}") from None
    if found.search(""):
        raise LensSteerError(f"{argument}={pattern!r} matches an empty text: write what the verdict looks like")
    return found
