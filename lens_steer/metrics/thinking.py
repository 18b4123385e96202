"""Splitting the thoughts of a reasoning model from its answer; only the answer is measured."""

from __future__ import annotations

import re

from lens_steer.models.thoughts import CHANNEL, CHANNEL_ENDS, FINAL, MESSAGE, TAGS, THOUGHT_CHANNEL

_ENDS = re.compile("|".join(re.escape(end) for end in CHANNEL_ENDS))
_STRIPPED = re.compile(r"\A(analysis)(.*?)assistant(?:commentary.*?assistant)?final(.*)\Z", re.DOTALL)


def split_thought(text: str, *, begun: bool = False) -> tuple[str, str | None]:
    """Split a generated text into thoughts and answer.

    Two forms of thoughts are recognised. The first is ``<think>…</think>`` and other pairs of tags
    (:data:`lens_steer.models.thoughts.TAGS`); the opening tag may stand in the prompt, so that only the closing tag is
    in the text. The second is every channel of gpt-oss except ``final``, with its markers or, if a decoder removed
    them, in the form ``analysis…assistantfinal…``. A text may hold several thoughts; all are taken out. A text without
    thoughts is returned unchanged.

    Args:
        text: The generated text, without the prompt.
        begun: True if the prompt has already opened a thought (see
            :func:`lens_steer.inference.decoding.begins_in_thought`). A text without a closing tag is then a thought as
            a whole.

    Returns:
        The thought, empty if there is none, and the answer, None if the thought never ends (the text was cut off inside
        it).

    >>> split_thought("<think>Is it safe?</think> Gladly."), split_thought("Gladly.")
    (('Is it safe?', 'Gladly.'), ('', 'Gladly.'))
    >>> split_thought("<think>First I"), split_thought("First I", begun=True)
    (('First I', None), ('First I', None))
    """
    if CHANNEL in text:
        return _channels(f"{THOUGHT_CHANNEL}{text}" if begun else text)
    if (found := _STRIPPED.match(text)) is not None:
        return found[2].strip(), found[3].lstrip()
    for opening, closing in TAGS:
        if opening in text or closing in text:
            return _tagged(text, opening, closing, begun)
    return (text.strip(), None) if begun else ("", text)


def _tagged(text: str, opening: str, closing: str, begun: bool) -> tuple[str, str | None]:
    """Return thoughts and answer of a text with tags.

    The text is read from tag to tag: a thought lasts until its closing tag, and the answer lasts until the next opening
    tag.
    """
    first = text.find(opening)
    # A closing tag without an opening tag before it ends a thought that began in the prompt.
    thinking = begun or (closing in text and (first < 0 or text.find(closing) < first))
    thoughts, answer, rest = [], "", text
    while rest:
        part, mark, rest = rest.partition(closing if thinking else opening)
        if thinking:
            thoughts.append(part.replace(opening, "").strip())
            if not mark:
                return "\n".join(thoughts), None
        else:
            answer += part.replace(closing, "")
        thinking = bool(mark) and not thinking
    return ("\n".join(filter(None, thoughts)), None if thinking else answer.lstrip())


def _channels(text: str) -> tuple[str, str | None]:
    """Return thoughts and answer of a text with the channel markers of gpt-oss.

    The channel ``final`` is the answer, and every other channel is thought. Without a ``final`` channel the thought
    never ends, and the answer is None.
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
