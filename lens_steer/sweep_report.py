"""A sweep of one method, written: rows, numbers by setting, the choice, figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lens_steer.artifacts import whole_folder
from lens_steer.bounds import measured_bound
from lens_steer.control_bands import Band, bands
from lens_steer.controls import AT_ITS_VALUE, Controls, report_draws, select_draws, shuffled_calibrations
from lens_steer.defaults import ENGINE
from lens_steer.evaluation import Evaluation, chosen_grids, on_select
from lens_steer.figures import saving
from lens_steer.figures.sweeps import COHERENCE, by_value
from lens_steer.first_token import FirstToken, first_token
from lens_steer.geometry.calibration import versions
from lens_steer.grids import ANGULAR, NONE
from lens_steer.metrics.benchmarks import Tasks
from lens_steer.prompts import ContrastSet
from lens_steer.selection import Constraint, Setting, settings
from lens_steer.sweeps import Grid, Protocol, run

FIRST_OF = 16  # prompts that the first token is looked at on
NO_CONTROLS = "No controls were run: how far chance alone comes is not known."


@dataclass(frozen=True)
class Beside:
    """What ran beside a method.

    Attributes:
        controls: what they were made from; None where none were asked for.
        report: every control at the method's chosen value.
        select: random planes at a few values.
        left_out: control → why it did not run.
    """

    controls: Controls | None = None
    report: tuple[Setting, ...] = ()
    select: tuple[Setting, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def drawn(self) -> dict[str, Any]:
        """What a figure over values draws of it, and says."""
        return {"controls": self.select, "told": "" if self.report else "no controls were run"}

    def record(self) -> dict[str, Any]:
        """Plain values, as ``sweep.json`` has them."""
        if self.controls is None or not self.controls.draws:
            return {"draws": 0, "told": NO_CONTROLS}
        return {
            "draws": self.controls.draws, "seed": self.controls.seed, "smallest_p": self.controls.smallest_p, "told": AT_ITS_VALUE, "left_out": dict(self.left_out),
            "report": [s.row() for s in self.report], "select": [s.row() for s in self.select],
        }  # fmt: skip


@dataclass(frozen=True, repr=False)
class Swept(Evaluation, view="sweeps"):
    """An evaluation of one method, with its controls.

    Attributes:
        method: which.
        beside: the controls.
        first_token: how long the first token is where the chosen plan steers.
    """

    method: str = ""
    beside: Beside = field(default_factory=Beside)
    first_token: FirstToken | None = None

    @property
    def bands(self) -> dict[str, dict[str, Band]]:
        """Quantity → control → band, with the method's rank, on the report split."""
        return bands(self.reported(self.method), self.beside.report)


def sweep_method(
    model: Any, contrast: ContrastSet, grids: Sequence[Grid], out: str | Path, *, tasks: Tasks, objective: str = "complied",
    constraints: Sequence[Constraint] = (), controls: Controls | None = None, fitted_here: bool = True, seed: int = 0, command: str = "", progress: bool = True,
    before: Callable[[Sequence[Grid]], None] | None = None, **how: Any,
) -> Swept:  # fmt: skip
    """One method's grids and no steering on select, the choice and its controls on report.

    Writes ``select.csv``, ``report.csv``, ``sweep.json`` and, over angles, figures; the rows of controls to ``report_controls.csv`` and ``select_controls.csv``.

    Without a ground truth the bound on degenerate answers is measured first; ``unsteered.csv`` holds the answers that set it.

    Args:
        model: from :func:`lens_steer.load_model`.
        contrast: with select and report prompts.
        grids: of one method, from :func:`lens_steer.grids.method_grids`.
        out: folder; an interrupted sweep goes on from what lies there.
        tasks: capability tasks, if there are any.
        objective, constraints: see :func:`lens_steer.selection.choose`.
        controls: what the method's controls are made from; None for none, which is told.
        fitted_here: whether the calibration was made from the contrast's fit split; written down.
        seed, command: written beside the numbers.
        progress: show bars.
        before: called with every grid that will run, before any does.
        how: engine, max_new_tokens and openings of a :class:`~lens_steer.sweeps.Protocol`.
    """
    everything = [Grid(NONE), *grids]
    if before is not None:
        before(everything)
    how["bound"] = bound = measured_bound(Protocol(model, contrast.select, "select", tasks.select, **how), out, progress=progress)
    select, choices, _ = on_select(
        model,
        contrast,
        everything,
        out,
        tasks=tasks.select,
        objective=objective,
        constraints=constraints,
        seed=seed,
        progress=progress,
        **how,
    )
    rows = run(
        Protocol(model, contrast.report, "report", tasks.report, **how),
        chosen_grids(everything, choices),
        out,
        "report",
        progress=progress,
    )
    method = grids[0].condition
    chosen = next(g for g in chosen_grids(everything, choices) if g.condition == method)
    beside = _controls(model, contrast, grids, chosen, out, controls, tasks, seed, progress, how)
    plan = None if chosen.build is None else chosen.build(chosen.values[0])
    first = (
        None if plan is None else first_token(model, plan, contrast.select.positive[:FIRST_OF], engine=how.get("engine", ENGINE))
    )
    reported = tuple(settings(rows, seed=seed))
    found = Swept(tuple(select), choices, reported, tuple(rows), bound, method, beside, first)
    meta = {"command": command, "seed": seed, "versions": versions(), "model": model.lens_info.name, "chat_template": model.lens_info.template.row(),
            "prompt_hashes": {s: getattr(contrast, s).hash for s in ("fit", "select", "report")}}  # fmt: skip
    graded = all(p.task is not None for p in contrast.report.positive)
    with whole_folder(out) as work:
        if method in ANGULAR and len(grids[0].values) > 2:
            for name, kind, quantities in (
                ("polar", "polar", ("complied", "perplexity_ref")), ("coherence_by_angle", "coherence", COHERENCE), ("class_swap", "class_swap", None),
            ):  # fmt: skip
                saving.save(
                    by_value(kind, select, [method], quantities, {method: choices[method].value}, graded=graded, **(beside.drawn if kind != "class_swap" else {})), name, work, meta,
                )  # fmt: skip
        record = {
            "choices": {name: asdict(c) for name, c in choices.items()}, "objective": objective, "constraints": [str(c) for c in constraints],
            "calibrated_on_this_fit_split": fitted_here, **({} if bound is None else {"degenerate_above": bound.row()}),
            "select": [s.row() for s in select],
            "report": [s.row() | ({"band": plain_bands(found.bands)} if s.condition == method else {}) for s in found.report],
            "controls": beside.record(), "first_token": None if first is None else first.record(), "meta": meta,
        }  # fmt: skip
        (work / "sweep.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return found


def plain_bands(found: Mapping[str, Mapping[str, Band]]) -> dict[str, Any]:
    """Bands as plain values.

    >>> from lens_steer.control_bands import band
    >>> plain_bands({"complied": {"random plane": band([0.0, 0.5], 1.0)}})["complied"]["random plane"]["maximum"]
    0.5
    """
    return {quantity: {control: asdict(b) for control, b in by.items()} for quantity, by in found.items()}


def _controls(
    model: Any, contrast: ContrastSet, grids: Sequence[Grid], chosen: Grid, out: str | Path, controls: Controls | None, tasks: Tasks, seed: int, progress: bool,
    how: dict[str, Any],
) -> Beside:  # fmt: skip
    """Run a method's controls, resumable like everything else."""
    if controls is None or not controls.draws:
        return Beside(controls)
    shuffled = shuffled_calibrations(model, contrast, controls, out, engine=how.get("engine", ENGINE), progress=progress)
    on_report, left_out = report_draws(controls, chosen, shuffled)
    on_select = select_draws(controls, grids)
    found = [
        tuple(settings(run(Protocol(model, part, split, own, **how), drawn, out, f"{split}_controls", progress=progress), seed=seed)) if drawn else ()
        for split, part, own, drawn in (("report", contrast.report, tasks.report, on_report), ("select", contrast.select, tasks.select, on_select))
    ]  # fmt: skip
    return Beside(controls, found[0], found[1], left_out)
