"""The command ``verify``, with its options: the levels that run, and the calibration that is the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_steer._defaults import ENGINE, VERIFY_DRAWS
from lens_steer.cli.choosing import TasksOption, tasks_of
from lens_steer.cli.common import command, emit, read_calibration
from lens_steer.cli.dryrun import DryRun
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load
from lens_steer.cli.options import Engine, MaxNewTokens, Out
from lens_steer.cli.prompting import Prompts, asked_of
from lens_steer.errors import LensSteerError


@grouped
def verify(
    prompts: Prompts,
    load: Load,
    dry: DryRun,
    out: Out,
    model: Annotated[
        str | None, typer.Option(help="Also on this model's own activations: organism/qwen2, a folder, a hub name.")
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            help=(
                "Folder of a calibration, or of a published one; several times. With --model, the model's own is used "
                "in place of a fresh one."
            )
        ),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option(
            help=(
                "Which tests, with commas: formula, basis, dtype, published, recorded, downstream, geometry, "
                "behaviour (all)."
            )
        ),
    ] = None,
    controls: Annotated[
        int,
        typer.Option(
            "--controls",
            help=(
                "Draws of each random control of SS at its sites (half of the blocks, sites, second axis, plane); 0: "
                "none. With fewer than 19 none can be beaten at p = 0.05."
            ),
        ),
    ] = VERIFY_DRAWS,
    tasks: TasksOption = None,
    engine: Engine = ENGINE,
    max_new_tokens: MaxNewTokens = 48,
) -> None:
    """Propositions 1 and 2 of Selective Steering and what goes with them, tested: a record, a verdict and a witness for
    every claim; an interrupted run goes on.
    """
    from lens_steer._io.atomic import check_writable
    from lens_steer.evaluation.compared import held
    from lens_steer.evaluation.protocol import check_splits
    from lens_steer.inference.engines import check_engine
    from lens_steer.models.loading import usable_device
    from lens_steer.studies.propositions.drift import METHOD
    from lens_steer.studies.propositions.verify import LEVELS, verify_model, write
    from lens_steer.studies.propositions.verify import verify as run
    from lens_steer.studies.propositions.work import verifying

    check_engine(engine, answers=False)
    if controls < 0:
        raise LensSteerError(f"--controls {controls}: give a number of at least 0 (0: none)")
    where = usable_device(load.device)
    check_writable(out)
    given = dict(map(read_calibration, calibration or []))
    wanted = read_levels(levels, model, calibration)
    loaded = None
    if model is None:
        if tasks is not None:
            raise LensSteerError("--tasks: they are done by a model, give --model too")
        if dry.dry_run:
            raise LensSteerError("--dry-run tells what running a model costs: give --model too")
        found = run(given, seed=prompts.seed, device=str(where), levels=wanted)
    else:
        chosen = prompts.read()
        check_splits(chosen)
        capability = None if tasks is None else tasks_of(chosen, prompts.seed, tasks).report
        described = load.check(model, *asked_of(chosen, max_new_tokens))
        if held([METHOD], described.lens_info.layout)[1]:
            raise LensSteerError(
                f"--model {model}: the propositions are tested beside Angular Steering as published, which reads the "
                "inputs of the norms before attention and MLP, and this model has none: use compare, which leaves such "
                "methods out"
            )
        name, own = own_calibration(given, described, chosen.fit.hash)
        loaded = load(model)
        asked = {level: level in wanted for level in ("behaviour", "downstream")}
        work = verifying(loaded, chosen, max_new_tokens, draws=controls, tasks=capability, **asked)
        dry.tell(loaded, work, chosen.report.positive, engine=engine, max_new_tokens=max_new_tokens)
        rest = {n: c for n, c in given.items() if n != name}
        found = run(rest, seed=prompts.seed, device=str(where), levels=wanted)
        found += verify_model(
            loaded,
            chosen,
            calibration=own,
            levels=wanted,
            seed=prompts.seed,
            engine=engine,
            max_new_tokens=max_new_tokens,
            draws=controls,
            tasks=capability,
            out=out,
        )
    if not found.claims:
        raise LensSteerError(f"--levels {levels}: nothing to test on what was given: use some of {', '.join(LEVELS)}")
    write(found, out, command=command(), seed=prompts.seed, model=loaded)
    emit({"propositions": str(out / "propositions.json"), "verdicts": {c.id: c.verdict for c in found.claims}})


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
