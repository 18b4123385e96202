"""What several commands do with their options: read prompts and calibrations, print the result."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import typer

from lens_steer.errors import LensSteerError


def shares_of(split: str) -> tuple[float, ...]:
    """The numbers of ``--split``."""
    try:
        return tuple(float(share) for share in split.split(","))
    except ValueError:
        raise LensSteerError(f"--split {split!r}: give three shares fit, select, report, such as 0.5,0.25,0.25") from None


def read_prompts(source: str) -> Any:
    import lens_steer as ls
    from lens_steer.prompts import ORGANISM_PREFIX, PromptSet

    if not source.startswith(ORGANISM_PREFIX):
        return ls.load_prompts(source)
    part = ls.load_contrast(source).report
    return PromptSet(part.positive.prompts + part.negative.prompts, f"{source}/report")


def read_calibration(folder: Path) -> tuple[str, Any]:
    """A calibration of ours, or a published one, with the name it goes by."""
    import lens_steer as ls
    from lens_steer.interop.official import import_official

    made = import_official(folder) if (folder / "plane.pt").exists() else ls.load_calibration(folder)
    return made.model.rstrip("/").split("/")[-1], made


def check_rows_file(out: Path) -> None:
    """Refuse a file for rows whose ending says something else."""
    if out.suffix != ".jsonl" and not out.is_dir():
        raise LensSteerError(f"--out {str(out)!r}: one JSON object a line is written, give a name that ends in .jsonl")


def judge_named(spec: str | None) -> Any:
    """The judge of ``--judge``; None without one."""
    from lens_steer.metrics.judges.spec import judge_of

    return None if spec is None else judge_of(spec)


def command() -> str:
    return shlex.join(["lens-steer", *sys.argv[1:]])


def emit(result: dict[str, Any]) -> None:
    """Results go to the output stream as one JSON object."""
    typer.echo(json.dumps({k: v for k, v in result.items() if v is not None}, ensure_ascii=False))
