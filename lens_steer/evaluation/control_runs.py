"""Runs of a method's controls beside it, and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lens_steer.data import ContrastSet
from lens_steer.evaluation.control_bands import Band
from lens_steer.evaluation.controls import AT_ITS_VALUE, Controls, report_draws, select_draws, shuffled_calibrations
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.selection import Setting, settings
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.evaluation.sweeps import run
from lens_steer.inference.record import Activations

NO_CONTROLS = "No controls were run: how far chance alone comes is not known."


@dataclass(frozen=True)
class Beside:
    """The controls that ran beside a method.

    Attributes:
        controls: The source of the controls; None where none were requested.
        report: Every control at the method's chosen value.
        select: Random planes at a few values.
        left_out: The reason why a control did not run, by control.
    """

    controls: Controls | None = None
    report: tuple[Setting, ...] = ()
    select: tuple[Setting, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def drawn(self) -> dict[str, Any]:
        """Return the arguments of a figure over values: the settings it draws, and its note."""
        return {"controls": self.select, "told": "" if self.report else "no controls were run"}

    def record(self) -> dict[str, Any]:
        """Return plain values, as in ``sweep.json`` and ``comparison.json``."""
        if self.controls is None or not self.controls.draws:
            return {"draws": 0, "told": NO_CONTROLS}
        return {
            "draws": self.controls.draws,
            "seed": self.controls.seed,
            "smallest_p": self.controls.smallest_p,
            "told": AT_ITS_VALUE,
            "left_out": dict(self.left_out),
            "report": [s.row() for s in self.report],
            "select": [s.row() for s in self.select],
        }


def run_controls(
    controls: Controls | None,
    chosen: Grid,
    grids: Sequence[Grid],
    on_report: Protocol,
    on_select: Protocol,
    contrast: ContrastSet,
    out: str | Path,
    *,
    drawn_alone: bool = False,
    activations: Activations | None = None,
    identity: dict[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Beside:
    """Run a method's controls; rows go to ``report_controls.csv`` and ``select_controls.csv``.

    Like every run, this one can be resumed.

    Args:
        controls: The source of the controls; nothing runs for None or for 0 draws.
        chosen: The method's grid at only its chosen value.
        grids: All grids of the method, from which random planes run at a few values on the select split; empty for no
            such runs.
        on_report, on_select: The protocols of the two splits.
        contrast: The contrast whose fit prompts are those of the shuffled labels.
        out: The folder.
        drawn_alone: Whether to leave out the controls that have only one form (the identity setting, all sites).
        activations: The activations of the fit prompts at the calibration's sites; None records them.
        identity, progress: See :func:`lens_steer.evaluation.sweeps.run`.
        seed: The seed of the intervals.

    Raises:
        LensSteerError: If the grid steers nothing, or :func:`lens_steer.evaluation.sweeps.run` refuses an argument.
    """
    if controls is None or not controls.draws:
        return Beside(controls)
    shuffled = shuffled_calibrations(
        on_report.model, contrast, controls, out, engine=on_report.engine, activations=activations, progress=progress
    )
    reported, left_out = report_draws(controls, chosen, shuffled)
    if drawn_alone:
        reported = [g for g in reported if g.draw]
    tried = select_draws(controls, grids) if grids else []
    found = [
        tuple(
            settings(
                run(protocol, drawn, out, f"{protocol.split}_controls", identity=identity, progress=progress), seed=seed
            )
        )
        if drawn
        else ()
        for protocol, drawn in ((on_report, reported), (on_select, tried))
    ]
    return Beside(controls, found[0], found[1], left_out)


def plain_bands(found: Mapping[str, Mapping[str, Band]]) -> dict[str, Any]:
    """Return bands as plain values.

    >>> from lens_steer.evaluation.control_bands import band
    >>> plain_bands({"capable": {"random plane": band([0.0, 0.5], 1.0)}})["capable"]["random plane"]["maximum"]
    0.5
    """
    return {quantity: {control: asdict(b) for control, b in by.items()} for quantity, by in found.items()}
