"""Positions: how it is written which tokens are steered.

Positions are written as terms joined by ``+``. A term is ``all``, ``prompt``, ``generated``, ``thought`` or ``answer``,
alone, with an index, or with a slice::

    all                         every token (padding is never steered)
    prompt[-1]                  the last token of each prompt, which decides the first token of the answer
    generated[:5]               the first five tokens of the answer, as inputs: they decide the second to the sixth
    prompt[-1]+generated        all tokens that decide the tokens of the answer
    thought                     what a reasoning model writes between its marks of a thought, without the marks
    answer[:5]                  the first five tokens that it writes outside of thoughts
    all[3]+all[7]               explicit positions, counted from the first token of each prompt
    reused(16)                  the tokens of each prompt that a prefix cache of blocks of 16 tokens hands over
    recomputed(16)+generated    all other tokens: the rest of each prompt, and the answer

A serving engine with a prefix cache takes over the keys and values of whole blocks of tokens from an earlier request,
and computes the rest of the prompt again, at least its last token. Which tokens these are depends on the length of each
prompt; see :func:`n_reused`. In a conversation, the prompt of a turn is everything before its answer.

``generated`` is everything that the model writes: thoughts, marks and answer. The marks are those of the model
(:mod:`lens_steer.models.thoughts`); a model without any that are known has no segments, and says so. Which token is in
which segment is told in :mod:`lens_steer.inference.segments`.

``response`` is another word for ``generated``: a fixed response (teacher forcing) counts as generated. In a
conversation (:func:`lens_steer.converse`) every turn has its own prompt and its own answer. ``generated[:5]`` means the
first five tokens of each answer, and ``prompt[-1]`` means the token before each answer. Positions counted from the
front of ``prompt`` or ``all`` are counted from the first token of the conversation.

:func:`lens_steer.generate` and :func:`lens_steer.record` know where each prompt ends. A forward that the user calls
directly needs the context manager :func:`lens_steer.inference.clock.running`, which tells it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from jaxtyping import Int
from torch import Tensor

from lens_steer.errors import LensSteerError

_TERM = re.compile(r"(all|prompt|generated|thought|answer)(?:\[(-?\d+)\]|\[(-?\d*):(-?\d*)\])?")
_BLOCKS = re.compile(r"(reused|recomputed)\((\d+)\)")
# What a model writes, in the words of first_steered.
_WRITTEN = {"generated": "answer", "thought": "thought", "answer": "answer, thoughts apart"}
BLOCK = 16  # the tokens of a block in the prefix cache of vLLM, unless it is told another number
HOW = (
    "use all, prompt, generated, an index or a slice of one such as prompt[-1] or generated[:5], thought or answer "
    "on a reasoning model, reused(16) or recomputed(16) for the blocks of a prefix cache, several joined by +"
)


@dataclass(frozen=True)
class Term:
    """A contiguous range of tokens, ``region[start:stop]``; None leaves that end open.

    Attributes:
        region: ``all``, ``prompt``, ``generated``, its segments ``thought`` and ``answer``, or the parts ``reused`` and
            ``recomputed`` of the prompt.
        start, stop: The ends of the slice; None for the two parts of the prompt, which have no slice.
        block: The number of tokens in a block of the prefix cache; 0 for the other regions.
    """

    region: str
    start: int | None
    stop: int | None
    block: int = 0


def parse(positions: str) -> tuple[Term, ...]:
    """Parse a specification of positions into its terms.

    Raises:
        LensSteerError: If a term is not understood, if a slice is empty, if a position is counted from the end of
            anything but the prompt, because that end is not known, or if a block has no token.

    >>> parse("prompt[-1]+generated[:5]")[0]
    Term(region='prompt', start=-1, stop=None, block=0)
    """
    terms = []
    for part in positions.split("+"):
        if blocks := _BLOCKS.fullmatch(part.strip()):
            if not int(blocks[2]):
                raise LensSteerError(f"positions={positions!r}: a block of 0 tokens holds no token; {HOW}")
            terms.append(Term(blocks[1], None, None, int(blocks[2])))
            continue
        match = _TERM.fullmatch(part.strip())
        if match is None:
            raise LensSteerError(f"positions={positions!r}: {part.strip()!r} is not understood; {HOW}")
        region, index, first, last = match.groups()
        start, stop = (int(first) if first else None), (int(last) if last else None)
        if index is not None:
            start, stop = int(index), (int(index) + 1 or None)
        if region != "prompt" and ((start or 0) < 0 or (stop or 0) < 0):
            raise LensSteerError(f"positions={positions!r}: only a prompt can be counted from its end; {HOW}")
        same_sign = start is not None and stop is not None and (start < 0) == (stop < 0)
        if stop == 0 or (same_sign and start >= stop):  # type: ignore[operator]
            raise LensSteerError(f"positions={positions!r}: {part.strip()!r} holds no token; {HOW}")
        terms.append(Term(region, start, stop))
    return tuple(terms)


def normalized(positions: str | Sequence[int]) -> str:
    """Return the specification in the form in which a plan stores it.

    A sequence of integers is read as explicit positions (``all[3]+all[7]``), and ``response`` becomes ``generated``.

    >>> normalized((3, 7)), normalized("prompt[-1] + response[:2]")
    ('all[3]+all[7]', 'prompt[-1]+generated[:2]')
    """
    if not isinstance(positions, str):
        positions = "+".join(f"all[{p}]" for p in positions)
    positions = re.sub(r"\bresponse\b", "generated", positions)
    parse(positions)
    return positions.replace(" ", "")


def first_steered(positions: str) -> str:
    """Describe the first steered token in words.

    What a prefix cache hands over depends on the length of each prompt, so it is described and has no number.

    >>> first_steered("prompt[-1]+generated")
    'token -1 of the prompt'
    >>> first_steered("recomputed(16)+generated")
    'the first token of the prompt that a prefix cache with blocks of 16 does not hand over'
    >>> first_steered("prompt[5]+recomputed(16)")
    'token 5 of the prompt, or the first one that a prefix cache with blocks of 16 does not hand over'
    """

    def place(t: Term) -> tuple[bool, bool, bool, int, int]:
        return t.region in _WRITTEN, (t.start or 0) < 0, t.region == "recomputed", t.start or 0, t.block

    terms = parse(positions)
    term = min(terms, key=place)
    if term.block:
        what = "hands over, if any" if term.region == "reused" else "does not hand over"
        return f"the first token of the prompt that a prefix cache with blocks of {term.block} {what}"
    if term.region == "all":
        found = f"token {term.start or 0}, counted from the prompt's first"
    elif term.region == "prompt":
        found = f"token {term.start or 0} of the prompt"
    else:  # where a segment begins is not known before the model writes
        firsts = {t.region: min(u.start or 0 for u in terms if u.region == t.region) for t in terms}
        parts = [f"token {firsts[region]} of the {words}" for region, words in _WRITTEN.items() if region in firsts]
        found = " or ".join(parts) + (", whichever comes first" if len(parts) > 1 else "")
    rest = [t.block for t in terms if t.region == "recomputed"]
    if not rest or not term.start:  # nothing of the prompt is earlier than its token 0
        return found
    return f"{found}, or the first one that a prefix cache with blocks of {rest[0]} does not hand over"


@overload
def n_reused(length: int, block: int = BLOCK) -> int: ...
@overload
def n_reused(length: Int[Tensor, "*batch"], block: int = BLOCK) -> Int[Tensor, "*batch"]: ...
def n_reused(length: int | Int[Tensor, "*batch"], block: int = BLOCK) -> int | Int[Tensor, "*batch"]:
    """Return how many tokens of a prompt a prefix cache hands over: ``block ⌊(length − 1) / block⌋``.

    A cache holds whole blocks alone. The last token of the prompt is always computed, because its logits give the first
    token of the answer; where the last block would end with it, that whole block is computed again. This is what vLLM
    does, with blocks of 16 tokens by default.

    Args:
        length: The number of tokens of the prompt, template included.
        block: The number of tokens in a block.

    Raises:
        LensSteerError: If the block is not at least 1.

    >>> [n_reused(length) for length in (1, 16, 17, 32, 33)]
    [0, 0, 16, 16, 32]
    """
    if block < 1:
        raise LensSteerError(f"block={block}: give the number of tokens in a block of the prefix cache, at least 1")
    return (length - 1) // block * block
