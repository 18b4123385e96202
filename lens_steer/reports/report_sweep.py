"""The sweep of a report: every angle on held-out prompts, the choice of one, and the draws of the choice's controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from lens_steer.data import ContrastSet
from lens_steer.evaluation.conditions import ALL, RANDOM_PLANE, method_grids
from lens_steer.evaluation.control_bands import Band, band
from lens_steer.evaluation.controls import Controls, report_draws, select_draws, shuffled_from
from lens_steer.evaluation.pieces import Pieces
from lens_steer.evaluation.selection import MAX_DEGENERATE
from lens_steer.geometry.calibration import Calibration
from lens_steer.metrics import grading
from lens_steer.metrics.grading import CLASSES, Outcome
from lens_steer.stats import Estimate, middle_of_best
from lens_steer.steer.methods import selective_steering
from lens_steer.steer.plans import SteeringPlan

ANGLES = tuple(range(0, 360, 30))  # twelve angles; 360°, the second identity, is added where they are swept
DRAWS = 10  # the number of draws of each control that is drawn
DRAWN_ANGLES = 1  # further angles of random planes for the figure, besides the chosen one: the middle of the circle
STEERED, PLAIN = "steering plane", "no steering"
Measure = Callable[..., tuple[list[Outcome], dict[str, list[str]]]]


@dataclass(frozen=True)
class Swept:
    """The results of a report's sweep.

    Attributes:
        measured: The outcomes on the report split: no steering, the plane at every angle, then the draws of the
            controls.
        best_angle: The angle in degrees that was chosen on the select split; None where nothing is steered.
        best_count: The number of answers to its positive prompts that have the best grade at this angle.
        n_equal: The number of angles with the same count.
        met: Whether the choice keeps the share of degenerate answers within
            :data:`lens_steer.evaluation.selection.MAX_DEGENERATE` in both classes.
        identity: Whether the answers at 0° and 360° equal the unsteered ones word for word; None where nothing is
            steered.
        texts: The answers by condition and class, without steering and at the chosen angle.
        bands: The band of the draws, with the method's rank, by control, class and grade.
        left_out: The reason why a control did not run, by control.
    """

    measured: tuple[Outcome, ...]
    best_angle: int | None = None
    best_count: int = 0
    n_equal: int = 0
    met: bool = True
    identity: bool | None = None
    texts: Mapping[str, Mapping[str, list[str]]] | None = None
    bands: Mapping[str, Mapping[str, Mapping[str, Band]]] | None = None
    left_out: Mapping[str, str] | None = None


def sweep(
    measure: Measure,
    contrast: ContrastSet,
    calibration: Calibration,
    fit: Any,
    pieces: Pieces,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
) -> Swept:
    """Choose an angle on the select split, and measure all angles and the choice's controls on the report split.

    The candidates are the angles under which few answers of either class are degenerate. Among those with the most
    answers of the best grade to positive prompts, the middle one is chosen. If no angle meets the bound on degenerate
    answers, all angles are candidates and ``met`` is False.

    Args:
        measure: :func:`lens_steer.metrics.grading.measure` with its model and options bound.
        contrast: The prompts, with select and report prompts.
        calibration: The calibration of the fit split.
        fit: The activations that it was made from, for the calibrations with shuffled labels.
        pieces: The store of finished steps, from which an interrupted report continues.
        seed: The seed of all draws.
        draws: The number of draws of each control; 0 runs no controls.
        progress: Whether to show a progress bar.

    Returns:
        The results. Without discriminative sites they hold only the outcomes without steering.
    """
    ask = partial(_kept, measure, pieces)
    base, base_texts = ask("plain", contrast.report, None, PLAIN)
    if not calibration.discriminative_sites:
        return Swept(tuple(base))
    plan, on_select, measured, texts = selective_steering(calibration, 0), {}, list(base), {}
    angles = (*ANGLES, 360)
    for angle in tqdm(angles, desc="angles", unit="angle", disable=not progress, leave=False):
        if angle % 360:
            on_select[angle], _ = ask(f"select-{angle:03}", contrast.select, plan.at(angle), "select")
        found, texts[angle] = ask(f"report-{angle:03}", contrast.report, plan.at(angle), STEERED)
        measured += found
    best, count, n_equal, met = chosen(on_select)
    controls = Controls(calibration, draws=draws, select_values=DRAWN_ANGLES, seed=seed)
    drawn, left_out = _controls(ask, contrast, calibration, fit, controls, best, progress)
    return Swept(
        tuple(measured + drawn),
        best,
        count,
        n_equal,
        met,
        all(texts[a] == base_texts for a in (0, 360)),
        {PLAIN: base_texts, STEERED: texts[best]},
        bands_of([o for o in measured if o.condition == STEERED and o.angle == best], drawn),
        left_out,
    )


def chosen(on_select: Mapping[int, Sequence[Outcome]]) -> tuple[int, int, int, bool]:
    """Choose the angle from the outcomes on the select split.

    Args:
        on_select: The outcomes of both classes by angle, the positive class and the best grade first.

    Returns:
        The angle, its count of the best grade for positive prompts, the number of angles with this count, and whether
        the angle meets the bound on degenerate answers.

    >>> def at(good, bad):
    ...     return [Outcome("select", None, side, {"answered": good, "degenerate": bad}) for side in CLASSES]
    >>> chosen({30: at(5, 5), 60: at(3, 0), 90: at(3, 0), 120: at(3, 0)})
    (90, 3, 3, True)
    """
    few = {
        angle: found
        for angle, found in on_select.items()
        if all(o.counts.get(grading.DEGENERATE, 0) <= MAX_DEGENERATE * sum(o.counts.values()) for o in found)
    }
    counts = {angle: next(iter(found[0].counts.values())) for angle, found in (few or on_select).items()}
    best, n_equal = middle_of_best(list(counts), list(counts.values()))
    return best, counts[best], n_equal, bool(few)


def bands_of(method: Sequence[Outcome], drawn: Sequence[Outcome]) -> dict[str, dict[str, dict[str, Band]]]:
    """Return the band over the draws at the method's angle, by control, class and grade."""
    found: dict[str, dict[str, dict[str, Band]]] = {}
    for own in method:
        for control in dict.fromkeys(o.condition for o in drawn if o.draw):
            mine = [o for o in drawn if (o.condition, o.side, o.angle) == (control, own.side, own.angle) and o.draw]
            if mine:
                by_grade = {g: band([o.rate(g).value for o in mine], own.rate(g).value) for g in own.counts}
                found.setdefault(control, {})[own.side] = by_grade
    return found


def _controls(
    ask: Measure,
    contrast: ContrastSet,
    calibration: Calibration,
    fit: Any,
    controls: Controls,
    best: int,
    progress: bool,
) -> tuple[list[Outcome], dict[str, str]]:
    """Run every control at the chosen angle, and random planes also at a few others.

    Both classes are measured for random planes at the chosen angle and for the controls that run once (the identity
    setting, all sites). The others run for positive prompts only.

    Returns:
        The outcomes, and the reason for each control that did not run.
    """
    if not controls.draws:
        return [], {}
    grid = method_grids(calibration, "selective", values=[float(a) for a in ANGLES])[0]
    at_choice, left_out = report_draws(controls, grid.at(float(best)), shuffled_from(controls, fit))
    elsewhere = [g.at(v) for g in select_draws(controls, [grid]) for v in g.values if v != best]
    found: list[Outcome] = []
    for i, g in enumerate(
        tqdm([*at_choice, *elsewhere], desc="controls", unit="draw", disable=not progress, leave=False)
    ):
        assert g.build is not None
        sides = CLASSES if (g.condition in (RANDOM_PLANE, ALL) and i < len(at_choice)) or not g.variant else CLASSES[:1]
        key = f"control-{g.condition}-{g.variant}-{g.values[0]:g}".replace(" ", "_")
        measured, _ = ask(key, contrast.report, g.build(g.values[0]), g.condition, sides=sides, draw=g.draw)
        found += measured
    return found, left_out


def _kept(
    measure: Measure,
    pieces: Pieces,
    key: str,
    contrast: Any,
    plan: SteeringPlan | None,
    condition: str,
    *,
    draw: int = 0,
    **how: Any,
) -> tuple[list[Outcome], dict[str, list[str]]]:
    """Return the outcomes and the texts of one step, measured now or read back from an earlier run."""

    def make() -> dict[str, Any]:
        found, texts = measure(contrast, plan, condition, **how)
        return {"outcomes": [asdict(o) | {"draw": draw} for o in found], "texts": texts}

    kept = pieces.keep(key, make)
    return [
        Outcome(**{**o, "perplexity": None if o["perplexity"] is None else Estimate(**o["perplexity"])})
        for o in kept["outcomes"]
    ], kept["texts"]
