"""The library's messages, which speak of arguments, in the words of the command line."""

from __future__ import annotations

import re

ARGUMENTS = ("split",)  # that hints of the library spell out with a value
_HINT = re.compile(rf"\b({'|'.join(ARGUMENTS)})=(\([^)]*\)|[^\s,;:]+)")


def as_options(message: str) -> str:
    """A message with the arguments that its hints spell out as options.

    >>> as_options("no select prompts: give a split, such as split=(0.5, 0.25, 0.25)")
    'no select prompts: give a split, such as --split 0.5,0.25,0.25'
    """
    return _HINT.sub(lambda found: f"--{found[1].replace('_', '-')} {re.sub('[() ]', '', found[2])}", message)
