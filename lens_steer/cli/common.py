"""Functions that several commands share: read prompts and calibrations, write to the error stream, print the result."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from lens_steer.errors import LensSteerError

log = logging.getLogger(__name__)


def shares_of(split: str) -> tuple[float, ...]:
    """Parse the value of ``--split``.

    Raises:
        LensSteerError: If a part between the commas is not a number.
    """
    try:
        return tuple(float(share) for share in split.split(","))
    except ValueError:
        raise LensSteerError(
            f"--split {split!r}: give three shares fit, select, report, such as 0.5,0.25,0.25"
        ) from None


def read_prompts(
    source: str | Path,
    *,
    column: str | None = None,
    limit: str | None = None,
    seed: int = 0,
    response: Sequence[str] = ("response",),
) -> Any:
    """Read the prompts of a file, or of an organism's report split.

    One line on the error stream says what was read; warnings about the prompts follow it.
    """
    from lens_steer.data import ORGANISM_PREFIX, PromptSet, read_contrast, read_prompt_set

    if not str(source).startswith(ORGANISM_PREFIX):
        prompts = read_prompt_set(source, column=column, limit=limit, seed=seed, response=response)
        tell(f"read {prompts.reading}", prompts.reading.cautions if prompts.reading else ())
        return prompts
    part = read_contrast(str(source), column=column, limit=limit, seed=seed).report
    tell(f"read {source}: report {len(part.positive)}+{len(part.negative)}")
    return PromptSet(part.positive.prompts + part.negative.prompts, f"{source}/report")


def tell(line: str, cautions: Sequence[str] = ()) -> None:
    """Write a line to the error stream, and log the warnings that belong to it."""
    typer.echo(line, err=True)
    for caution in cautions:
        log.warning("%s", caution)


def tell_fitted_on(made: Any, parts: Mapping[str, Sequence[Any]], source: str = "calibration") -> bool:
    """Warn of prompts that a calibration was made from, and return whether there are any.

    Args:
        made: A calibration or a probe.
        parts: The prompt sets, by the name of their part.
        source: The word for ``made`` in the warning.

    Returns:
        True if a prompt of ``parts`` is among those that ``made`` was made from. False if none is, and also if ``made``
        has no record of its prompts.
    """
    from lens_steer.data import fitted_overlap

    seen = (*getattr(made, "prompt_hashes_positive", ()), *getattr(made, "prompt_hashes_negative", ()))
    found = fitted_overlap(seen, parts, source)
    if found is not None:
        typer.echo(f"warning: {found}", err=True)
    return found is not None


def read_calibration(folder: Path) -> tuple[str, Any]:
    """Load a calibration of this project or a published one.

    Returns:
        The last part of its model's name, which stands for the calibration in the output, and the calibration.
    """
    from lens_steer.geometry.files import load_calibration
    from lens_steer.interop.imports.official import import_official

    made = import_official(folder) if (folder / "plane.pt").exists() else load_calibration(folder)
    return made.model.rstrip("/").split("/")[-1], made


def check_rows_file(out: Path) -> None:
    """Refuse an output file for rows whose name does not end in ``.jsonl``."""
    if out.suffix != ".jsonl" and not out.is_dir():
        raise LensSteerError(f"--out {str(out)!r}: one JSON object a line is written, give a name that ends in .jsonl")


def judge_named(spec: str | None) -> Any:
    """Build the judge that ``--judge`` names; return None where the option was not given."""
    from lens_steer.metrics.judges.spec import judge_of

    return None if spec is None else judge_of(spec)


def command() -> str:
    return shlex.join(["lens-steer", *sys.argv[1:]])


def emit(result: dict[str, Any]) -> None:
    """Print the result on the output stream as one JSON object, without the entries that are None."""
    typer.echo(json.dumps({k: v for k, v in result.items() if v is not None}, ensure_ascii=False))
