"""The options that say what steers: a calibration, a probe or a saved plan, and what a method is asked for."""

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
    """The command line's option that sets a parameter; ``short`` leaves out which values it takes."""
    values = "" if short or not parameter.values else f": {parameter.values}"
    return typer.Option(f"--{parameter.name.replace('_', '-')}", help=f"{parameter.help}{values}.")


def with_options(base: type[Group], parameters: Iterable[Parameter], *, short: bool = False) -> Any:
    """A group of options, and after them an option for each parameter: text for numbers, of which there may be several,
    else the choice's own type.
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
UNSTEERED = "none"  # --method, of commands that may well not steer
_OF_A_METHOD = (*(p.name for p in options()), "positions")


@dataclass(frozen=True)
class Source(Group):
    """What a plan is made from."""

    calibration: CalibrationFolder = None
    plan: PlanFolder = None
    probe: Probe = None
    method: Method = None


@dataclass(frozen=True)
class Planned(with_options(Source, options())):
    """What steers."""

    sites: At = None
    positions: Annotated[
        str | None,
        typer.Option(
            "--positions", help="Tokens: all, prompt, generated (or response), prompt[-1], generated[:5], joined by +."
        ),
    ] = None

    def read(self) -> Any:
        """The plan.

        Raises:
            LensSteerError: not exactly one of calibration, probe and plan; options beside a saved plan; what the method
                says of them.
        """
        at = {} if self.sites is None else {"at": self.sites}
        return read_plan(self.plan, self.calibration, self.probe, self.method, self.given(*_OF_A_METHOD) | at)

    def read_or_none(self) -> Any:
        """The plan, or None for ``--method none``, which steers nothing and needs nothing to steer by.

        Raises:
            LensSteerError: ``--method none`` beside what would steer; else as :meth:`read`.
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
        """The probe that was given, which says more of its model than the plan does."""
        from lens_steer.probes.io import load_probe

        return None if self.probe is None else load_probe(self.probe)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def read_plan(
    saved: Path | None, calibration: Path | None, probe: Path | None, method: str | None, asked: dict[str, Any]
) -> Any:
    """The saved plan, or a method's on a calibration or a probe."""
    from lens_steer.steer.methods import check_options, make_plan
    from lens_steer.steer.plans import load_plan, parse_numbers

    if sum(v is not None for v in (saved, calibration, probe)) != 1:
        raise LensSteerError("give one of --calibration, --probe (with --method) and --plan")
    if saved is None:
        method, source = method or default_method(probe), read_source(calibration, probe)
        check_options(method, source, asked)
        numeric = {p.name for p in options() if p.kind == "number"}
        read = {name: parse_numbers(name, value) if name in numeric else value for name, value in asked.items()}
        return make_plan(method, source, **read)
    given = [*(["method"] if method else []), *asked]
    if given:
        raise LensSteerError(f"--plan {str(saved)!r} already says all of it: leave out {', '.join(given)}")
    return load_plan(str(saved))


def read_source(calibration: Path | None, probe: Path | None) -> Any:
    """The calibration or the probe that was given."""
    from lens_steer.geometry.files import load_calibration
    from lens_steer.probes.io import load_probe

    if (calibration is None) == (probe is None):
        raise LensSteerError("give either --calibration or --probe")
    return load_calibration(str(calibration)) if probe is None else load_probe(probe)


def default_method(probe: Path | None) -> str:
    """What is meant where no method is named."""
    return DEFAULT if probe is None else DEFAULT_OF_A_PROBE
