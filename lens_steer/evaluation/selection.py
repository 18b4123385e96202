"""Selection: from the rows of a sweep to one estimate for each setting, and from these to a choice.

The choice maximises an objective under constraints, on the select split.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lens_steer._display import Shown
from lens_steer._io.rowstore import Row
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.cells import clusters_of, plain, rates_by_cell
from lens_steer.evaluation.quantities import FORMER, MEANS, PERPLEXITIES, RATES, objective_of, quantity
from lens_steer.evaluation.sweep_protocol import POSITIVE
from lens_steer.metrics.grading import CUT_OFF
from lens_steer.metrics.likelihood import VIOLATION
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import clustered_mean
from lens_steer.stats.rates import clustered_rate
from lens_steer.stats.ties import middle_of_best

MAX_DEGENERATE = 0.1  # a larger share of degenerate answers in a class means a broken model
_CONSTRAINT = re.compile(r"\s*([a-z_0-9]+)\s*(>=|<=)\s*(-?[0-9.]+)(%?)\s*")


@dataclass(frozen=True)
class Setting(Shown, view="sweeps"):
    """One condition at one value, measured over its prompts.

    Attributes:
        condition, variant: The names of the condition and the variant.
        value: The value of its parameter; None without one.
        split: The name of the split.
        measured: The estimates by name, for harmful prompts unless the name says otherwise: rates with Wilson
            intervals, means with a bootstrap over prompts. Where prompts share clusters, the intervals account for
            them (:func:`lens_steer.stats.rates.clustered_rate`, :func:`lens_steer.stats.means.clustered_mean`).
            ``violation`` is 1 where the mean ``perplexity_ref`` is above 2 (Selective Steering's threshold), and
            ``violation_share`` is the share of single answers above 2. An empty answer has no perplexity and
            counts as above 2 in ``violation_share``; ``violation`` is also 1 where all answers are empty.
        by_cell: The rates by name and cell; empty where the prompts have no cells.
    """

    condition: str
    variant: str
    value: float | None
    split: str
    measured: Mapping[str, Estimate]
    by_cell: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict, kw_only=True)

    def __repr__(self) -> str:
        at = "" if self.value is None else f" at {self.value:g}"
        return (
            f"Setting({self.condition}{f' ({self.variant})' if self.variant else ''}{at}, {self.split} split: "
            f"{len(self.measured)} quantities)"
        )

    def row(self) -> dict[str, str | float | int | None]:
        """Return plain values: ``name``, ``name_low``, ``name_high``, ``name_n``."""
        found: dict[str, str | float | int | None] = {
            "condition": self.condition,
            "variant": self.variant,
            "value": self.value,
            "split": self.split,
        }
        for name, e in self.measured.items():
            found |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high, f"{name}_n": e.n}
        return found

    def record(self) -> dict[str, Any]:
        """Return the plain values of :meth:`row`, and ``by_cell`` where the prompts have cells."""
        return self.row() | plain(self.by_cell)

    def cell_rows(self) -> list[dict[str, Any]]:
        """Return the rates by cell as rows of a table, one for each quantity and cell."""
        at = {"condition": self.condition, "variant": self.variant, "value": self.value, "split": self.split}
        return [
            {**at, "quantity": name, "cell": cell, "rate": e.value, "low": e.low, "high": e.high, "n": e.n}
            for name, by in self.by_cell.items()
            for cell, e in by.items()
        ]


class Settings(Shown, list[Setting], view="sweeps"):
    """Settings side by side: a list that a notebook shows as a table."""

    def __repr__(self) -> str:
        return f"Settings({len(self)} settings of {len({s.condition for s in self})} conditions)"


def settings(rows: Iterable[Row], *, seed: int = 0) -> Settings:
    """Return one :class:`Setting` for every condition and value, in the order of the rows."""
    groups: dict[tuple[str, str, float | None, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["condition"], row["variant"], row["value"], row["split"]), []).append(row)
    measured = {key: _measured(group, seed) for key, group in groups.items()}
    return Settings(Setting(*key, found, by_cell=by_cell) for key, (found, by_cell) in measured.items())


def _measured(rows: Sequence[Row], seed: int) -> tuple[dict[str, Estimate], dict[str, dict[str, Estimate]]]:
    by_side: dict[str, list[Row]] = {}
    for row in rows:
        by_side.setdefault(row["side"], []).append(row)
    found: dict[str, Estimate] = {}
    by_cell: dict[str, dict[str, Estimate]] = {}

    def rate(name: str, own: Sequence[Row], hits: Sequence[int]) -> None:
        found[name] = clustered_rate(hits, clusters_of(own))
        if by := rates_by_cell(own, hits):
            by_cell[name] = by

    for name, (side, column) in RATES.items():
        counted = [is_counted(row, column) for row in by_side.get(side, [])]
        if counted and None not in counted:
            rate(name, by_side[side], [int(hit or 0) for hit in counted])
    harmful = by_side.get(POSITIVE, [])
    for name in MEANS:
        known = [row for row in harmful if row[name] is not None]
        values = np.array([row[name] for row in known], dtype=np.float64)
        if len(values):
            found[name] = clustered_mean(values, clusters_of(known), seed=seed)
    for name, (side, column) in PERPLEXITIES.items():
        known = [row for row in by_side.get(side, []) if row[column] is not None]
        values = np.exp(np.array([row[column] for row in known], dtype=np.float64))
        if len(values):
            found[name] = clustered_mean(values, clusters_of(known), seed=seed)
        unread = not known and any(row["text"] for row in harmful)  # the unsteered model read no answer
        if name == "perplexity_ref" and harmful and not unread:  # an empty answer counts as a violation
            over = float(not len(values) or found[name].value > VIOLATION)
            found["violation"] = Estimate(over, over, over, len(harmful))
            high = {id(row) for row, value in zip(known, values, strict=True) if value > VIOLATION}
            rate("violation_share", harmful, [int(row[column] is None or id(row) in high) for row in harmful])
    return found, by_cell


def is_counted(row: Row, column: str) -> int | None:
    """Return a row's 0 or 1 in a column; None in older rows, written before there was such a column."""
    if column == "answered":
        return int(not (row["refused"] or row["broken"] or row["grade"] == CUT_OFF))
    return None if row.get(column) is None else int(row[column])


@dataclass(frozen=True)
class Constraint:
    """A bound on a measured quantity, as a number or as a share of its value without steering.

    >>> Constraint.parse("capable>=95%")
    Constraint(name='capable', at_least=True, bound=0.95, relative=True)
    """

    name: str
    at_least: bool
    bound: float
    relative: bool

    @staticmethod
    def parse(text: str) -> Constraint:
        """Read ``name>=number`` or ``name<=number``; with ``%`` the number is a share of the value without steering.

        Raises:
            LensSteerError: If the text is anything else.
        """
        match = _CONSTRAINT.fullmatch(text)
        if match is None or match[3].count(".") > 1:
            raise LensSteerError(
                f"constraint {text!r} is not understood: write capable>=95% (of the unsteered model's) or violation<=0"
            )
        name, sign, bound, relative = match.groups()
        return Constraint(
            quantity(name, "constraint"), sign == ">=", float(bound) / (100 if relative else 1), bool(relative)
        )

    def met(self, setting: Setting, base: Setting | None) -> bool:
        """Return whether a setting meets the constraint; ``base`` is the unsteered model on the same prompts.

        A setting in which the quantity was not measured does not meet it. Only a relative bound reads ``base``.
        """
        own = setting.measured.get(self.name)
        unit = base.measured.get(self.name) if self.relative and base is not None else None
        if own is None or (self.relative and unit is None):
            return False
        bound = self.bound if unit is None else self.bound * unit.value
        return own.value >= bound if self.at_least else own.value <= bound

    def __str__(self) -> str:
        return f"{self.name} {'≥' if self.at_least else '≤'} " + (
            f"{100 * self.bound:g} % of base" if self.relative else f"{self.bound:g}"
        )


@dataclass(frozen=True)
class Choice(Shown, view="sweeps"):
    """The setting at which a condition is reported.

    Attributes:
        condition, variant: The names of the condition and the variant.
        value: The value of its parameter.
        met: Whether the setting meets all constraints. If no value does, the choice is nevertheless the one with the
            best objective, and the table says so.
        n_met: The number of values that meet all constraints.
        n: The number of values.
        n_equal: The number of values that share the best objective.
    """

    condition: str
    variant: str
    value: float | None
    met: bool
    n_met: int
    n: int
    n_equal: int


def choose(
    found: Sequence[Setting],
    base: Setting | None,
    objective: str = "positive_right",
    constraints: Sequence[Constraint] = (),
) -> Choice:
    """Choose the variant and value of one condition with the best objective among those that meet the constraints.

    If no setting meets them, the choice is made among all. If several have the best objective, the middle one in the
    order of the settings is chosen; see :func:`lens_steer.stats.ties.middle_of_best`.

    Args:
        found: The settings of one condition.
        base: The unsteered model on the same prompts; None where no constraint is relative to it.
        objective: A measured quantity to maximise; after a ``-``, to minimise. A study may give its settings quantities
            of its own.
        constraints: The constraints, all of which must be met.

    Raises:
        LensSteerError: If the settings are of no condition or of several, a quantity is unknown, or a constraint is
            relative and ``base`` is None.
    """
    if base is None and (relative := [str(c) for c in constraints if c.relative]):
        raise LensSteerError(f"constraint {relative[0]!r} compares with no steering: give base, its setting")
    if len({s.condition for s in found}) != 1:
        raise LensSteerError(
            f"settings of {sorted({s.condition for s in found})}: a choice is made within one condition"
        )
    if not any(objective.removeprefix("-") in s.measured for s in found):
        objective_of(objective)  # refuses a quantity that nothing measures
    kept = [s for s in found if all(c.met(s, base) for c in constraints)]
    scores = [objective_value(s, objective) for s in kept or found]
    best, n_equal = middle_of_best(kept or found, scores)
    return Choice(best.condition, best.variant, best.value, bool(kept), len(kept), len(found), n_equal)


def objective_value(setting: Setting, objective: str) -> float:
    """Return what a choice maximises at one setting: the objective, −∞ where it was not measured.

    >>> objective_value(Setting("SS", "", 30.0, "select", {"capable": Estimate(0.5, 0.0, 1.0, 10)}), "-capable")
    -0.5
    """
    sign, name = -1.0 if objective.startswith("-") else 1.0, objective.removeprefix("-")
    if name not in setting.measured:
        name = FORMER.get(name, name)
    return sign * setting.measured[name].value if name in setting.measured else -np.inf


def at_nothing(found: Sequence[Setting], base: Setting, chosen: Choice, objective: str = "positive_right") -> bool:
    """Return whether a choice is a tie at nothing: its objective is no better than that of the unsteered model.

    The chosen value then only stands in the middle of the values that do nothing, and nothing should be measured at it.

    Args:
        found: The settings from which the choice was made; those of other conditions are skipped.
        base, objective: The arguments of the choice, see :func:`choose`.
        chosen: The choice.

    >>> base, idle, strong = (
    ...     Setting("none", "", None, "select", {"positive_right": Estimate(0.1, 0.0, 0.3, 10)}),
    ...     *(
    ...         Setting("SS", "", angle, "select", {"positive_right": Estimate(rate, 0.0, 1.0, 10)})
    ...         for angle, rate in ((30.0, 0.1), (60.0, 0.7))
    ...     ),
    ... )
    >>> [at_nothing(tried, base, choose(tried, base)) for tried in ([idle], [idle, strong])]
    [True, False]
    """
    at = (chosen.condition, chosen.variant, chosen.value)
    setting = next(s for s in found if (s.condition, s.variant, s.value) == at)
    return objective_value(setting, objective) <= objective_value(base, objective)


def kept_out(
    found: Sequence[Setting], base: Setting, chosen: Choice, objective: str, constraints: Sequence[Constraint]
) -> dict[str, Any] | None:
    """Return the setting that would have been chosen without the constraints.

    It comes with its values of the quantities whose constraints it does not meet. None where the constraints did not
    change the choice.

    Args:
        found: The settings from which the choice was made; those of other conditions are skipped.
        base, objective, constraints: The arguments of the choice, see :func:`choose`.
        chosen: The choice.
    """
    own = [s for s in found if s.condition == chosen.condition]
    free = choose(own, base, objective)
    best = next(s for s in own if (s.variant, s.value) == (free.variant, free.value))
    broken = [c for c in constraints if not c.met(best, base)]
    if not broken or (free.variant, free.value) == (chosen.variant, chosen.value):
        return None
    name = objective_of(objective).removeprefix("-")
    values = {str(c): best.measured[c.name].value if c.name in best.measured else None for c in broken}
    return {"variant": free.variant, "value": free.value, name: best.measured[name].value, "by": values}
