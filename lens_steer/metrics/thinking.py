"""The thoughts of a reasoning model, split off before anything is measured: what is said in them is no answer."""

from __future__ import annotations

import re

from lens_steer.inference.decoding import CHANNEL, CHANNEL_ENDS, MESSAGE, TAGS

FINAL = "final"  # the channel of gpt-oss that the user reads
_ENDS = re.compile("|".join(re.escape(end) for end in CHANNEL_ENDS))
_STRIPPED = re.compile(r"\A(analysis)(.*?)assistant(?:commentary.*?assistant)?final(.*)\Z", re.DOTALL)


def split_thought(text: str, *, begun: bool = False) -> tuple[str, str | None]:
    """Part a generated text into what was thought and what was answered.

    Thoughts are ``<think>…</think>`` (also ``[THINK]…[/THINK]`` and ``<seed:think>…</seed:think>``), with the opening
    in the text or in the prompt, so that only the closing shows; and every channel of gpt-oss but ``final``, with its
    markers or, where a decoder left those out, as ``analysis…assistantfinal…``. Several thoughts are all taken out. A
    text without thoughts comes back as it is.

    Args:
        text: as generated, after the prompt.
        begun: the prompt has opened a thought (see :func:`lens_steer.inference.decoding.begins_in_thought`): a text
            without a closing is all thought.

    Returns:
        The thought, empty without one; and the answer, None where the thought never ends (the text was cut off inside
        it).

    >>> (
    ...     split_thought("<think>Is it safe?</think> Gladly."),
    ...     split_thought("Is it safe?</think>No."),
    ...     split_thought("Gladly."),
    ... )
    (('Is it safe?', 'Gladly.'), ('Is it safe?', 'No.'), ('', 'Gladly.'))
    >>> split_thought("<think>First I"), split_thought("First I", begun=True)
    (('First I', None), ('First I', None))
    """
    if CHANNEL in text:
        return _channels(text)
    if (found := _STRIPPED.match(text)) is not None:
        return found[2].strip(), found[3].lstrip()
    for opening, closing in TAGS:
        if opening in text or closing in text:
            return _tagged(text, opening, closing)
    return (text.strip(), None) if begun else ("", text)


def _tagged(text: str, opening: str, closing: str) -> tuple[str, str | None]:
    """A walk from tag to tag: inside a thought until it closes, outside until the next one opens."""
    first = text.find(opening)
    thinking = closing in text and (first < 0 or text.find(closing) < first)  # a thought that began in the prompt
    thoughts, answer, rest = [], "", text
    while rest:
        part, mark, rest = rest.partition(closing if thinking else opening)
        if thinking:
            thoughts.append(part.strip())
            if not mark:
                return "\n".join(thoughts), None
        else:
            answer += part.replace(closing, "")
        thinking = bool(mark) and not thinking
    return ("\n".join(filter(None, thoughts)), None if thinking else answer.lstrip())


def _channels(text: str) -> tuple[str, str | None]:
    """Texts by channel: ``final`` is the answer, every other one is thought; no ``final`` that has begun is a thought
    that never ends.
    """
    thoughts, finals = [], []
    for part in text.split(CHANNEL)[1:]:
        name, mark, said = part.partition(MESSAGE)
        content = _ENDS.split(said)[0].strip()
        if mark and name.split(" ")[0].strip() == FINAL:
            finals.append(content)
        else:
            thoughts.append(content)
    return "\n".join(filter(None, thoughts)), "\n".join(finals) if finals else None
