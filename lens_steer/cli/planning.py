"""The options that say what steers: a calibration, a probe or a saved plan, with the parameters of a method."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_steer.cli.groups import Group
from lens_steer.cli.options import CalibrationFolder, Method, Probe
from lens_steer.errors import LensSteerError
from lens_steer.operators.parameters import COEFFICIENT, Parameter
from lens_steer.steer.method_table import DEFAULT, DEFAULT_OF_A_PROBE, options


def option_of(parameter: Parameter, *, short: bool = False) -> Any:
    """Return the command-line option that sets a parameter.

    Args:
        parameter: The parameter of an operator or a method.
        short: Leave out of the help which values the parameter takes.
    """
    values = "" if short or not parameter.values else f": {parameter.values}"
    return typer.Option(f"--{parameter.name.replace('_', '-')}", help=f"{parameter.help}{values}.")


def with_options(base: type[Group], parameters: Iterable[Parameter], *, short: bool = False) -> Any:
    """Derive a group of options from another, with one more option for each parameter.

    A number is read as text, since several may be given with commas. A choice has the type of its values.

    Args:
        base: The group whose options come first.
        parameters: The parameters to add; every option is None by default.
        short: Leave out of the help which values the parameters take.
    """
    added = []
    for p in parameters:
        kind: Any = type(p.choices[0]) if p.kind == "choice" else str
        added.append((p.name, Annotated[kind | None, option_of(p, short=short)], None))
    return make_dataclass(base.__name__, added, bases=(base,), frozen=True)


PlanFolder = Annotated[
    Path | None, typer.Option("--plan", help="Folder of a saved plan, instead of a calibration and a method.")
]
Coefficient = Annotated[str | None, option_of(COEFFICIENT)]
At = Annotated[str | None, typer.Option("--sites", help="Other sites than the method's own: names, kinds or groups.")]
UNSTEERED = "none"  # the value of --method, for commands that can also run unsteered
_OF_A_METHOD = (*(p.name for p in options()), "positions")


@dataclass(frozen=True)
class Source(Group):
    """The options that say what a plan is made from."""

    calibration: CalibrationFolder = None
    plan: PlanFolder = None
    probe: Probe = None
    method: Method = None


@dataclass(frozen=True)
class Planned(with_options(Source, options())):
    """The options of a steering plan: its source, the method's parameters, sites and positions."""

    sites: At = None
    positions: Annotated[
        str | None,
        typer.Option(
            help="Tokens: all, prompt, generated (or response), prompt[-1], generated[:5], on a reasoning model "
            "thought or answer, reused(16) or recomputed(16) for the blocks of a prefix cache, joined by +."
        ),
    ] = None

    def read(self) -> Any:
        """Load the saved plan, or make the plan of the method.

        Raises:
            LensSteerError: If not exactly one of calibration, probe and plan was given, if options were given beside a
                saved plan, or if the method refuses the options.
        """
        at = {} if self.sites is None else {"at": self.sites}
        return read_plan(self.plan, self.calibration, self.probe, self.method, self.given(*_OF_A_METHOD) | at)

    def read_or_none(self) -> Any:
        """Return the plan; None for ``--method none``, which steers nothing and needs nothing to steer by.

        Raises:
            LensSteerError: If ``--method none`` was given with options that steer; otherwise as :meth:`read`.
        """
        if self.method != UNSTEERED:
            return self.read()
        given = self.given("calibration", "plan", "probe", "sites", *_OF_A_METHOD)
        if given:
            raise LensSteerError(
                f"--method {UNSTEERED} steers nothing: leave out {', '.join(_option(name) for name in given)}"
            )
        return None

    @property
    def source(self) -> Any:
        """The probe that was given, which records more of its model than the plan does; None without a probe."""
        from lens_steer.probes.io import load_probe

        return None if self.probe is None else load_probe(self.probe)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def read_plan(
    saved: Path | None, calibration: Path | None, probe: Path | None, method: str | None, asked: dict[str, Any]
) -> Any:
    """Load the saved plan, or make the plan of a method from a calibration or a probe.

    Args:
        saved: The folder of a saved plan.
        calibration: The folder of a calibration, or of a selected direction.
        probe: The folder of a probe.
        method: The name of the method; None means :func:`default_method`.
        asked: The method's options that were given, by name, numbers as text.

    Raises:
        LensSteerError: If not exactly one of ``saved``, ``calibration`` and ``probe`` was given, if a method or options
            were given beside a saved plan, or if the method refuses the options.
    """
    from lens_steer.steer.methods import check_options, make_plan
    from lens_steer.steer.plans import load_plan, parse_numbers

    if sum(v is not None for v in (saved, calibration, probe)) != 1:
        raise LensSteerError("give one of --calibration, --probe (with --method) and --plan")
    if saved is None:
        method, source = method or default_method(probe), read_steering(calibration, probe)
        check_options(method, source, asked)
        numeric = {p.name for p in options() if p.kind == "number"}
        read = {name: parse_numbers(name, value) if name in numeric else value for name, value in asked.items()}
        return make_plan(method, source, **read)
    given = [*(["method"] if method else []), *asked]
    if given:
        raise LensSteerError(f"--plan {str(saved)!r} already says all of it: leave out {', '.join(given)}")
    return load_plan(str(saved))


def read_steering(calibration: Path | None, probe: Path | None) -> Any:
    """Load the calibration, the selected direction or the probe that was given.

    A selected direction is given as ``--calibration``, too.

    Raises:
        LensSteerError: If both were given, or neither.
    """
    from lens_steer.geometry.direction_files import holds_direction, load_direction

    if calibration is not None and probe is None and holds_direction(calibration):
        return load_direction(calibration)
    return read_source(calibration, probe)


def read_source(calibration: Path | None, probe: Path | None) -> Any:
    """Load the calibration or the probe that was given.

    Raises:
        LensSteerError: If both were given, or neither.
    """
    from lens_steer.geometry.files import load_calibration
    from lens_steer.probes.io import load_probe

    if (calibration is None) == (probe is None):
        raise LensSteerError("give either --calibration or --probe")
    return load_calibration(str(calibration)) if probe is None else load_probe(probe)


def default_method(probe: Path | None) -> str:
    """Return the name of the method that is used where none is named."""
    return DEFAULT if probe is None else DEFAULT_OF_A_PROBE
