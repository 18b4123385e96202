"""The commands that record two prompt sets, and that calibrate on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_steer._defaults import ENGINE
from lens_steer._io.shards import Shard
from lens_steer.cli.common import emit
from lens_steer.cli.dryrun import DryRun
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load
from lens_steer.cli.options import Engine, Model, Out, Rule, ShardOption, Sites
from lens_steer.cli.prompting import Prompts
from lens_steer.errors import LensSteerError

Keep = Annotated[
    str,
    typer.Option("--keep", help="all, or moments: class means alone, in memory that does not grow with the prompts."),
]


@grouped
def record(
    prompts: Prompts,
    load: Load,
    dry: DryRun,
    out: Out,
    model: Model = "organism/qwen2",
    sites: Sites = "norm_out",
    pooling: Annotated[
        str,
        typer.Option(
            help="last: the last prompt token; response, thought or answer: the mean over each prompt's fixed "
            "response, or over that part of it."
        ),
    ] = "last",
    keep: Keep = "all",
    engine: Engine = ENGINE,
    shard: ShardOption = None,
) -> None:
    """Record both prompt sets into a folder, for calibrate --recorded; with --shard every N-th prompt of each."""
    from lens_steer._io.atomic import check_writable
    from lens_steer.inference.engines import check_engine
    from lens_steer.inference.pooling import FORCED, checked_pooling
    from lens_steer.inference.recordings import part_of, save_recording

    check_engine(engine, answers=False)
    check_keep(keep)
    checked_pooling(pooling)
    share = None if shard is None else Shard.of(shard)
    chosen = prompts.read(split=None, forced=pooling in FORCED).fit
    part = part_of(chosen, share)
    check_writable(out)
    recorded = _record(part, load, dry, model, sites, keep, engine, pooling=pooling)
    save_recording(recorded, out, shard=share, prompt_hash=chosen.hash)
    emit(
        {
            "recording": str(out),
            "keep": keep,
            "n_sites": len(recorded.sites),
            "n_positive": recorded.n_positive,
            "n_negative": recorded.n_negative,
            "shard": shard,
            "next": None if share is None else "record the other shards, then lens-steer join",
        }
    )


@grouped
def calibrate(
    prompts: Prompts,
    load: Load,
    dry: DryRun,
    out: Out,
    model: Model = "organism/qwen2",
    sites: Sites = "norm_out",
    rule: Rule = "paper",
    bound: Annotated[
        float | None, typer.Option(help="Of --rule effect (Cohen's d above it, 1.0) or auroc (area above it, 0.9).")
    ] = None,
    direction: Annotated[
        str, typer.Option(help="Estimator: difference (of class means), fisher, paired_pca, logistic, sparse.")
    ] = "difference",
    candidate_norm: Annotated[
        str,
        typer.Option(
            "--candidate-norm",
            help="What spans the plane: unit, raw, sample_unit, or angular (as Angular Steering does, with norm_in).",
        ),
    ] = "unit",
    keep: Keep = "all",
    recorded: Annotated[
        Path | None, typer.Option("--recorded", help="Folder of 'lens-steer record', in place of prompts and a model.")
    ] = None,
    engine: Engine = ENGINE,
) -> None:
    """Record both prompt sets and write the calibration: candidates, selected direction, plane, discriminative
    sites.
    """
    from lens_steer._io.atomic import check_writable
    from lens_steer.geometry.calibration import calibrate, check_candidate_norm
    from lens_steer.geometry.discriminative import check_rule
    from lens_steer.geometry.estimators import check_classes
    from lens_steer.geometry.files import save_calibration
    from lens_steer.geometry.rules import cautions, discriminative_by_rule, site_rows, sureness
    from lens_steer.inference.engines import check_engine
    from lens_steer.inference.record import Activations

    check_engine(engine, answers=False)
    check_rule(rule, bound)
    check_candidate_norm(candidate_norm, direction)
    check_keep(keep)
    check_writable(out)
    if recorded is None:
        chosen = prompts.read(split=None).fit
        check_classes(direction, len(chosen.positive), len(chosen.negative))
        _check_enough(keep, direction, rule)
        acts = _record(chosen, load, dry, model, sites, keep, engine, steers=True)
    else:
        acts = _recorded(recorded, prompts, sites)
        check_classes(direction, acts.n_positive, acts.n_negative)
        _check_enough("all" if isinstance(acts, Activations) else "moments", direction, rule)
    made = calibrate(
        acts, rule=rule, bound=bound, candidate_norm=candidate_norm, direction=direction, seed=prompts.seed
    )
    save_calibration(made, out)
    if told := cautions(made):
        typer.echo(f"caution: {'; '.join(told)}", err=True)
    emit(
        {
            "calibration": str(out),
            "selected_site": made.selected_site,
            "selection_margin": made.details["selection_margin"],
            "rule": made.rule,
            "bound": made.bound,
            "discriminative_sites": len(made.discriminative_sites),
            "discriminative_blocks": list(made.discriminative_blocks),
            "n_sites": len(made.sites),
            "sites_by_rule": {name: len(found.sites) for name, found in discriminative_by_rule(made).items()},
            "membership": sureness(made),
            "sites": site_rows(made),
        }
    )


def check_keep(keep: str) -> None:
    """Refuse a value of ``--keep`` that is none."""
    if keep not in ("all", "moments"):
        raise LensSteerError(f"--keep {keep!r}: use all or moments")


def _check_enough(keep: str, direction: str, rule: str) -> None:
    """Refuse an estimator or a rule for which class means are not enough."""
    from lens_steer.geometry.discriminative import BOUNDS

    if keep == "moments" and direction != "difference":
        raise LensSteerError(f"--direction {direction} needs the activations themselves: leave out --keep moments")
    if keep == "moments" and rule in BOUNDS:
        raise LensSteerError(f"--rule {rule} goes by single prompts' projections: leave out --keep moments")


def _record(
    contrast: Any,
    load: Load,
    dry: DryRun,
    model: str,
    sites: str,
    keep: str,
    engine: str,
    *,
    pooling: Any = "last",
    steers: bool = False,
) -> Any:
    """Load the model and record a contrast; ``steers`` refuses sites along which nothing can steer."""
    from lens_steer.evaluation.work import recording
    from lens_steer.inference.pooling import FORCED
    from lens_steer.inference.record import record as recorded
    from lens_steer.models.sites import check_writable, resolve

    forced = pooling in FORCED
    sides = (contrast.positive, contrast.negative)
    asked = [] if forced else [(side, 0) for side in sides]
    told = load.check(model, *asked, forced=sides if forced else (), site_spec=sites, pooling=pooling)
    if steers:
        check_writable(resolve(sites, told.lens_info.layout))
    loaded = load(model)
    work = recording(loaded, contrast, 2 * loaded.lens_info.n_layers, responses=forced)
    dry.tell(loaded, work, contrast.positive, engine=engine)
    _prove(loaded)
    what = "moments" if keep == "moments" else "all"
    return recorded(loaded, contrast, sites, engine=engine, keep=what, pooling=pooling)


def _prove(model: Any) -> None:
    """Check the layout of a model, so that the errors are kept with what is recorded, and warn of what fails."""
    from lens_steer.models.proved import proof_of

    try:
        rows = proof_of(model)
    except LensSteerError as error:
        typer.echo(f"warning: {error}", err=True)
        return
    for row in rows:
        if not row.holds:
            bound = f"{row.error:.2g}, allowed {row.bound:g}"
            typer.echo(f"warning: '{row.check}' fails{row.at} ({bound}): see 'lens-steer check'", err=True)


def _recorded(folder: Path, prompts: Prompts, sites: str) -> Any:
    """Read a recording in place of prompts and a model.

    Raises:
        LensSteerError: If prompts or sites were given too, since those of the recording are fixed.
    """
    from lens_steer.inference.recordings import load_recording

    given = [f"--{name.replace('_', '-')}" for name in prompts.given() if name != "seed"]
    if sites != "norm_out":
        given.append("--sites")
    if given:
        raise LensSteerError(f"{given[0]}: a recording has its own prompts and sites; leave it out, or --recorded")
    return load_recording(folder)


COMMANDS: tuple[Callable[..., None], ...] = (record, calibrate)
