"""The study: dialogues of many turns, unsteered and steered, with a harmful prompt asked at several turns of each.

Selective Steering is at the sites of the published rule, at the angle that one turn on select chooses. Beside it stand
the same rotation in a random plane (one draw, so it is an example and not a band), and directional ablation as the
positive control. Every condition answers the same prompts with a history of its own answers. The harmful prompt of a
dialogue is asked at several turns in place of the harmless one, and forgotten: outcomes are paired by dialogue and
differ in the history alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lens_steer._defaults import ENGINE
from lens_steer._io.rowstore import Row
from lens_steer.data import ContrastSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.bounds import harmless_alone, measured_bound
from lens_steer.evaluation.budgeted import ANGLES, BUDGET, check_angles
from lens_steer.evaluation.conditions import NONE, RANDOM_PLANE, plan_at_value
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.pieces import kept_calibration
from lens_steer.evaluation.protocol import check_splits
from lens_steer.evaluation.published_direction import ARDITI, PublishedDirection, published_direction
from lens_steer.evaluation.sweep_protocol import NEGATIVE, Protocol
from lens_steer.evaluation.sweeps import run
from lens_steer.geometry.calibration import Calibration, calibrate
from lens_steer.geometry.discriminative import RULES
from lens_steer.geometry.planes import random_plane
from lens_steer.geometry.rules import with_rule
from lens_steer.geometry.selected_direction import StreamDirection
from lens_steer.inference.record import record
from lens_steer.inference.scored_dialogue import check_dialogues
from lens_steer.metrics.benchmarks import NO_TASKS
from lens_steer.models.fits import check_fits
from lens_steer.studies.conversation.angle import Curve, curve
from lens_steer.studies.conversation.dealing import DIALOGUES, PROBES, TURNS, Dealt, check, deal
from lens_steer.studies.conversation.turns import Asked, run_dialogues, run_divergences

STEERED, POSITIVE_CONTROL = "selective", "ablation-everywhere"
PUBLISHED = RULES[0]  # the published rule of the sites: opposite signs of the class means


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """The results of the study.

    Attributes:
        model: The model's name.
        sites: The sites that are steered.
        turns: The number of turns.
        probes: The turns, from 1, at which the harmful prompt was asked.
        dealt: The dialogues.
        budget: The budget of side effects of one turn, in nats a token.
        curve: Effect and side effect on select.
        angle: The angle of the study; None where no angle has an effect within the budget.
        conditions: The conditions in order, no steering first.
        rows: One row an answer.
        divergences: One row a condition, dialogue and probe.
        clusters: The cluster of each dialogue's harmful prompt; None for one that is a cluster alone.
        published: The direction of the positive control, or the reason why there is none.
        graded: Whether a ground truth grades the answers.
    """

    model: str
    sites: tuple[str, ...]
    turns: int
    probes: tuple[int, ...]
    dealt: tuple[Dealt, ...]
    budget: float
    curve: Curve
    angle: float | None
    conditions: tuple[str, ...]
    rows: tuple[Row, ...]
    divergences: tuple[Row, ...]
    clusters: tuple[str | None, ...]
    published: PublishedDirection
    graded: bool

    @property
    def control(self) -> str | None:
        """Return the positive control's condition, whose name tells a direction that is not as published."""
        return next((name for name in self.conditions if name.startswith(POSITIVE_CONTROL)), None)


def study(
    model: Any,
    contrast: ContrastSet,
    out: str | Path,
    *,
    calibration: Calibration | None = None,
    turns: int = TURNS,
    dialogues: int = DIALOGUES,
    probes: Sequence[int] = PROBES,
    values: Sequence[float] = ANGLES,
    budget: float = BUDGET,
    direction: StreamDirection | str | None = ARDITI,
    openings: Sequence[str] | None = None,
    seed: int = 0,
    engine: str = ENGINE,
    max_new_tokens: int = 48,
    progress: bool = True,
) -> Conversation:
    """Run the dialogues under every condition; an interrupted run goes on.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        contrast: The prompts: direction, plane and sites come from fit, the angle from select, dialogues from report.
        out: The folder of the rows.
        calibration: A calibration of the model; None makes one from fit.
        turns: The number of turns of each dialogue.
        dialogues: The number of dialogues.
        probes: The turns, from 1, at which the harmful prompt is asked.
        values: The angles in degrees, among which one is chosen.
        budget: The largest side effect of one turn on select, in nats a token.
        direction: The direction of the positive control; see :func:`lens_steer.evaluation.comparison.compare`.
        openings: See :func:`lens_steer.metrics.refusal_score.refusal_tokens`.
        seed: The seed of the calibration, the dialogues and the random plane.
        engine: ``"hf"``, which alone scores answers while they are written.
        max_new_tokens: The largest number of tokens of an answer.
        progress: Whether to show bars.

    Raises:
        LensSteerError: If :func:`refuse` raises it, no site is discriminative by the published rule, or the folder
            holds another run.
    """
    probes = tuple(probes)
    angles = refuse(model, contrast, turns, dialogues, probes, values, budget, engine, max_new_tokens, seed)
    used = _published_sites(model, contrast, out, calibration, seed=seed, engine=engine, progress=progress)
    sites = used.discriminative_sites
    kept: dict[str, Any] = {"identity": {"seed": seed, "fit": contrast.fit.hash}, "progress": progress}
    opened = None if openings is None else tuple(openings)
    how: dict[str, Any] = {"engine": engine, "max_new_tokens": max_new_tokens}

    selecting = Protocol(model, contrast.select, "select", NO_TASKS, openings=opened, **how)
    bound = measured_bound(selecting, out, **kept)
    # The answers from which the bound comes; where a ground truth grades them, there is no bound and they are not read.
    alone = harmless_alone(selecting) or replace(selecting, asked=(NEGATIVE,), read_by=())
    answered = [str(row["text"]) for row in run(alone, [Grid(NONE)], out, "unsteered", **kept)]
    turning = Grid(STEERED, partial(plan_at_value, "selective", used, {"at": sites}), angles, method="selective")
    found = curve(model, turning, contrast.select, answered, out, openings=opened, engine=engine, **kept)
    angle = found.within(budget)

    published = published_direction(
        model, contrast, out, [POSITIVE_CONTROL], direction, seed=seed, progress=progress, **how
    )
    grids = [Grid(NONE)]
    if angle is not None:
        plane = {"at": sites, "basis": random_plane(used.d_model, seed)}
        beside = Grid(RANDOM_PLANE, partial(plan_at_value, "selective", used, plane), (angle,), method="selective")
        grids += [turning.at(angle), beside]
    grids += published.grids([POSITIVE_CONTROL])
    reporting = Protocol(model, contrast.report, "report", NO_TASKS, openings=opened, bound=bound, **how)
    asked = Asked(reporting, deal(contrast.report, dialogues, turns, seed), probes)
    rows = run_dialogues(asked, grids, out, **kept)
    divergences = run_divergences(asked, grids, rows, out, **kept)
    harmful = [contrast.report.positive[d.harmful] for d in asked.dealt]
    return Conversation(
        model=used.model,
        sites=sites,
        turns=turns,
        probes=probes,
        dealt=asked.dealt,
        budget=budget,
        curve=found,
        angle=angle,
        conditions=tuple(grid.condition for grid in grids),
        rows=tuple(rows),
        divergences=tuple(divergences),
        clusters=tuple(p.scenario if p.cluster is None else p.cluster for p in harmful),
        published=published,
        graded=bound is None,
    )


def refuse(
    model: Any,
    contrast: ContrastSet,
    turns: int,
    dialogues: int,
    probes: Sequence[int],
    values: Sequence[float],
    budget: float,
    engine: str,
    max_new_tokens: int,
    seed: int,
) -> tuple[float, ...]:
    """Refuse what cannot be run, before anything runs, and return the angles in order.

    Args:
        model: A loaded model, or a model that is described without its weights.
        contrast, turns, dialogues, probes, values, budget, engine, max_new_tokens, seed: See :func:`study`.

    Raises:
        LensSteerError: If the contrast has no select or report prompts, an argument cannot be used, there are too few
            prompts, the context has no room for a whole dialogue, or the chat template changes what came before.
    """
    check_splits(contrast)
    if engine != ENGINE:
        raise LensSteerError(f"engine={engine!r}: answers are scored while they are written, which only {ENGINE} does")
    if max_new_tokens < 1:
        raise LensSteerError(f"max_new_tokens={max_new_tokens}: at least 1 is needed")
    angles = check_angles(values, budget)
    check(contrast.report, dialogues, turns, probes)
    dealt = deal(contrast.report, dialogues, turns, seed)
    check_dialogues(
        model,
        [d.dialogue(contrast.report) for d in dealt],
        [d.asked(contrast.report, probes) for d in dealt],
        max_new_tokens,
    )
    return angles


def _published_sites(
    model: Any, contrast: ContrastSet, out: str | Path, given: Calibration | None, **how: Any
) -> Calibration:
    """Return the calibration with the sites of the published rule: the given one, or one of the fit prompts.

    Raises:
        LensSteerError: If the calibration is of another model, cannot tell the sites of the rule, or has none.
    """
    if given is None:
        activations = record(model, contrast.fit, "norm_out", engine=how["engine"], progress=how["progress"])
        seed, folder = how["seed"], Path(out) / "calibration"
        given = kept_calibration(folder, activations, lambda: calibrate(activations, seed=seed), seed=seed)
    check_fits(given, model)
    used = given if given.rule == PUBLISHED else with_rule(given, PUBLISHED, membership=False)
    if not used.discriminative_sites:
        raise LensSteerError(
            f"no site of {used.model} is discriminative by the published rule, so there is nothing to steer: use more "
            "prompts, or another contrast"
        )
    return used


def described(found: Conversation) -> Mapping[str, Any]:
    """Return what was done as plain values: the choice on select, the dialogues and the positive control."""
    return {
        "turns": found.turns,
        "dialogues": len(found.dealt),
        "probes": list(found.probes),
        "budget": found.budget,
        "angle": found.angle,
        "sites": list(found.sites),
        "select": [
            {"angle": v, "effect": float(e), "kl": float(c)}
            for v, e, c in zip(found.curve.values, found.curve.effect, found.curve.cost, strict=True)
        ],
        "positive_control": found.published.record(),
    }
