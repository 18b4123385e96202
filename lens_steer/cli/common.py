"""What several commands do with their options: read prompts and calibrations, load the model, print the result."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import typer

from lens_steer.errors import LensSteerError


def read_contrast(name: str | None, positive: str | None, negative: str | None, split: str | None, seed: int) -> Any:
    import lens_steer as ls

    if name is None and positive is None and negative is None:
        name = "organism/refusal"
    return ls.load_contrast(
        name, positive=positive, negative=negative, split=None if split is None else shares_of(split), seed=seed
    )


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


def read_plan(
    saved: Path | None, calibration: Path | None, probe: Path | None, method: str | None, options: dict[str, Any]
) -> Any:
    """The saved plan, or a method's on a calibration or a probe."""
    import lens_steer as ls
    from lens_steer.methods import make_plan

    if sum(v is not None for v in (saved, calibration, probe)) != 1:
        raise LensSteerError("give one of --calibration, --probe (with --method) and --plan")
    if saved is None:
        return make_plan(method or default_method(probe), read_source(calibration, probe), **options)
    given = [*(["method"] if method else []), *options]
    if given:
        raise LensSteerError(f"--plan {str(saved)!r} already says all of it: leave out {', '.join(given)}")
    return ls.load_plan(str(saved))


def read_source(calibration: Path | None, probe: Path | None) -> Any:
    """The calibration or the probe that was given."""
    import lens_steer as ls

    if (calibration is None) == (probe is None):
        raise LensSteerError("give either --calibration or --probe")
    return ls.load_calibration(str(calibration)) if probe is None else ls.load_probe(probe)


def default_method(probe: Path | None) -> str:
    """What is meant where no method is named."""
    return "selective" if probe is None else "sttp"


def judge_named(spec: str | None) -> Any:
    """The judge of ``--judge``; None without one."""
    from lens_steer.metrics.judges.spec import judge_of

    return None if spec is None else judge_of(spec)


def command() -> str:
    return shlex.join(["lens-steer", *sys.argv[1:]])


def emit(result: dict[str, Any]) -> None:
    """Results go to the output stream as one JSON object."""
    typer.echo(json.dumps({k: v for k, v in result.items() if v is not None}, ensure_ascii=False))
