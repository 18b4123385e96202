"""The command that measures judges against the labels of a person."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from lens_steer.cli.common import command, emit
from lens_steer.cli.options import Out, Seed
from lens_steer.errors import LensSteerError


def agreement(
    out: Out,
    labels: Annotated[
        Path, typer.Option("--labels", help="Labelled responses: a table with prompt, response and harmful (yes, no).")
    ],
    judge: Annotated[
        list[str], typer.Option("--judge", help="A judge as elsewhere: refusal_12, …, or a .json file (several times).")
    ],
    seed: Seed = 0,
) -> None:
    """How far do judges agree with a person's labels? Cohen's kappa, with its interval, before a judge decides
    anything.
    """
    from lens_steer._io.atomic import check_writable
    from lens_steer.metrics.judges.labels import read_labels
    from lens_steer.metrics.judges.spec import judge_of
    from lens_steer.reports.agreement_report import agreement_and_write

    check_writable(out)
    labelled = read_labels(labels)
    names = [Path(spec).stem if spec.endswith(".json") else spec for spec in judge]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise LensSteerError(f"--judge {min(repeated)} is given twice: give every judge a name of its own")
    judges = {name: judge_of(spec) for name, spec in zip(names, judge, strict=True)}
    rows = agreement_and_write(labelled, judges, out, command=command(), seed=seed)
    emit({"agreement": str(out / "agreement.md"), "kappa": {row["judge"]: row["kappa"] for row in rows}})


COMMANDS: tuple[Callable[..., None], ...] = (agreement,)
