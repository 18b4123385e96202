"""The study: angles are chosen on select under a budget of side effects, and every set of sites is measured on report.

For every set of sites and every budget, the angle is the one of the largest effect whose side effect keeps to the
budget (:meth:`lens_steer.studies.site_choice.curves.SetCurve.within`). So sets are compared under the same budget, and
not at equal angles: a set of more sites is turned less. At one budget, fixed beforehand, answers are generated. The
angles are a grid, refined by bisection wherever the side effect crosses this budget, so that no set is held back by a
coarse grid; a set whose side effect never reaches the budget stays below it. What each one costs is told beside what it
does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lens_steer._defaults import ENGINE
from lens_steer._io.rowstore import Row
from lens_steer.data import Contrast, ContrastSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.bounds import harmless_alone, measured_bound
from lens_steer.evaluation.budgeted import ANGLES, BUDGET, check_angles
from lens_steer.evaluation.conditions import NONE, plan_at_value
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.pieces import kept_calibration
from lens_steer.evaluation.protocol import check_splits
from lens_steer.evaluation.published_direction import ARDITI, PublishedDirection, published_direction
from lens_steer.evaluation.selection import Setting, settings
from lens_steer.evaluation.sweep_protocol import NEGATIVE, Protocol
from lens_steer.evaluation.sweeps import run
from lens_steer.geometry.calibration import Calibration, calibrate
from lens_steer.geometry.selected_direction import StreamDirection
from lens_steer.inference.record import record
from lens_steer.metrics.benchmarks import NO_TASKS, Tasks
from lens_steer.models.loading import info_of
from lens_steer.models.sites import resolve
from lens_steer.studies.site_choice.curves import SetCurve, curves
from lens_steer.studies.site_choice.sets import DRAWS, SiteSet, check_counts, site_sets

# In nats a token along the unsteered model's answers to harmless prompts; fixed before any result was seen.
BUDGETS = (0.05, 0.1, 0.2, 0.5)
ROUNDS = 4  # of bisection: with angles 30 degrees apart, the budget is met to 2 degrees.
POSITIVE_CONTROL = "ablation-everywhere"


@dataclass(frozen=True)
class SiteChoice:
    """The results of the study.

    Attributes:
        calibration: The direction and the plane, the same for every set of sites.
        select, report: The curves of every set on both splits, in the same order: on select over all angles that were
            tried, on report at those that were chosen for some budget (one angle at least).
        budgets: The budgets of side effects.
        budget: The one at which answers were generated.
        settings: The settings on the report split: no steering, the positive control, and every set at its angle.
        rows: Their rows.
        published: The direction of the positive control, or the reason why there is none.
    """

    calibration: Calibration
    select: tuple[SetCurve, ...]
    report: tuple[SetCurve, ...]
    budgets: tuple[float, ...]
    budget: float
    settings: tuple[Setting, ...]
    rows: tuple[Row, ...]
    published: PublishedDirection

    def cost(self, of: SiteSet) -> float | None:
        """Return the mean divergence of a set on report at its angle under the budget; None where it has none."""
        angle = self.chosen(of, self.budget)
        curve = next(c for c in self.report if c.set == of)
        return None if angle is None else float(curve.cost[curve.values.index(angle)])

    def chosen(self, of: SiteSet, budget: float) -> float | None:
        """Return the angle of a set of sites under a budget; None where no angle has an effect within it."""
        curve = next(c for c in self.select if c.set == of)
        at = curve.within(budget)
        return None if at is None else curve.values[at]


def study(
    model: Any,
    contrast: ContrastSet,
    out: str | Path,
    *,
    counts: Sequence[int] | None = None,
    draws: int = DRAWS,
    values: Sequence[float] = ANGLES,
    budgets: Sequence[float] = BUDGETS,
    budget: float = BUDGET,
    tasks: Tasks | None = None,
    direction: StreamDirection | str | None = ARDITI,
    openings: Sequence[str] | None = None,
    seed: int = 0,
    engine: str = ENGINE,
    max_new_tokens: int = 48,
    progress: bool = True,
) -> SiteChoice:
    """Compare the sets of sites of :func:`lens_steer.studies.site_choice.sets.site_sets`; an interrupted run goes on.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        contrast: The prompts: direction, plane and sites come from fit, angles from select, numbers from report.
        out: The folder of the rows.
        counts, draws: See :func:`lens_steer.studies.site_choice.sets.site_sets`.
        values: The angles in degrees.
        budgets: The budgets of side effects, in nats a token.
        budget: The one of them at which answers are generated.
        tasks: The capability tasks; those of the report split are done at the chosen angles.
        direction: The direction of the positive control; see :func:`lens_steer.evaluation.comparison.compare`.
        openings: See :func:`lens_steer.metrics.refusal_score.refusal_tokens`.
        seed: The seed of the calibration, the draws and the intervals.
        engine, max_new_tokens: See :func:`lens_steer.generate`.
        progress: Whether to show bars.

    Raises:
        LensSteerError: If the contrast has no select or report prompts, a budget is not above 0, ``budget`` is none of
            ``budgets``, a count is no number of sites, no angle turns anything, no site is discriminative by the
            published rule, or the folder holds another run.
    """
    check_splits(contrast)
    if budget not in budgets or min(budgets) <= 0:
        raise LensSteerError(f"budget={budget!r}, budgets={list(budgets)!r}: give budgets above 0, and one of them")
    info = info_of(model)
    check_counts(counts, len(resolve("norm_out", info.layout)))
    grid_angles = check_angles(values, budget)
    identity = {"seed": seed, "fit": contrast.fit.hash}
    kept: dict[str, Any] = {"identity": identity, "progress": progress}
    activations = record(model, contrast.fit, "norm_out", engine=engine, progress=progress)
    folder = Path(out) / "calibration"
    calibration = kept_calibration(folder, activations, lambda: calibrate(activations, seed=seed), seed=seed)
    sets = site_sets(calibration, counts=counts, draws=draws, seed=seed)
    how: dict[str, Any] = {"engine": engine, "max_new_tokens": max_new_tokens}

    def measured(
        split: str, name: str, responses: Sequence[Row], angles: Mapping[SiteSet, Sequence[float]]
    ) -> dict[SiteSet, SetCurve]:
        part: Contrast = getattr(contrast, split)
        texts = [str(row["text"]) for row in responses]
        over = {"values": list(angles.values()), "openings": openings, "engine": engine, **kept}
        found = curves(model, calibration, list(angles), part, texts, out, name, **over)
        return dict(zip(angles, found, strict=True))

    selecting = Protocol(model, contrast.select, "select", NO_TASKS, **how)
    bound = measured_bound(selecting, out, **kept)
    # The answers from which the bound comes; where a ground truth grades them, there is no bound and they are not read.
    alone = harmless_alone(selecting) or replace(selecting, asked=(NEGATIVE,), read_by=())
    answered = run(alone, [Grid(NONE)], out, "unsteered", **kept)
    by_set = measured("select", "curves_select", answered, dict.fromkeys(sets, grid_angles))
    for i in range(1, ROUNDS + 1):  # bisection towards the budget, so that a coarse grid favours no set
        tried = {s: [(a + b) / 2 for a, b in c.crossings(budget)] for s, c in by_set.items()}
        more = measured("select", f"curves_select_{i}", answered, {s: angles for s, angles in tried.items() if angles})
        by_set |= {s: by_set[s].joined(curve) for s, curve in more.items()}
    select = tuple(by_set[s] for s in sets)
    published = published_direction(
        model, contrast, out, [POSITIVE_CONTROL], direction, seed=seed, progress=progress, **how
    )
    grids = [Grid(NONE), *published.grids([POSITIVE_CONTROL])]
    for curve in select:
        at = curve.within(budget)
        if at is not None:
            own, build = curve.set, partial(plan_at_value, "selective", calibration, {"at": curve.set.sites})
            grid = Grid(own.condition, build, (curve.values[at],), own.variant, method="selective", draw=own.draw)
            grids.append(grid)
    on_report = Protocol(model, contrast.report, "report", (tasks or Tasks()).report, bound=bound, **how)
    rows = run(on_report, grids, out, "report", **kept)
    unsteered = [r for r in rows if r["condition"] == NONE and r["side"] == NEGATIVE]
    angles = {curve.set: _chosen(curve, budgets) for curve in select}
    report = tuple(measured("report", "curves_report", unsteered, angles).values())
    return SiteChoice(
        calibration,
        select,
        report,
        tuple(budgets),
        budget,
        tuple(settings(rows, seed=seed)),
        tuple(rows),
        published,
    )


def _chosen(curve: SetCurve, budgets: Sequence[float]) -> list[float]:
    """Return the angles that some budget chooses; the first angle where none does."""
    indices = {at for budget in budgets if (at := curve.within(budget)) is not None}
    return [curve.values[at] for at in sorted(indices or {0})]
