"""Search for the recovery of a trait: site, coefficient and positions on the select split, results on the report split.

The steered model answers the scenarios under the malicious system prompt, where the trait is to be recovered, and under
the aligned one, where it is not to be harmed. It also does capability tasks. For each method and position mode, the
search chooses the setting with the most recovered answers among the settings whose coherence is at least 90 % of the
aligned model's (arXiv 2604.08169, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer._display import Shown
from lens_steer._io.rowstore import Row
from lens_steer.data import Contrast, ContrastSet
from lens_steer.evaluation.conditions import NONE, TOWARDS_POSITIVE
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.protocol import chosen_grids, on_select
from lens_steer.evaluation.selection import Choice, Constraint, Setting, choose, settings
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.evaluation.sweeps import run
from lens_steer.metrics.benchmarks import NO_TASKS
from lens_steer.metrics.degenerate import PerplexityBound, perplexity_bound
from lens_steer.metrics.grading import graded
from lens_steer.probes.probe import Probe
from lens_steer.steer.plans import SteeringPlan
from lens_steer.studies.traits.calibration import Trait
from lens_steer.studies.traits.conditions import (
    ALIGNED_INCOHERENT,
    ALIGNED_SIDE,
    ALIGNED_TRAIT,
    EQUAL,
    INCOHERENT,
    MALICIOUS_SIDE,
    METHODS,
    RANDOM,
    TRAIT,
    TraitCondition,
    by_side,
    condition_of,
    conditions_of,
)

RANDOM_DRAWS = 19  # so that the rank of a choice above all of them has a p of 0.05
COHERENCE = 0.9  # smallest share of the aligned model's coherence that a setting may have


@dataclass(frozen=True)
class TraitResult(Shown, view="studies"):
    """The result of one search.

    Attributes:
        select: Every setting, measured on the select split.
        choices: The choice of each condition, such as ``stmp, all``.
        equal: For each condition, the choice that harms aligned answers least among the settings that recover at least
            ``level``.
        bound: Upper bound on the share of incoherent answers that the choices have to meet.
        level: The largest share of answers that all conditions reach, among the conditions that recover anything; None
            if no condition does.
        report: Settings on the report split: no steering, each choice, each choice along a random direction, and each
            choice at equal trait.
        rows: Rows of the report split, one per prompt and setting.
        perplexity: Perplexity under the aligned system prompt above which an answer without a ground truth is
            incoherent; None where a ground truth grades.
        draws: Rows of further random directions, under the malicious system prompt (:func:`draw_name`).
    """

    select: tuple[Setting, ...]
    choices: Mapping[str, Choice]
    equal: Mapping[str, Choice]
    bound: Constraint
    level: float | None
    report: tuple[Setting, ...]
    rows: tuple[Row, ...]
    perplexity: PerplexityBound | None = None
    draws: tuple[Row, ...] = ()

    def __repr__(self) -> str:
        return (
            f"TraitResult({len(self.choices)} conditions, {len(self.select)} settings on select, {len(self.rows)} "
            "rows on report)"
        )

    def reported(self, condition: str) -> Setting:
        """Return the setting of a condition on the report split."""
        return next(s for s in self.report if s.condition == condition)


def trait_grids(
    probes: Mapping[str, Probe],
    *,
    methods: Sequence[str] = METHODS,
    values: Mapping[str, Sequence[float]] | None = None,
) -> list[Grid]:
    """Return one grid of coefficients for each method, position mode and site of a probe.

    Args:
        probes: Probes by site.
        methods: Names of methods, of :data:`lens_steer.studies.traits.conditions.METHODS`.
        values: Coefficients by method; None uses :data:`lens_steer.evaluation.conditions.TOWARDS_POSITIVE`.
    """
    chosen = TOWARDS_POSITIVE if values is None else values
    return [
        Grid(c.name, partial(c.plan, probe), tuple(chosen[c.method]), site, method=c.method)
        for c in conditions_of(methods)
        for site, probe in probes.items()
    ]


def search(
    model: Any,
    trait: Trait,
    probes: Mapping[str, Probe],
    out: str | Path,
    *,
    name: str = "traits",
    methods: Sequence[str] = METHODS,
    engine: str = ENGINE,
    max_new_tokens: int = 48,
    seed: int = 0,
    values: Mapping[str, Sequence[float]] | None = None,
    progress: bool = True,
    controls: bool = True,
    n_random: int = 1,
) -> TraitResult:
    """Choose settings on the select split and measure the choices on the report split.

    Rows are written to ``out`` as they are made, and an interrupted search continues from them.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        trait: Trait to be recovered.
        probes: Probes by site.
        out, name: Folder, and beginning of the file names.
        methods: Names of methods, of :data:`lens_steer.studies.traits.conditions.METHODS`.
        engine, max_new_tokens: See :func:`lens_steer.generate`.
        seed: Seed of the intervals and of the random direction.
        values: Coefficients by method; None uses :data:`lens_steer.evaluation.conditions.TOWARDS_POSITIVE`.
        progress: Show progress bars.
        controls: Also report random directions and the settings at equal trait.
        n_random: Number of random directions. Beyond the first they are for steering at all tokens, and measured under
            the malicious system prompt alone.

    Raises:
        LensSteerError: For the reasons of :func:`lens_steer.evaluation.protocol.on_select`.
    """
    steered = by_side(trait.contrast)
    how: dict[str, Any] = {
        "engine": engine,
        "max_new_tokens": max_new_tokens,
        "judge": trait.judge,
        "judged": {MALICIOUS_SIDE: False, ALIGNED_SIDE: False},
        "mixed": True,
    }
    identity = {
        "seed": seed,
        "probes": {site: [p.threshold, p.mean_positive, p.std_positive] for site, p in probes.items()},
    }
    grids = [Grid(NONE), *trait_grids(probes, methods=methods, values=values)]
    bound, perplexity = _bounds(model, trait, steered, how, out, name, seed, progress)
    how |= {"bound": perplexity}
    select, choices, _ = on_select(
        model,
        steered,
        grids,
        out,
        tasks=NO_TASKS,
        constraints=[bound],
        name=f"{name}_select",
        identity=identity,
        seed=seed,
        progress=progress,
        reference=aligned_reference(trait.contrast.select),
        **how,
    )
    steering = {c: choice for c, choice in choices.items() if c != NONE}
    chosen = chosen_grids(grids, choices)
    level, equal = _equal(select, steering, [bound])
    reported = list(chosen)
    if controls:
        reported += [_along_random(g, probes[g.variant], seed) for g in chosen if g.condition != NONE]
        at_level = chosen_grids([g for g in grids if g.condition in equal], equal)
        reported += [replace(g, condition=replace(condition_of(g.condition), kind=EQUAL).name) for g in at_level]
    protocol = Protocol(
        model, steered.report, "report", trait.tasks.report, reference=aligned_reference(trait.contrast.report), **how
    )
    rows = run(protocol, reported, out, f"{name}_report", identity=identity, progress=progress)
    further = [
        replace(_along_random(g, probes[g.variant], seed + i - 1), condition=draw_name(_random(g).name, i))
        for g in chosen
        if g.condition != NONE and condition_of(g.condition).mode == "all"
        for i in range(2, n_random + 1)
    ]
    drawn: Sequence[Row] = []
    if controls and further:
        alone = replace(protocol, asked=(MALICIOUS_SIDE,))
        drawn = run(alone, further, out, f"{name}_draws", identity=identity, progress=progress)
    report = tuple(settings(rows, seed=seed))
    return TraitResult(tuple(select), steering, equal, bound, level, report, tuple(rows), perplexity, tuple(drawn))


def plan_of(choice: Choice, probes: Mapping[str, Probe]) -> SteeringPlan:
    """Return the plan of a choice."""
    return condition_of(choice.condition).plan(probes[choice.variant], choice.value)


def random_direction(d_model: int, seed: int) -> Tensor:
    """Draw a unit vector uniformly from the sphere."""
    drawn = torch.randn(d_model, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm()


def draw_name(condition: str, draw: int) -> str:
    """Return the name of a further draw, from the second one on, of a condition along a random direction.

    >>> draw_name("swfc, all, random direction", 2)
    'swfc, all, random direction 2'
    """
    return f"{condition} {draw}"


def _random(grid: Grid) -> TraitCondition:
    return replace(condition_of(grid.condition), kind=RANDOM)


def _along_random(grid: Grid, probe: Probe, seed: int) -> Grid:
    """Return the grid of the chosen setting with its steps along a random direction.

    The steps keep their sizes and apply to the same tokens.
    """
    condition = _random(grid)
    build = partial(condition.plan, probe, along=random_direction(probe.d_model, seed))
    return replace(grid, condition=condition.name, build=build)


def aligned_reference(trait: Contrast) -> dict[str, Any]:
    """Return the prompts under which perplexity is measured: those with the aligned system prompt, for both sides."""
    return {MALICIOUS_SIDE: trait.positive, ALIGNED_SIDE: trait.positive}


def _bounds(
    model: Any,
    trait: Trait,
    steered: ContrastSet,
    how: dict[str, Any],
    out: str | Path,
    name: str,
    seed: int,
    progress: bool,
) -> tuple[Constraint, PerplexityBound | None]:
    """Return the upper bound on the share of incoherent answers, from the aligned model's share on the select split.

    Where no ground truth grades, it comes with the bound on perplexity: that of the unsteered model's answers under
    both system prompts, since those under the malicious one are coherent too.
    """
    known = graded([*steered.select.positive, *steered.select.negative])
    reference: dict[str, Any] = {} if known else {"reference": aligned_reference(trait.contrast.select)}
    protocol = Protocol(model, steered.select, "select", NO_TASKS, **how, **reference)
    rows = run(protocol, [Grid(NONE)], out, f"{name}_baseline", identity={"seed": seed}, progress=progress)
    perplexity = None
    if not known:
        found = perplexity_bound([math.exp(r["surprise_ref"]) for r in rows if r["surprise_ref"] is not None])
        perplexity = replace(found, of="the scenarios under both system prompts")
        rows = [r | {"broken": int(r["broken"] or _above(r, perplexity))} for r in rows]
    broken = settings(rows, seed=seed)[0].measured[ALIGNED_INCOHERENT].value
    # Coherence is 1 − (share of incoherent answers). Steered coherence ≥ 0.9 × aligned coherence is therefore the same
    # as: incoherent share ≤ 1 − 0.9 (1 − aligned incoherent share).
    return Constraint(INCOHERENT, False, 1 - COHERENCE * (1 - broken), False), perplexity


def _above(row: Row, bound: PerplexityBound) -> bool:
    return row["surprise_ref"] is not None and math.exp(row["surprise_ref"]) > bound.value


def _equal(
    select: Sequence[Setting], choices: Mapping[str, Choice], constraints: Sequence[Constraint]
) -> tuple[float | None, dict[str, Choice]]:
    """Return the level of equal trait, and the choice of each condition at that level.

    The level is the largest share that all conditions reach, among those that recover anything. The choice is the
    setting that reaches the level with the least harm to aligned answers. A condition recovers anything if its Wilson
    interval lies above the unsteered model's share. Without such a condition the level is None and there are no
    choices.
    """
    at = {(s.condition, s.variant, s.value): s.measured[TRAIT] for s in select}
    base = next(s for s in select if s.condition == NONE)
    chosen = {c: at[c, choice.variant, choice.value] for c, choice in choices.items() if choice.met}
    best = {c: e.value for c, e in chosen.items() if e.low > base.measured[TRAIT].value}
    if not best:
        return None, {}
    level = min(best.values())
    kept = [*constraints, Constraint(TRAIT, True, level, False)]
    return level, {c: choose([s for s in select if s.condition == c], base, ALIGNED_TRAIT, kept) for c in best}
