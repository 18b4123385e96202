"""The protocol: every setting runs on the select split, and only the choice of each condition on the report split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from lens_steer._display import Shown
from lens_steer._io.rowstore import Row
from lens_steer.data import ContrastSet, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.cells import CLUSTER
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.refinement import A_ROUND, further, further_settings, ordered
from lens_steer.evaluation.selection import MAX_DEGENERATE, Choice, Constraint, Setting, choose, settings
from lens_steer.evaluation.sweep_protocol import CAPABILITY, NEGATIVE, POSITIVE, Protocol
from lens_steer.evaluation.sweeps import run
from lens_steer.metrics.benchmarks import NO_TASKS
from lens_steer.metrics.degenerate import PerplexityBound
from lens_steer.metrics.grading import graded
from lens_steer.stats.differences import paired_difference
from lens_steer.stats.estimates import Estimate

CONSTRAINTS = ("capable>=95%", "violation<=0")  # the defaults where a ground truth grades the answers
DEGENERATE_CONSTRAINTS = tuple(
    f"{side}_degenerate<={MAX_DEGENERATE}" for side in (POSITIVE, NEGATIVE)
)  # the defaults where none does
PAIRED = {
    "positive_right": (POSITIVE, "right"),
    "negative_right": (NEGATIVE, "right"),
    "capable": (CAPABILITY, "right"),
    "log_perplexity": (POSITIVE, "surprise_ref"),
}


@dataclass(frozen=True)
class Evaluation(Shown, view="sweeps"):
    """The results of the protocol.

    Attributes:
        select: Every setting on the select split.
        choices: The choice of each condition.
        report: The settings on the report split: no steering and every chosen setting.
        rows: The rows of the report split, one for each prompt and setting.
        bound: The perplexity bound for degenerate answers; None with a ground truth.
    """

    select: tuple[Setting, ...]
    choices: Mapping[str, Choice]
    report: tuple[Setting, ...]
    rows: tuple[Row, ...]
    bound: PerplexityBound | None = None

    def __repr__(self) -> str:
        counts = (
            f"{len(self.choices)} conditions, {len(self.select)} settings on select, {len(self.rows)} rows on report"
        )
        return f"{type(self).__name__}({counts})"

    def reported(self, condition: str) -> Setting:
        """Return a condition's setting on the report split."""
        return next(s for s in self.report if s.condition == condition)


def check_splits(contrast: ContrastSet) -> None:
    """Refuse a contrast without prompts to choose on or to report on.

    Raises:
        LensSteerError: If a split has no prompts of one class.
    """
    for name, part in (("select", contrast.select), ("report", contrast.report)):
        if not len(part.positive) or not len(part.negative):
            raise LensSteerError(
                f"the contrast {contrast.name!r} has no {name} prompts: give a split, such as split=(0.5, 0.25, 0.25)"
            )


def default_constraints(contrast: ContrastSet, tasks: PromptSet = NO_TASKS) -> tuple[str, ...]:
    """Return the default constraints of a choice.

    They are :data:`CONSTRAINTS` where a ground truth grades the select split, else :data:`DEGENERATE_CONSTRAINTS`, and
    with capability tasks that on capability too. Selective Steering's threshold, a mean perplexity of 2, is exceeded by
    many models' own answers. A share of degenerate answers of at most a tenth is relative to the model.

    Args:
        contrast: The contrast.
        tasks: The capability tasks of the choice.

    >>> import lens_steer as ls
    >>> default_constraints(ls.load_contrast("organism/refusal"))
    ('capable>=95%', 'violation<=0')
    """
    if graded([*contrast.select.positive, *contrast.select.negative]):
        return CONSTRAINTS
    return (*DEGENERATE_CONSTRAINTS, *(CONSTRAINTS[:1] if len(tasks) else ()))


def kept_constraints(constraints: Sequence[str], tasks: PromptSet) -> list[Constraint]:
    """Return the constraints that can be measured: without capability tasks, none on capability.

    >>> [str(c) for c in kept_constraints(["capable>=95%", "violation<=0"], PromptSet(()))]
    ['violation ≤ 0']
    """
    parsed = [Constraint.parse(c) for c in constraints]
    return [c for c in parsed if c.name != "capable" or len(tasks)]


def on_select(
    model: Any,
    contrast: ContrastSet,
    grids: Sequence[Grid],
    out: str | Path,
    *,
    tasks: PromptSet,
    objective: str = "positive_right",
    constraints: Sequence[Constraint] = (),
    name: str = "select",
    budget: int = 0,
    identity: dict[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
    **how: Any,
) -> tuple[list[Setting], dict[str, Choice], list[Row]]:
    """Run every grid on the select split, refine it, and make each condition's choice.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        contrast: The contrast whose select split is used.
        grids: The grids, with one that does not steer.
        out, name, identity, progress: See :func:`lens_steer.evaluation.sweeps.run`.
        tasks: The capability tasks.
        objective, constraints: See :func:`lens_steer.evaluation.selection.choose`.
        budget: The number of settings at which each condition with a parameter is tried: its grid, and further values
            as far as the grid has fewer (:mod:`lens_steer.evaluation.refinement`); 0 for the grids alone. The further
            rows are in ``NAME_refined_1.csv``, ….
        seed: The seed of the intervals.
        how: Further fields of the :class:`~lens_steer.evaluation.sweep_protocol.Protocol`, such as engine, length
            and openings.

    Returns:
        The settings, the choice of each condition, and the rows.

    Raises:
        LensSteerError: If no grid is without steering; the constraints compare with it.
    """
    if all(g.condition != NONE for g in grids):
        raise LensSteerError(f"grids has no {NONE!r}: add Grid({NONE!r}), which constraints compare with")
    protocol = Protocol(model, contrast.select, "select", tasks, **how)
    kept: dict[str, Any] = {"identity": identity, "progress": progress}
    rows = run(protocol, grids, out, name, **kept)
    found = settings(rows, seed=seed)
    base = next(s for s in found if s.condition == NONE)
    left = further_settings(grids, budget)
    for i in count(1):
        by = _by_condition(found)
        more = [
            new
            for name_, n in left.items()
            for new in further(
                [g for g in grids if g.condition == name_], by[name_], base, objective, constraints, min(n, A_ROUND)
            )
        ]
        if not more:
            break
        new_rows = run(protocol, more, out, f"{name}_refined_{i}", **kept)
        rows += new_rows
        found = ordered(grids, [*found, *settings(new_rows, seed=seed)])
        for g in more:
            left[g.condition] -= len(g.values)
    by = _by_condition(found)
    return found, {name: choose(group, base, objective, constraints) for name, group in by.items()}, rows


def _by_condition(found: Sequence[Setting]) -> dict[str, list[Setting]]:
    by: dict[str, list[Setting]] = {}
    for s in found:
        by.setdefault(s.condition, []).append(s)
    return by


def chosen_grids(grids: Sequence[Grid], choices: Mapping[str, Choice]) -> list[Grid]:
    """Return each condition's grid at its choice, in the order of the grids."""
    found = []
    for condition in dict.fromkeys(g.condition for g in grids):
        choice = choices[condition]
        found.append(
            next(g for g in grids if g.condition == condition and g.variant == choice.variant).at(choice.value)
        )
    return found


def differences(
    rows: Sequence[Row], first: str, second: str, *, seed: int = 0, level: float = 0.95
) -> dict[str, Estimate]:
    """Return the difference of one condition minus another on the same prompts, by quantity.

    The interval is that of :func:`lens_steer.stats.differences.paired_difference`, with the clusters of the prompts.
    The rows must hold each condition at one setting. Prompts without a value under one of the conditions (an empty
    answer has no perplexity) are left out.
    """
    found = {}
    for name, (side, column) in PAIRED.items():
        a, b = (_by_prompt(rows, condition, side, column) for condition in (first, second))
        both = sorted(set(a) & set(b))
        if both:
            one, two = (np.array([values[i] for i in both], dtype=np.float64) for values in (a, b))
            named = {int(r["prompt"]): r.get(CLUSTER) for r in rows if r["side"] == side}
            clusters = [named[i] for i in both]
            found[name] = paired_difference(one, two, level=level, seed=seed, clusters=clusters)
    return found


def _by_prompt(rows: Sequence[Row], condition: str, side: str, column: str) -> dict[int, float]:
    picked = [r for r in rows if r["condition"] == condition and r["side"] == side and r[column] is not None]
    return {int(r["prompt"]): float(r[column]) for r in picked}
