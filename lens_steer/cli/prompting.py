"""The options that say which prompts: an organism's contrast, or two files and how they are split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from lens_steer.cli.common import shares_of
from lens_steer.cli.groups import Group
from lens_steer.cli.options import Negative, Positive, Seed, Split

HELD_OUT = "0.5,0.25,0.25"  # of files, where prompts are needed that nothing was fitted on


@dataclass(frozen=True)
class Prompts(Group):
    """Two classes of prompts."""

    contrast: Annotated[
        str | None, typer.Option("--contrast", help="An organism's contrast: organism/refusal, organism/json, …")
    ] = None
    positive: Positive = None
    negative: Negative = None
    split: Split = None
    seed: Seed = 0

    def read(self, *, split: str | None = HELD_OUT) -> Any:
        """The contrast set; without any of the options the organisms' refusal contrast.

        Args:
            split: of files where none was given.
        """
        import lens_steer as ls

        named = "organism/refusal" if self.contrast is None and self.positive is None and self.negative is None else self.contrast
        shares = self.split or (split if self.positive else None)
        return ls.load_contrast(
            named,
            positive=self.positive,
            negative=self.negative,
            split=None if shares is None else shares_of(shares),
            seed=self.seed,
        )


def asked_of(contrast: Any, max_new_tokens: int) -> list[tuple[Any, int]]:
    """What is recorded of a contrast set (fit), and what is answered (select, report), each with the tokens that an answer may have."""
    fit = [(side, 0) for side in (contrast.fit.positive, contrast.fit.negative)]
    return fit + [
        (side, max_new_tokens) for part in (contrast.select, contrast.report) for side in (part.positive, part.negative)
    ]
