"""The options that say what steers: a calibration, a probe or a saved plan, and what a method is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_steer.cli.groups import Group
from lens_steer.cli.options import CalibrationFolder, Method, Probe
from lens_steer.errors import LensSteerError

PlanFolder = Annotated[Path | None, typer.Option("--plan", help="Folder of a saved plan, instead of a calibration and a method.")]
Coefficient = Annotated[str | None, typer.Option("--coefficient", help="Strength of an addition, of StTP or StMP.")]
Target = Annotated[str | None, typer.Option("--target", help="Projection that clamp sets.")]
At = Annotated[str | None, typer.Option("--sites", help="Other sites than the method's own: names, kinds or groups.")]
UNSTEERED = "none"  # --method, of commands that may well not steer
_OF_A_METHOD = ("angle", "coefficient", "target", "threshold", "gate_axis", "gate", "positions")


@dataclass(frozen=True)
class Planned(Group):
    """What steers."""

    calibration: CalibrationFolder = None
    plan: PlanFolder = None
    probe: Probe = None
    method: Method = None
    angle: Annotated[
        str | None, typer.Option("--angle", help="Degrees: relative for selective, absolute for standard, adaptive, mean-phase.")
    ] = None
    coefficient: Coefficient = None
    target: Target = None
    threshold: Annotated[str | None, typer.Option("--threshold", help="Gate of adaptive (0).")] = None
    gate_axis: Annotated[int | None, typer.Option("--gate-axis", help="Axis of adaptive's gate: 0 (b1) or 1 (b2).")] = None
    gate: Annotated[str | None, typer.Option("--gate", help="Side of the boundary that sttp and stmp move: below or above.")] = (
        None
    )
    sites: At = None
    positions: Annotated[
        str | None,
        typer.Option("--positions", help="Tokens: all, prompt, generated (or response), prompt[-1], generated[:5], joined by +."),
    ] = None

    def read(self) -> Any:
        """The plan.

        Raises:
            LensSteerError: not exactly one of calibration, probe and plan; options beside a saved plan; what the method says of them.
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
            raise LensSteerError(f"--method {UNSTEERED} steers nothing: leave out {', '.join(_option(name) for name in given)}")
        return None

    @property
    def source(self) -> Any:
        """The probe that was given, which says more of its model than the plan does."""
        from lens_steer.probes.io import load_probe

        return None if self.probe is None else load_probe(self.probe)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def read_plan(
    saved: Path | None, calibration: Path | None, probe: Path | None, method: str | None, options: dict[str, Any]
) -> Any:
    """The saved plan, or a method's on a calibration or a probe."""
    from lens_steer.steer.methods import make_plan
    from lens_steer.steer.plans import load_plan

    if sum(v is not None for v in (saved, calibration, probe)) != 1:
        raise LensSteerError("give one of --calibration, --probe (with --method) and --plan")
    if saved is None:
        return make_plan(method or default_method(probe), read_source(calibration, probe), **options)
    given = [*(["method"] if method else []), *options]
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
    return "selective" if probe is None else "sttp"
