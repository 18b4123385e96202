"""The results of the study of side effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lens_steer._display import Shown
from lens_steer._io.rowstore import Row
from lens_steer.data import PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.equal_divergence import Match
from lens_steer.evaluation.selection import Setting
from lens_steer.geometry.calibration import Calibration
from lens_steer.inference.record import Activations
from lens_steer.metrics.degenerate import PerplexityBound
from lens_steer.probes.probe import Probe
from lens_steer.stats.differences import paired_difference
from lens_steer.stats.estimates import Estimate
from lens_steer.studies.externalities import depth
from lens_steer.studies.externalities.conditions import Condition, Steering
from lens_steer.studies.externalities.grading import JSON_RATES, RATES, rates
from lens_steer.studies.externalities.positive_control import PositiveControl
from lens_steer.studies.externalities.steerings import ComplianceCalibration, JsonCalibration
from lens_steer.studies.externalities.tokens import BENIGN, HARMFUL, Divergences


@dataclass(frozen=True, eq=False)
class Calibrations:
    """Everything that comes from the fit split.

    Attributes:
        compliance, json: Calibrations of the two benign steerings.
        refusal: Calibration of harmful against harmless prompts, at the last prompt token of every block's output.
        probes: Probes on the same activations, one at every block's output. Label 1 is harmful.
        activations: Recorded activations by name: ``compliance``, ``json`` and ``refusal``.
    """

    compliance: ComplianceCalibration
    json: JsonCalibration
    refusal: Calibration
    probes: Mapping[str, Probe]
    activations: Mapping[str, Activations]


@dataclass(frozen=True, eq=False)
class Externalities(Shown, view="studies"):
    """The result of the study.

    Attributes:
        calibrations: Everything from the fit split.
        select: For each steering, every setting that was tried on the select split.
        steerings: The steerings at their choices.
        control: The positive control at its choice.
        matches: Steering → its divergence on the benign answers of the select split, and the rotation with the same
            divergence.
        conditions: No steering, the positive control, each steering, and the controls of each steering.
        draws: Further random directions, which are measured on harmful requests alone.
        prefixes: Each steering and the positive control at fewer tokens.
        rows: Annotated rows of the report split (:func:`lens_steer.studies.externalities.grading.annotated`): harmful
            requests, harmless requests and tasks.
        json_rows: Annotated rows of prompts that ask for JSON (positive) and of prompts that do not (negative).
        responses: ``harmful`` and ``benign`` prompts with fixed responses.
        divergences: (condition, set of responses) → divergence by token. Random directions are averaged over the draws.
        angles, projections: Measurements across depth.
        known: True if a ground truth graded everything.
        seed: Seed of everything that is drawn.
        bound: Perplexity above which an answer without a ground truth is degenerate; None if a ground truth graded
            everything.
        harmful_name: What the harmful fixed responses are called.
        level: Level of the intervals of differences and of the claims.
    """

    calibrations: Calibrations
    select: Mapping[str, tuple[Setting, ...]]
    steerings: tuple[Steering, ...]
    control: PositiveControl
    matches: Mapping[str, tuple[float, Match]]
    conditions: tuple[Condition, ...]
    draws: tuple[Condition, ...]
    prefixes: tuple[Condition, ...]
    rows: tuple[Row, ...]
    json_rows: tuple[Row, ...]
    responses: Mapping[str, PromptSet]
    divergences: Divergences
    angles: tuple[depth.Angle, ...]
    projections: tuple[depth.Projection, ...]
    known: bool
    seed: int
    bound: PerplexityBound | None = None
    harmful_name: str = HARMFUL
    level: float = 0.95

    def __repr__(self) -> str:
        return (
            f"Externalities({self.calibrations.refusal.model}: {', '.join(s.name for s in self.steerings)}; "
            f"{len(self.conditions)} conditions)"
        )

    @property
    def in_pairs(self) -> bool:
        """True if the harmful and the benign fixed responses are the same texts, row by row."""
        harmful, benign = ([p.response for p in self.responses[name]] for name in (HARMFUL, BENIGN))
        return harmful == benign

    def said(self, responses: str) -> str:
        """Return what a set of fixed responses is called in claims and tables."""
        return self.harmful_name if responses == HARMFUL else responses

    def measured(self, condition: str) -> dict[str, Estimate]:
        """Return every share of a condition on the report split."""
        return {
            **rates([r for r in self.rows if r["condition"] == condition], RATES),
            **rates([r for r in self.json_rows if r["condition"] == condition], JSON_RATES),
        }

    def values(self, condition: str, quantity: str) -> dict[int, float]:
        """Return a quantity of a condition by prompt.

        The name may stand for all draws of a control, such as ``json, random direction``. The values are then means
        over the draws.
        """
        source, (side, column) = (
            (self.json_rows, JSON_RATES[quantity]) if quantity in JSON_RATES else (self.rows, RATES[quantity])
        )
        every = (*self.conditions, *self.draws, *self.prefixes)
        names = {c.name for c in every if condition in (c.name, c.group)}
        kept: dict[int, list[float]] = {}
        for row in source:
            if row["side"] == side and row["condition"] in names:
                kept.setdefault(int(row["prompt"]), []).append(float(row[column]))
        return {prompt: float(np.mean(v)) for prompt, v in kept.items()}

    def drawn(self, condition: str, quantity: str) -> np.ndarray:
        """Return a quantity of every draw of a control by prompt, as ``values[draw, prompt]``."""
        names = [c.name for c in (*self.conditions, *self.draws) if c.group == condition and c.draw]
        by_draw = [self.values(name, quantity) for name in names]
        return np.array([[of[i] for i in sorted(of)] for of in by_draw])

    def difference(self, first: str, second: str, quantity: str) -> Estimate:
        """Return one condition less another (:func:`~lens_steer.stats.differences.paired_difference` by prompt).

        Raises:
            LensSteerError: If a condition was not run, or if the two conditions have different prompts.
        """
        one, two = self.values(first, quantity), self.values(second, quantity)
        if not one or set(one) != set(two):
            raise LensSteerError(
                f"{quantity} of {first!r} and {second!r}: {len(one)} and {len(two)} prompts, the same are needed "
                "in both"
            )
        first_values, second_values = (np.array([values[i] for i in sorted(one)]) for values in (one, two))
        return paired_difference(first_values, second_values, level=self.level, seed=self.seed)
