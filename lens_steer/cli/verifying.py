"""What ``verify`` does with its options: which levels run, and which calibration is the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from lens_steer.errors import LensSteerError


def read_levels(levels: str | None, model: str | None, calibrations: Any) -> tuple[str, ...]:
    """The levels of ``--levels``; all without it.

    Raises:
        LensSteerError: an unknown one, or one that needs a model or a calibration that was not given.

    >>> read_levels("formula, dtype", None, None)
    ('formula', 'dtype')
    """
    from lens_steer.studies.propositions.verify import LEVELS, WITH_MODEL, WITHOUT_MODEL

    if levels is None:
        return LEVELS
    chosen = tuple(part.strip() for part in levels.split(","))
    unknown = [level for level in chosen if level not in LEVELS]
    if unknown:
        raise LensSteerError(f"--levels {levels}: {unknown[0]!r} is none, use some of {', '.join(LEVELS)}")
    alone = [level for level in chosen if model is None and level in WITH_MODEL and level not in WITHOUT_MODEL]
    if alone:
        raise LensSteerError(f"--levels {levels}: {alone[0]} runs a model, give --model too")
    if "published" in chosen and not calibrations:
        raise LensSteerError(f"--levels {levels}: published tests planes that are given, give --calibration too")
    return chosen


def own_calibration(given: Mapping[str, Any], model: Any, fit_hash: str) -> tuple[str | None, Any]:
    """Name and calibration of the model's own among those that were given; None and None without one.

    Args:
        given: by name.
        model: its description.
        fit_hash: of the prompts that a fresh calibration would be made from.

    Raises:
        LensSteerError: several.
    """
    from lens_steer.studies.propositions.verify import is_of

    own = [name for name, calibration in given.items() if is_of(calibration, model)]
    if len(own) > 1:
        raise LensSteerError(f"--calibration: {' and '.join(own)} are both of this model's shape: give one of them")
    if not own:
        return None, None
    if given[own[0]].prompt_hash != fit_hash:
        typer.echo(
            f"warning: the calibration {own[0]!r} was made from other prompts than this contrast's fit split; if "
            "its prompts are among those of select or report, "
            "the result is not held out",
            err=True,
        )
    typer.echo(f"the calibration {own[0]!r} is this model's: used in place of a fresh one", err=True)
    return own[0], given[own[0]]
