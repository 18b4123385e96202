"""The commands that ask whether a direction, and an angle, hold on prompts of other sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_steer._defaults import ENGINE
from lens_steer.cli.common import command, emit, tell
from lens_steer.cli.dryrun import DryRun
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load
from lens_steer.cli.options import Columns, Engine, Limit, MaxNewTokens, Model, Out, Seed
from lens_steer.errors import LensSteerError

if TYPE_CHECKING:
    from lens_steer.data import ContrastSet

HALVES = (1.0, 0.0, 1.0)  # a direction comes from one half of a source, and is tested on the other
PARTS = (0.5, 0.25, 0.25)  # an angle is chosen on prompts of its own

Sources = Annotated[
    list[str],
    typer.Option(
        "--source",
        help=(
            "NAME=POSITIVE or NAME=POSITIVE=NEGATIVE, a file each (several times); without a negative file, "
            "--negative is taken."
        ),
    ),
]
Negative = Annotated[str | None, typer.Option("--negative", help="Prompts without the feature, for all sources.")]


@grouped
def transfer(
    load: Load,
    dry: DryRun,
    out: Out,
    model: Model,
    source: Sources,
    negative: Negative = None,
    column: Columns = None,
    limit: Limit = None,
    sizes: Annotated[
        str, typer.Option("--sizes", help="Numbers of prompts of a class for small calibrations, with commas.")
    ] = "4,8,16,33,64,128",
    draws: Annotated[int, typer.Option("--draws", help="Calibrations of each number of prompts.")] = 100,
    seed: Seed = 0,
    engine: Engine = ENGINE,
) -> None:
    """Does a direction hold on prompts of another source, and how many prompts does it need? Nothing is steered: the
    separation of held-out prompts, the direction and the discriminative sites are compared.
    """
    from lens_steer._io.atomic import check_writable
    from lens_steer.evaluation.work import Work, recording
    from lens_steer.inference.engines import check_engine
    from lens_steer.models.loading import info_of
    from lens_steer.models.sites import resolve
    from lens_steer.studies.transfer.report import transfer_and_write
    from lens_steer.studies.transfer.study import check

    check_engine(engine, answers=False)
    check_writable(out)
    numbers = _sizes(sizes)
    if draws < 1:
        raise LensSteerError(f"--draws {draws}: give at least 1")
    contrasts = _contrasts(source, negative, HALVES, column=column or None, limit=limit, seed=seed)
    check(contrasts, numbers, draws)
    parts = [part for of in contrasts.values() for part in (of.fit, of.report)]
    sides = {side.hash: side for part in parts for side in (part.positive, part.negative)}
    info = info_of(load.check(model, *((side, 0) for side in sides.values())))
    n_sites = len(resolve("norm_out", info.layout))
    loaded = load(model)
    work = Work()
    for part in parts:
        work += recording(loaded, part, n_sites)
    dry.tell(loaded, work, parts[0].positive, engine=engine, max_new_tokens=1)
    _, decided = transfer_and_write(
        loaded, contrasts, out, command=command(), seed=seed, sizes=numbers, draws=draws, engine=engine
    )
    emit({"transfer": str(out / "transfer.md"), "verdicts": {c.id: c.verdict for c in decided}})


@grouped
def angle_transfer(
    load: Load,
    dry: DryRun,
    out: Out,
    model: Model,
    source: Sources,
    negative: Negative = None,
    column: Columns = None,
    limit: Limit = None,
    angles: Annotated[str, typer.Option("--angles", help="start:stop:step, or numbers with commas.")] = "30:330:30",
    budget: Annotated[
        float, typer.Option("--budget", help="Largest KL on harmless answers, in nats a token, for an angle.")
    ] = 0.1,
    draws: Annotated[
        int, typer.Option("--draws", help="Random planes of each source; fewer than 19 cannot be beaten.")
    ] = 19,
    seed: Seed = 0,
    engine: Engine = ENGINE,
    max_new_tokens: MaxNewTokens = 48,
) -> None:
    """Does an angle that was found on prompts of one source hold on another? SS is set on each source and tried on the
    prompts of every source, by the fall of the refusal score; an interrupted run goes on.
    """
    from lens_steer._io.atomic import check_writable
    from lens_steer.evaluation.grids import values_of
    from lens_steer.inference.engines import check_engine
    from lens_steer.studies.angle_transfer.report import angle_transfer_and_write
    from lens_steer.studies.angle_transfer.study import check
    from lens_steer.studies.angle_transfer.work import transferring_angles

    check_engine(engine, answers=False)
    check_writable(out)
    values = values_of(angles)
    if not budget > 0:
        raise LensSteerError(f"--budget {budget:g}: give a divergence above 0, in nats a token")
    if draws < 1:
        raise LensSteerError(f"--draws {draws}: give at least 1")
    if len(source) < 2:
        raise LensSteerError(f"--source {source[0]}: one source stands alone; give at least two")
    contrasts = _contrasts(source, negative, PARTS, column=column or None, limit=limit, seed=seed)
    check(contrasts, values, budget, draws)
    parts = [part for of in contrasts.values() for part in (of.fit, of.select, of.report)]
    sides = {side.hash: (side, max_new_tokens) for part in parts for side in (part.positive, part.negative)}
    load.check(model, *sides.values())
    loaded = load(model)
    work = transferring_angles(loaded, contrasts, len(values), draws, max_new_tokens)
    dry.tell(loaded, work, parts[0].positive, engine=engine, max_new_tokens=max_new_tokens)
    how = {"values": values, "budget": budget, "draws": draws, "engine": engine, "max_new_tokens": max_new_tokens}
    found, decided = angle_transfer_and_write(loaded, contrasts, out, command=command(), seed=seed, **how)
    emit(
        {
            "angle_transfer": str(out / "angle_transfer.md"),
            "angles": {name: found.pair(name, name).angle for name in contrasts},
            "verdicts": {c.id: c.verdict for c in decided},
        }
    )


def _contrasts(
    given: list[str], negative: str | None, split: tuple[float, float, float], **how: Any
) -> dict[str, ContrastSet]:
    """Read the contrast of every source, and tell what was read."""
    from lens_steer.data import read_contrast

    found = {}
    for name, files in _sources(given, negative).items():
        found[name] = read_contrast(None, positive=files[0], negative=files[1], split=split, **how)
        tell(f"{name}: {found[name].told}", [f"{name}: {line}" for line in found[name].cautions])
    return found


def _sources(given: list[str], negative: str | None) -> dict[str, tuple[str, str]]:
    """Parse the values of ``--source``.

    >>> _sources(["a=one.json", "b=two.json=three.json"], "rest.json")
    {'a': ('one.json', 'rest.json'), 'b': ('two.json', 'three.json')}

    Raises:
        LensSteerError: If one has no name or file, if two have the same name, or if one has no negative prompts.
    """
    found: dict[str, tuple[str, str]] = {}
    for spec in given:
        name, *files = spec.split("=")
        if not name or len(files) not in (1, 2) or not all(files):
            raise LensSteerError(f"--source {spec}: give NAME=POSITIVE or NAME=POSITIVE=NEGATIVE")
        if name in found:
            raise LensSteerError(f"--source {spec}: the name {name!r} was given before: use another one")
        if len(files) == 1 and negative is None:
            raise LensSteerError(f"--source {spec}: no prompts without the feature: add =NEGATIVE, or give --negative")
        found[name] = (files[0], files[1] if len(files) == 2 else str(negative))
    return found


def _sizes(spec: str) -> list[int]:
    """Parse numbers of prompts with commas.

    >>> _sizes("8, 33")
    [8, 33]

    Raises:
        LensSteerError: If one is no number of at least 2.
    """
    parts = [part.strip() for part in spec.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) >= 2 for part in parts):
        raise LensSteerError(f"--sizes {spec}: give numbers of at least 2 with commas, such as 8,33,128")
    return [int(part) for part in parts]


COMMANDS: tuple[Callable[..., None], ...] = (transfer, angle_transfer)
