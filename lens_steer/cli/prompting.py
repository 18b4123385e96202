"""The options that say which prompts are used: an organism's contrast, or files and how they are read and split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from lens_steer.cli.common import shares_of, tell
from lens_steer.cli.groups import Group
from lens_steer.cli.options import Columns, ContrastLimit, Negative, Positive, Seed, Split
from lens_steer.errors import LensSteerError

HELD_OUT = "0.5,0.25,0.25"  # the default split of files, for commands that need held-out prompts


@dataclass(frozen=True)
class Prompts(Group):
    """The options of a contrast: its two classes of prompts, and their splits."""

    contrast: Annotated[str | None, typer.Option(help="An organism's contrast: organism/refusal, organism/json, …")] = (
        None
    )
    positive: Positive = None
    negative: Negative = None
    select_positive: Annotated[str | None, typer.Option(help="Those of the select split, in a file of their own.")] = (
        None
    )
    select_negative: Annotated[str | None, typer.Option(help="Likewise without the feature.")] = None
    report_positive: Annotated[str | None, typer.Option(help="Those of the report split, in a file of their own.")] = (
        None
    )
    report_negative: Annotated[str | None, typer.Option(help="Likewise without the feature.")] = None
    column: Columns = None
    limit: ContrastLimit = None
    split: Split = None
    seed: Seed = 0

    def read(self, *, split: str | None = HELD_OUT, fit: bool = True, forced: bool = False) -> Any:
        """Read the contrast set, and say on the error stream what was read.

        Without ``--contrast`` and files it is the organisms' refusal contrast.

        Args:
            split: The shares of fit, select and report for files, where ``--split`` was not given. A part that has
                files of its own gets no share. None puts all prompts into fit.
            fit: Whether the command needs prompts to fit on.
            forced: Whether the prompts run with responses, which then may also stand in the column that ``steer``
                writes.

        Raises:
            LensSteerError: If ``fit`` is set and there are no prompts to fit on, if ``--split`` was given without
                files, or if :func:`lens_steer.load_contrast` raises it.
        """
        from lens_steer.data import read_contrast
        from lens_steer.data.checks import few_cautions

        files = self.given(
            "positive", "negative", "select_positive", "select_negative", "report_positive", "report_negative"
        )
        named = "organism/refusal" if self.contrast is None and not files else self.contrast
        if self.split is not None and not files:
            shares_of(self.split)
            raise LensSteerError(f"--split {self.split}: an organism's contrast comes with its split; leave it out")
        shares = shares_of(self.split) if self.split is not None else self._default_shares(split, files)
        how = {"response": ("response", "text")} if forced else {}
        found = read_contrast(
            named, **files, **how, split=shares, column=self.column or None, limit=self.limit, seed=self.seed
        )
        if fit and not (len(found.fit.positive) and len(found.fit.negative)):
            mend = (
                "give --positive and --negative"
                if self.positive is None
                else f"--split {self.split} leaves none for it"
            )
            raise LensSteerError(f"this command fits directions of its own, and there is no prompt to fit on: {mend}")
        unheard = () if fit else few_cautions((found.fit.positive, found.fit.negative))
        tell(found.told, [line for line in found.cautions if line not in unheard])
        return found

    def _default_shares(self, split: str | None, files: dict[str, Any]) -> tuple[float, ...] | None:
        """Return the default shares of files; None where all prompts go to fit."""
        if split is None or self.positive is None:
            return None
        own = ("", "select_positive", "report_positive")
        shares = tuple(0.0 if role in files else share for role, share in zip(own, shares_of(split), strict=True))
        return shares if any(shares[1:]) else None


def asked_of(contrast: Any, max_new_tokens: int) -> list[tuple[Any, int]]:
    """List the prompts of a contrast set with the number of tokens that each answer may have.

    The fit split is only recorded (0 tokens); select and report are answered.
    """
    fit = [(side, 0) for side in (contrast.fit.positive, contrast.fit.negative)]
    return fit + [
        (side, max_new_tokens) for part in (contrast.select, contrast.report) for side in (part.positive, part.negative)
    ]
