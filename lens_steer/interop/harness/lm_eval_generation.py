"""What :mod:`lens_steer.interop.harness.lm_eval` is asked to generate.

Kept apart from it, since none of this needs the harness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lens_steer.errors import LensSteerError

LENGTHS = (
    "max_gen_toks",
    "max_new_tokens",
    "max_tokens",
    "max_completion_tokens",
)  # the harness's names for one thing, first come
WITHOUT_EFFECT = ("temperature", "top_p", "top_k", "min_p", "typical_p")  # on a greedy answer


@dataclass(frozen=True)
class Wanted:
    """How one answer is to be generated.

    Attributes:
        tokens: at most.
        until: stop sequences.
    """

    tokens: int
    until: tuple[str, ...]

    @classmethod
    def of(cls, asked: Mapping[str, Any], default: int) -> Wanted:
        """From a task's generation arguments.

        Raises:
            LensSteerError: sampling, fewer than one token, or an argument that would change a greedy answer.

        >>> Wanted.of({"until": "Q:", "max_gen_toks": 8, "do_sample": False}, 256)
        Wanted(tokens=8, until=('Q:',))
        """
        left = dict(asked)
        until = left.pop("until", None) or ()
        lengths = [left.pop(name, None) for name in LENGTHS]
        tokens = int(next((length for length in lengths if length is not None), default))
        sampled = left.pop("do_sample", None)
        if sampled or (sampled is None and float(left.get("temperature") or 0) > 0):
            raise LensSteerError(
                f"do_sample={sampled}, temperature={left.get('temperature')}: answers under a plan are greedy; "
                "give gen_kwargs='do_sample=False'"
            )
        if others := sorted(set(left) - set(WITHOUT_EFFECT)):
            raise LensSteerError(
                f"generation argument {others[0]}={left[others[0]]!r} is not supported: answers are greedy"
            )
        if tokens < 1:
            raise LensSteerError(f"max_gen_toks={tokens}: at least 1 is needed")
        return cls(tokens, (until,) if isinstance(until, str) else tuple(until))


def cut(text: str, until: Sequence[str]) -> str:
    """The text before the first of the stop sequences.

    >>> cut("7. Q: what", ["Q:", "."])
    '7'
    """
    ends = [text.find(stop) for stop in until if stop]
    return text[: min((end for end in ends if end >= 0), default=len(text))]
