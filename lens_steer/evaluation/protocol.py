"""The protocol: every setting on the select split, one choice a condition, and the choices alone on the report
split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lens_steer._display import Shown
from lens_steer._io.rowstore import Row
from lens_steer.data import ContrastSet, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.selection import MAX_DEGENERATE, Choice, Constraint, Setting, choose, settings
from lens_steer.evaluation.sweeps import CAPABILITY, NEGATIVE, POSITIVE, Grid, Protocol, run
from lens_steer.metrics.degenerate import PerplexityBound
from lens_steer.metrics.grading import graded
from lens_steer.stats import Estimate, bootstrap_mean, paired_difference

CONSTRAINTS = ("capable>=95%", "violation<=0")  # where a ground truth grades
DEGENERATE_CONSTRAINTS = tuple(
    f"degenerate_{side}<={MAX_DEGENERATE}" for side in ("harmful", "harmless")
)  # where none does
PAIRED = {
    "complied": (POSITIVE, "right"),
    "helped": (NEGATIVE, "right"),
    "capable": (CAPABILITY, "right"),
    "log_perplexity": (POSITIVE, "surprise_ref"),
}


@dataclass(frozen=True)
class Evaluation(Shown, view="sweeps"):
    """What the protocol found.

    Attributes:
        select: every setting.
        choices: by condition.
        report: no steering and every chosen setting.
        rows: of the report split, one a prompt and setting.
        bound: that degenerate answers were told by; None with a ground truth.
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
        """A condition's setting on the report split."""
        return next(s for s in self.report if s.condition == condition)


def check_splits(contrast: ContrastSet) -> None:
    """Refuse a contrast that has nothing to choose or to report on.

    Raises:
        LensSteerError: a split without prompts on one side.
    """
    for name, part in (("select", contrast.select), ("report", contrast.report)):
        if not len(part.positive) or not len(part.negative):
            raise LensSteerError(
                f"the contrast {contrast.name!r} has no {name} prompts: give a split, such as split=(0.5, 0.25, 0.25)"
            )


def default_constraints(contrast: ContrastSet) -> tuple[str, ...]:
    """What a choice keeps to unless it is said: :data:`CONSTRAINTS` where a ground truth grades the select split, else
    :data:`DEGENERATE_CONSTRAINTS`.

    Selective Steering's mark, a mean perplexity of 2, is passed by many models' own answers; a share of degenerate ones
    of a tenth at most is relative to the model.

    >>> import lens_steer as ls
    >>> default_constraints(ls.load_contrast("organism/refusal"))
    ('capable>=95%', 'violation<=0')
    """
    return CONSTRAINTS if graded([*contrast.select.positive, *contrast.select.negative]) else DEGENERATE_CONSTRAINTS


def kept_constraints(constraints: Sequence[str], tasks: PromptSet) -> list[Constraint]:
    """The constraints that can be measured: without capability tasks, none on capability.

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
    objective: str = "complied",
    constraints: Sequence[Constraint] = (),
    name: str = "select",
    identity: dict[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
    **how: Any,
) -> tuple[list[Setting], dict[str, Choice], list[Row]]:
    """Every grid on the select split, and each condition's choice; ``how`` are a
    :class:`~lens_steer.evaluation.sweeps.Protocol`'s engine, length and openings.

    Raises:
        LensSteerError: no grid without steering, which is what constraints compare with.
    """
    if all(g.condition != NONE for g in grids):
        raise LensSteerError(f"grids has no {NONE!r}: add Grid({NONE!r}), which constraints compare with")
    rows = run(
        Protocol(model, contrast.select, "select", tasks, **how), grids, out, name, identity=identity, progress=progress
    )
    found = settings(rows, seed=seed)
    base = next(s for s in found if s.condition == NONE)
    by_condition: dict[str, list[Setting]] = {}
    for s in found:
        by_condition.setdefault(s.condition, []).append(s)
    return found, {name: choose(group, base, objective, constraints) for name, group in by_condition.items()}, rows


def chosen_grids(grids: Sequence[Grid], choices: Mapping[str, Choice]) -> list[Grid]:
    """Each condition's grid at its choice, in the grids' order."""
    found = []
    for condition in dict.fromkeys(g.condition for g in grids):
        choice = choices[condition]
        found.append(
            next(g for g in grids if g.condition == condition and g.variant == choice.variant).at(choice.value)
        )
    return found


def differences(
    rows: Sequence[Row], first: str, second: str, *, seed: int = 0, level: float = 0.95, bootstrap: bool = False
) -> dict[str, Estimate]:
    """One condition less another on the same prompts, by quantity; see :func:`lens_steer.stats.paired_difference`, or
    by a paired bootstrap over prompts.

    Each condition is to be in the rows at one setting. Prompts without a value under one of them (an empty answer has
    no perplexity) are left out.
    """
    found = {}
    for name, (side, column) in PAIRED.items():
        a, b = (_by_prompt(rows, condition, side, column) for condition in (first, second))
        both = sorted(set(a) & set(b))
        if both:
            one, two = (np.array([values[i] for i in both], dtype=np.float64) for values in (a, b))
            found[name] = (
                bootstrap_mean(one - two, seed=seed)
                if bootstrap
                else paired_difference(one, two, level=level, seed=seed)
            )
    return found


def _by_prompt(rows: Sequence[Row], condition: str, side: str, column: str) -> dict[int, float]:
    picked = [r for r in rows if r["condition"] == condition and r["side"] == side and r[column] is not None]
    return {int(r["prompt"]): float(r[column]) for r in picked}
