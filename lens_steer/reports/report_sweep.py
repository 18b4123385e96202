"""The sweep of a report: every angle on held-out prompts, the choice of one, and the draws of the choice's controls.

The choice and the runs are those of every evaluation (:mod:`lens_steer.evaluation`); a report adds the counts of the
answers' grades.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lens_steer._defaults import ENGINE
from lens_steer._io.rowstore import Row
from lens_steer.data import ContrastSet, PromptSet
from lens_steer.evaluation.bounds import measured_bound
from lens_steer.evaluation.cells import CELL, CLUSTER, LABELS
from lens_steer.evaluation.conditions import NONE, RANDOM_PLANE, method_grids
from lens_steer.evaluation.control_bands import Band, bands
from lens_steer.evaluation.controls import Controls, report_draws, select_draws, shuffled_calibrations
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.protocol import DEGENERATE_CONSTRAINTS
from lens_steer.evaluation.selection import Choice, Constraint, Setting, choose, settings
from lens_steer.evaluation.sweep_protocol import POSITIVE, Protocol
from lens_steer.evaluation.sweeps import run
from lens_steer.geometry.calibration import Calibration
from lens_steer.inference.record import Activations
from lens_steer.metrics.benchmarks import NO_TASKS
from lens_steer.metrics.degenerate import PerplexityBound
from lens_steer.metrics.grading import CLASSES, Outcome, graded, grades_of

ANGLES = tuple(range(0, 360, 30))  # twelve angles; 360°, the second identity, is added where they are swept
DRAWS = 10  # the number of draws of each control that is drawn
DRAWN_ANGLES = 1  # further angles of random planes for the figure, besides the chosen one: the middle of the circle
STEERED = "steering plane"


@dataclass(frozen=True, kw_only=True)
class Swept:
    """The results of a report's sweep.

    Attributes:
        measured: The outcomes on the report split: no steering, the plane at every angle, then the controls.
        rows: The rows of the report split from which they were counted.
        bound: The perplexity bound for degenerate answers; None with a ground truth.
        choice: The choice of the angle on the select split; None where nothing is steered.
        best_count: The number of answers to the positive prompts of the select split that have the best grade there.
        bands: The band of the draws, with the method's rank, by control, class and grade.
        left_out: The reason why a control did not run, by control.
    """

    measured: tuple[Outcome, ...]
    rows: tuple[Row, ...]
    bound: PerplexityBound | None = None
    choice: Choice | None = None
    best_count: int = 0
    bands: Mapping[str, Mapping[str, Mapping[str, Band]]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def answers(self, condition: str, angle: float | None, side: str) -> list[Row]:
        """Return the rows of one condition at one angle, for one class, in the order of the prompts."""
        return [r for r in self.rows if (r["condition"], r["value"], r["side"]) == (condition, angle, side)]

    @property
    def identity(self) -> bool | None:
        """Return whether the answers at 0° and 360° are the unsteered ones word for word; None without steering."""
        if self.choice is None:
            return None
        plain, *turned = (
            [r["text"] for side in CLASSES for r in self.answers(*at, side)]
            for at in ((NONE, None), (STEERED, 0.0), (STEERED, 360.0))
        )
        return all(texts == plain for texts in turned)


def protocols(
    model: Any, contrast: ContrastSet, max_new_tokens: int, *, engine: str = ENGINE
) -> tuple[Protocol, Protocol]:
    """Return the protocols of a report's select split and report split.

    Answers without a ground truth are read by the unsteered model, for their perplexity; no others are read again.
    """
    known = graded([*contrast.report.positive, *contrast.report.negative])
    how: dict[str, Any] = {
        "engine": engine,
        "max_new_tokens": max_new_tokens,
        "read_by": () if known else ("ref",),
        "cached": not known,
    }
    return (
        Protocol(model, contrast.select, "select", NO_TASKS, **how),
        Protocol(model, contrast.report, "report", NO_TASKS, **how),
    )


def report_grids(plane: Grid) -> list[Grid]:
    """Return no steering and the plane at every angle.

    The two identities, 0° and 360°, are grids of their own: their answers are compared with the unsteered ones word for
    word, and so run in batches of the same size.
    """
    first, last = (replace(plane.at(angle), variant=f"{angle:g}°") for angle in (0.0, 360.0))
    return [Grid(NONE), first, turned(plane), last]


def turned(plane: Grid) -> Grid:
    """Return the plane without the angles that change nothing, which are no candidates for the choice."""
    return replace(plane, values=tuple(v for v in plane.values if v is not None and v % 360))


def sweep(
    on: tuple[Protocol, Protocol],
    contrast: ContrastSet,
    calibration: Calibration,
    fit: Activations,
    folder: str | Path,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
) -> Swept:
    """Choose an angle on the select split, and measure all angles and the choice's controls on the report split.

    The choice is that of :func:`lens_steer.evaluation.selection.choose`: the most answers of the best grade to positive
    prompts. Without a ground truth the bound on degenerate answers is measured first, and the choice keeps to
    :data:`lens_steer.evaluation.protocol.DEGENERATE_CONSTRAINTS`.

    Args:
        on: The protocols of the two splits, from :func:`protocols`.
        contrast: The prompts, with select and report prompts.
        calibration: The calibration of the fit split.
        fit: The activations that it was made from, for the calibrations with shuffled labels.
        folder: The folder of the rows, from which an interrupted report continues.
        seed: The seed of all draws and intervals.
        draws: The number of draws of each control; 0 runs no controls.
        progress: Whether to show progress bars.

    Returns:
        The results. Without discriminative sites they hold only the outcomes without steering.
    """
    bound = measured_bound(on[0], folder, progress=progress) if on[1].read_by else None
    select, report = (replace(protocol, bound=bound) for protocol in on)
    if not calibration.discriminative_sites:
        plain = [Grid(NONE)]
        rows = run(report, plain, folder, "report", progress=progress)
        return Swept(measured=outcomes(report, plain, rows, seed=seed), rows=tuple(rows), bound=bound)
    plane = replace(method_grids(calibration, "selective", values=[float(a) for a in ANGLES])[0], condition=STEERED)
    selected = run(select, [turned(plane)], folder, "select", progress=progress)
    kept = [Constraint.parse(c) for c in DEGENERATE_CONSTRAINTS] if select.read_by else []
    choice = choose(settings(selected, seed=seed), None, constraints=kept)
    controls = Controls(calibration, draws=draws, select_values=DRAWN_ANGLES, seed=seed)
    shuffled = shuffled_calibrations(report.model, contrast, controls, folder, activations=fit, progress=False)
    at_choice, left_out = report_draws(controls, plane.at(choice.value), shuffled)
    elsewhere = [g.at(v) for g in select_draws(controls, [plane]) for v in g.values if v != choice.value]
    # Both classes run for random planes at the choice and for the controls that run once, only the positive one for
    # the other draws.
    both = [g for g in at_choice if g.condition == RANDOM_PLANE or not g.draw]
    alone = [*(g for g in at_choice if g.condition != RANDOM_PLANE and g.draw), *elsewhere]
    rows = run(report, [*report_grids(plane), *both], folder, "report", progress=progress)
    if alone:
        rows += run(replace(report, asked=(POSITIVE,)), alone, folder, "report_positive", progress=progress)
    measured = outcomes(report, [*report_grids(plane), *at_choice, *elsewhere], rows, seed=seed)
    return Swept(
        measured=measured,
        rows=tuple(rows),
        bound=bound,
        choice=choice,
        best_count=sum(r["right"] for r in selected if (r["value"], r["side"]) == (choice.value, POSITIVE)),
        bands=bands_of([o for o in measured if (o.condition, o.angle) == (STEERED, choice.value)], measured),
        left_out=left_out,
    )


def outcomes(protocol: Protocol, grids: Sequence[Grid], rows: Sequence[Row], *, seed: int = 0) -> tuple[Outcome, ...]:
    """Count the grades of the answers in the rows of a run, by setting and class, in the order of the grids.

    A class that was not measured under a setting is left out.

    Args:
        protocol: The protocol of the run.
        grids: The grids of the run.
        rows: The rows of the run.
        seed: The seed of the perplexities' intervals.
    """
    found: dict[tuple[str, str, float | None, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["condition"], row["variant"], row["value"], row["side"]), []).append(row)
    perplexity = {
        (s.condition, s.variant, s.value, side): s.measured.get(name)
        for s in settings(rows, seed=seed)
        for side, name in zip(CLASSES, ("perplexity_ref", "negative_perplexity_ref"), strict=True)
    }
    keys = [(g, (g.condition, g.variant, v, side)) for g in grids for v in g.values for side in CLASSES]
    return tuple(
        Outcome(
            grid.condition,
            key[2],
            key[3],
            _counts(protocol.sides[key[3]], found[key]),
            sum(row["cut_off"] for row in found[key]),
            perplexity[key],
            grid.draw,
            _labelled(found[key]),
        )
        for grid, key in keys
        if key in found
    )


def bands_of(method: Sequence[Outcome], measured: Sequence[Outcome]) -> dict[str, dict[str, dict[str, Band]]]:
    """Return the bands of the draws at the method's angle, by control, class and grade.

    Args:
        method: The method's outcomes at one angle, one for each class.
        measured: Outcomes among which the draws are.
    """
    found: dict[str, dict[str, dict[str, Band]]] = {}
    for own in method:
        drawn = [_setting(o) for o in measured if o.draw and (o.side, o.angle) == (own.side, own.angle)]
        for grade, by_control in bands(_setting(own), drawn).items():
            for control, b in by_control.items():
                found.setdefault(control, {}).setdefault(own.side, {})[grade] = b
    return found


def _counts(prompts: PromptSet, rows: Sequence[Row]) -> dict[str, int]:
    """Return the number of answers by grade, grades without answers included."""
    counted = Counter(row["grade"] for row in rows)
    return {name: counted[name] for name in grades_of(list(prompts))}


def _labelled(rows: Sequence[Row]) -> tuple[tuple[str, str | None, str | None], ...]:
    """Return the grade, cell and cluster of each answer; empty where the rows tell neither."""
    known = any(row.get(name) is not None for row in rows for name in LABELS)
    return tuple((row["grade"], row.get(CELL), row.get(CLUSTER)) for row in rows) if known else ()


def _setting(outcome: Outcome) -> Setting:
    """Return an outcome as a setting whose quantities are the shares of the grades."""
    variant = f"draw {outcome.draw}" if outcome.draw else ""
    shares = {grade: outcome.rate(grade) for grade in outcome.counts}
    return Setting(outcome.condition, variant, outcome.angle, "report", shares)
