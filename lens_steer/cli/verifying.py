"""The options of ``verify``: the levels that run, and the calibration that is the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from lens_steer.errors import LensSteerError


def read_levels(levels: str | None, model: str | None, calibrations: Any) -> tuple[str, ...]:
    """Parse the value of ``--levels``; None means all levels.

    Raises:
        LensSteerError: If a level is unknown, or needs a model or a calibration that was not given.

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
    """Return the name and the calibration that belongs to this model, or None and None if none does.

    A calibration belongs to the model if :func:`lens_steer.studies.propositions.verify.is_of` says so. If it was made
    from other prompts than the fit split, a warning goes to the error stream.

    Args:
        given: The calibrations, by name.
        model: The model's description.
        fit_hash: The hash of the prompts that a fresh calibration would be made from.

    Raises:
        LensSteerError: If several of the calibrations belong to the model.
    """
    from lens_steer.studies.propositions.verify import is_of

    own = [name for name, calibration in given.items() if is_of(calibration, model)]
    if len(own) > 1:
        raise LensSteerError(f"--calibration: {' and '.join(own)} are both of this model's shape: give one of them")
    if not own:
        return None, None
    if given[own[0]].prompt_hash != fit_hash:
        typer.echo(
            f"warning: the calibration {own[0]!r} was made from other prompts than this contrast's fit split; if its "
            "prompts are among those of select or report, the result is not held out",
            err=True,
        )
    typer.echo(f"the calibration {own[0]!r} is this model's: used in place of a fresh one", err=True)
    return own[0], given[own[0]]
