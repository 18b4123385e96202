"""Experiments on behaviour: conditions that differ in one thing each, graded answers, differences paired by prompt.

The best angle of every condition is chosen on the select split by the protocol's rule
(:func:`lens_steer.evaluation.selection.choose`): the angle with the most harmful requests complied with. Where no angle
elicits more than the unsteered model does, the choice is a tie at nothing, and no angle is taken from it. The results
come from the report split, at that angle and at the nominal one, which is the best angle of SS at L_disc. They are
compliance, perplexity of the answers under the unsteered model, and capability. Random controls run in many draws at
the nominal angle alone (:mod:`lens_steer.studies.propositions.draws`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lens_steer._defaults import ENGINE
from lens_steer._io.rowstore import Row
from lens_steer.data import ContrastSet, PromptSet
from lens_steer.evaluation.bounds import measured_bound
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.protocol import on_select
from lens_steer.evaluation.selection import at_nothing
from lens_steer.evaluation.sweep_protocol import POSITIVE, Protocol
from lens_steer.evaluation.sweeps import run as measure
from lens_steer.geometry.calibration import Calibration, calibrate
from lens_steer.inference.record import Activations
from lens_steer.metrics.benchmarks import NO_TASKS
from lens_steer.models import sites
from lens_steer.models.loading import info_of
from lens_steer.steer.methods import mean_phase_rotation, phase_collapse, selective_steering, standard_angular
from lens_steer.steer.plans import SteeringPlan
from lens_steer.studies.propositions.dose import dose_grids
from lens_steer.studies.propositions.draws import DRAWS, by_control, draw_grids
from lens_steer.studies.propositions.measured import Measured
from lens_steer.studies.propositions.prefix_cache import Reuse, reuse_by_outcome, stale_grids

ANGLES = tuple(float(a) for a in range(30, 360, 30))  # degrees tried on the select split
BASE, COLLAPSE = "SS, L_disc", "X2 (collapse)"
UNSTEERED, NOMINAL = "no steering", "nominal"
N_CONDITIONS = 17
READ = ("ref",)  # the unsteered model alone reads the answers again


@dataclass(frozen=True)
class Experiments:
    """The results of the experiments on the report split.

    Attributes:
        measured: No steering, and every condition at its own best angle and at the nominal one. Where the choice of SS
            at L_disc is a tie at nothing there is no nominal angle, and no condition is measured at it.
        dose: SS at L_disc at its own best angle with its output multiplied by s, by s, in ascending order; at 1 it is
            SS itself. It is empty where that choice is a tie at nothing.
        drawn: The draws of each random control at the nominal angle, by control; empty where there is none.
        reused: What a prefix cache hands over of the prompts of each outcome, by outcome; empty where it is not known.
    """

    measured: tuple[Measured, ...]
    dose: Mapping[float, Measured]
    drawn: Mapping[str, tuple[Measured, ...]] = field(default_factory=dict)
    reused: Mapping[str, Reuse] = field(default_factory=dict)

    def at(self, *, nominal: bool) -> dict[str, Measured]:
        """Return the conditions at their own best angles, or at the nominal one, by name."""
        return {m.condition: m for m in self.measured if m.at_nominal == nominal}


def conditions(calibration: Calibration, activations: Activations) -> list[Grid]:
    """Return every condition with a choice of its own as a grid over the angles; X2 has no angle."""
    norms = sites.resolve("norm_out", calibration.layout)
    half = calibration.n_layers // 2
    b1, b2 = calibration.basis
    planes = {
        "uncentred PCA": calibrate(activations, pca_center=False, rule=calibration.rule).basis,
        "b2 reversed": torch.stack([b1, -b2]),
    }
    ss, sas = partial(selective_steering, calibration), partial(standard_angular, calibration)

    def in_blocks(wanted: set[int]) -> tuple[str, ...]:
        return tuple(n for n in norms if sites.parse(n).block in wanted)

    builds = {
        BASE: ss,
        "SS, all sites": partial(ss, at=norms),
        "SAS, L_disc": sas,
        "SAS, all sites": partial(sas, at=norms),
        "SAS + mean phase": partial(with_mean_phase, calibration),
        "X1 (rotate)": partial(mean_phase_rotation, calibration),
        COLLAPSE: lambda _: phase_collapse(calibration),
        "SS, early half": partial(ss, at=in_blocks(set(range(half)))),
        "SS, late half": partial(ss, at=in_blocks(set(range(half, calibration.n_layers)))),
        **{f"SS, {name}": partial(ss, basis=basis) for name, basis in planes.items()},
    }
    own = [Grid(name, build, (None,) if name == COLLAPSE else ANGLES) for name, build in builds.items()]
    return own + stale_grids(calibration, ANGLES)


def with_mean_phase(calibration: Calibration, angle: float | Sequence[float]) -> SteeringPlan:
    """Return SAS at θ + φ̄, where φ̄ is the mean phase of the harmful class at each site (E3).

    This angle puts the class mean where SS by θ puts it.

    Args:
        calibration: A calibration with class means.
        angle: The angle θ in degrees, or one for each prompt.
    """
    phases = mean_phase_rotation(calibration, angle, phase_of="positive")
    steps = [
        replace(
            s,
            operator="standard",
            parameters={
                "basis": s.parameters["basis"],
                "angle": s.parameters["angle"] + s.parameters["mean_phase"],
            },
        )
        for s in phases.steps
    ]
    return replace(phases, method="standard", steps=tuple(steps))


def run(
    model: Any,
    contrast: ContrastSet,
    calibration: Calibration,
    activations: Activations,
    folder: str | Path,
    *,
    tasks: PromptSet = NO_TASKS,
    seed: int = 0,
    engine: str = ENGINE,
    max_new_tokens: int = 48,
    draws: int = DRAWS,
    progress: bool = True,
) -> Experiments:
    """Measure no steering, and every condition at its own best angle and at the nominal one.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        contrast: Prompts. The angles are chosen on the select split and measured on the report split.
        calibration: Calibration with direction, plane and discriminative sites.
        activations: Recorded activations of the fit split, for the plane from uncentred candidates.
        folder: Folder that keeps the rows, so that an interrupted run continues where it stopped.
        tasks: Capability tasks with a ground truth; an empty set measures no capability.
        seed: Seed of the draws of random blocks, sites, axes and planes.
        engine: Engine that generates; see :func:`lens_steer.generate`.
        max_new_tokens: Largest number of tokens of each answer.
        draws: Number of draws of each random control.
        progress: Show a progress bar.
    """
    grids = conditions(calibration, activations)
    how: dict[str, Any] = {"engine": engine, "max_new_tokens": max_new_tokens, "read_by": READ}
    bound = measured_bound(Protocol(model, contrast.select, "select", NO_TASKS, **how), folder, progress=progress)
    how |= {} if bound is None else {"bound": bound}
    # With a ground truth the answers alone decide on the select split, and no model reads them again.
    answers_alone = how | {"asked": (POSITIVE,), "read_by": () if bound is None else READ}
    found, choices, _ = on_select(
        model, contrast, [Grid(NONE), *grids], folder, tasks=NO_TASKS, seed=seed, progress=progress, **answers_alone
    )
    unsteered = next(s for s in found if s.condition == NONE)
    best = {
        g.condition: None if at_nothing(found, unsteered, choices[g.condition]) else choices[g.condition].value
        for g in grids
        if len(g.values) > 1
    }
    nominal = best[BASE]
    doses = {} if nominal is None else dose_grids(calibration, nominal)
    drawn = [] if nominal is None else draw_grids(calibration, nominal, draws=draws, seed=seed)
    reported = [Grid(NONE), *_reported(grids, best), *doses.values(), *drawn]
    protocol = Protocol(model, contrast.report, "report", tasks, **how)
    by_setting: dict[tuple[str, str], list[Row]] = {}
    for row in measure(protocol, reported, folder, "report", progress=progress):
        by_setting.setdefault((row["condition"], row["variant"]), []).append(row)
    measured = (Measured.of(by_setting[NONE, ""], UNSTEERED, None), *_measured(grids, best, by_setting))
    dose = {s: Measured.of(by_setting[g.condition, g.variant], g.name, nominal) for s, g in doses.items()}
    base = next(m for m in measured if m.condition == BASE and not m.at_nominal)
    of_draws = [Measured.of(by_setting[g.condition, g.variant], g.condition, nominal, at_nominal=True) for g in drawn]
    return Experiments(
        measured,
        dict(sorted({**dose, 1.0: base}.items())) if dose else {},
        by_control(of_draws),
        reuse_by_outcome(info_of(model).tokenizer, contrast.report, tasks),
    )


def _reported(grids: Sequence[Grid], best: Mapping[str, float | None]) -> Iterator[Grid]:
    """Yield each condition at its own best angle and at the nominal one, where these are different and are there."""
    for grid in grids:
        own, nominal = best.get(grid.condition), best[BASE]
        if grid.condition not in best:
            yield grid
            continue
        if own is not None:
            yield grid.at(own)
        if nominal is not None and nominal != own:
            yield replace(grid.at(nominal), variant=NOMINAL)


def _measured(
    grids: Sequence[Grid], best: Mapping[str, float | None], rows: Mapping[tuple[str, str], Sequence[Row]]
) -> Iterator[Measured]:
    """Yield each condition at its own best angle, and at the nominal one where there is one."""
    for name in (g.condition for g in grids):
        own, nominal, tied = best.get(name), best[BASE], name in best and best[name] is None
        found = Measured.of(rows.get((name, ""), ()), name, own, tied=tied)
        yield found
        if nominal is None:
            continue
        same = name not in best or own == nominal
        yield replace(found if same else Measured.of(rows[name, NOMINAL], name, nominal), at_nominal=True)
