"""Generation arguments of the harness's tasks, for :mod:`lens_steer.interop.harness.lm_eval`.

They have a module of their own, because nothing here needs the harness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lens_steer.errors import LensSteerError

# The harness's names for the largest number of tokens; the first one that is given counts.
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
WITHOUT_EFFECT = ("temperature", "top_p", "top_k", "min_p", "typical_p")  # arguments that do not change a greedy answer


@dataclass(frozen=True)
class Wanted:
    """The generation arguments of one answer.

    Attributes:
        tokens: The largest number of tokens.
        until: The stop sequences.
    """

    tokens: int
    until: tuple[str, ...]

    @classmethod
    def of(cls, asked: Mapping[str, Any], default: int) -> Wanted:
        """Return the arguments of an answer from those of a task.

        Args:
            asked: The task's generation arguments.
            default: The largest number of tokens if the task gives none.

        Raises:
            LensSteerError: If the task samples, if it asks for fewer than one token, or if it has an argument that
                would change a greedy answer.

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
    """Return the text before the first of the stop sequences.

    >>> cut("7. Q: what", ["Q:", "."])
    '7'
    """
    ends = [text.find(stop) for stop in until if stop]
    return text[: min((end for end in ends if end >= 0), default=len(text))]
