"""Experiments on behaviour: conditions that differ in one thing each, graded answers, differences paired by prompt.

The best angle of every condition is chosen on the select split: the angle with the most harmful requests complied with.
The results come from the report split, at that angle and at the nominal one, which is the best angle of SS at L_disc.
They are compliance, perplexity of the answers under the unsteered model, and capability. All rotations keep the norm,
so norms do not explain a difference between them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from lens_steer._defaults import ENGINE
from lens_steer._io.progress import counting
from lens_steer.data import Contrast, ContrastSet, PromptSet
from lens_steer.geometry.calibration import Calibration, calibrate
from lens_steer.geometry.planes import orthonormalise, random_plane
from lens_steer.inference.generation import generate
from lens_steer.inference.record import Activations
from lens_steer.metrics import grading
from lens_steer.metrics.likelihood import mean_surprise
from lens_steer.models import sites
from lens_steer.stats import Estimate, bootstrap_mean, middle_of_best, wilson
from lens_steer.steer.hooks import steering
from lens_steer.steer.methods import mean_phase_rotation, phase_collapse, selective_steering, standard_angular
from lens_steer.steer.plans import SteeringPlan

ANGLES = tuple(float(a) for a in range(30, 360, 30))  # degrees tried on the select split
BASE, COLLAPSE = "SS, L_disc", "X2 (collapse)"
N_CONDITIONS = 17
Plans = Callable[[float], tuple[SteeringPlan, ...]]  # angle in degrees → the plans of a condition
Keep = Callable[[str, Callable[[], Any]], Any]  # (name of a step, function that computes its plain values) → values


@dataclass(frozen=True)
class Measured:
    """One condition, measured on the report split.

    Attributes:
        condition: Name of the condition.
        angle: Angle in degrees; None without steering, and for X2, which has no angle.
        at_nominal: True if the angle is the nominal one instead of the condition's own best.
        complied: For each harmful prompt, whether the model complied (graded right).
        helped: For each harmless prompt, whether the model helped (graded right).
        broken: For each prompt of both classes, whether the answer is incoherent.
        surprise: For each prompt of both classes, mean −log p per token of the answer under the unsteered model, in
            nats; NaN for an empty answer.
        capable: For each capability task, whether it was done right; empty where the model has no such tasks.
    """

    condition: str
    angle: float | None
    at_nominal: bool
    positive_right: Bool[np.ndarray, " n_harmful"]
    negative_right: Bool[np.ndarray, " n_harmless"]
    broken: Bool[np.ndarray, " n"]
    surprise: Float[np.ndarray, " n"]
    capable: Bool[np.ndarray, " n_tasks"]

    def plain(self) -> dict[str, Any]:
        """Return the record as plain values for JSON; NaN becomes None."""
        arrays = {
            name: getattr(self, name).tolist() for name in ("positive_right", "negative_right", "broken", "capable")
        }
        surprise = [None if np.isnan(v) else v for v in self.surprise.tolist()]
        return {
            "condition": self.condition,
            "angle": self.angle,
            "at_nominal": self.at_nominal,
            **arrays,
            "surprise": surprise,
        }

    @staticmethod
    def of(plain: Mapping[str, Any]) -> Measured:
        """Build the record from the values that :meth:`plain` returned."""
        arrays = {
            name: np.array(plain[name], dtype=bool)
            for name in ("positive_right", "negative_right", "broken", "capable")
        }
        surprise = np.array([np.nan if v is None else v for v in plain["surprise"]], dtype=np.float64)
        return Measured(plain["condition"], plain["angle"], plain["at_nominal"], surprise=surprise, **arrays)


def conditions(calibration: Calibration, activations: Activations, seed: int) -> dict[str, Plans]:
    """Return every condition by name, as a function from an angle to its plans."""
    norms = sites.resolve("norm_out", n_layers=calibration.n_layers, architecture=calibration.architecture)
    half = calibration.n_layers // 2
    drawn = random.Random(f"experiments/{seed}")
    blocks = set(drawn.sample(range(calibration.n_layers), half))
    some = tuple(sorted(drawn.sample(norms, len(calibration.discriminative_sites)), key=lambda n: sites.parse(n).order))
    b1, b2 = calibration.basis
    planes = {
        "uncentred PCA": calibrate(activations, pca_center=False, rule=calibration.rule).basis,
        "b2 reversed": torch.stack([b1, -b2]),
        "random b2": orthonormalise(b1.double(), random_plane(calibration.d_model, seed)[0].double())[0],
        "random plane": random_plane(calibration.d_model, seed),
    }

    def ss(angle: float, **options: Any) -> tuple[SteeringPlan, ...]:
        return (selective_steering(calibration, angle, **options),)

    def sas(angle: float, **options: Any) -> tuple[SteeringPlan, ...]:
        return (standard_angular(calibration, angle, **options),)

    def in_blocks(wanted: set[int]) -> tuple[str, ...]:
        return tuple(n for n in norms if sites.parse(n).block in wanted)

    return {
        BASE: ss,
        "SS, all sites": partial(ss, at=norms),
        "SAS, L_disc": sas,
        "SAS, all sites": partial(sas, at=norms),
        "SAS + mean phase": lambda angle: (with_mean_phase(calibration, angle),),
        "X1 (rotate)": lambda angle: (mean_phase_rotation(calibration, angle),),
        COLLAPSE: lambda angle: (phase_collapse(calibration),),
        "SS, early half": partial(ss, at=in_blocks(set(range(half)))),
        "SS, late half": partial(ss, at=in_blocks(set(range(half, calibration.n_layers)))),
        "SS, random half": partial(ss, at=in_blocks(blocks)),
        "SS, random sites": partial(ss, at=some),
        **{f"SS, {name}": partial(ss, basis=basis) for name, basis in planes.items()},
        # A stale cache holds the keys and values of the prompt at 0°. For SS this is the identity, so the prompt stays
        # unsteered. SAS at 0° is not the identity, so the prompt is steered at 0°.
        "SS, stale cache": partial(ss, positions="generated"),
        "SAS, stale cache": lambda angle: (*sas(0.0, positions="prompt"), *sas(angle, positions="generated")),
    }


def with_mean_phase(calibration: Calibration, angle: float) -> SteeringPlan:
    """Return SAS at θ + φ̄, where φ̄ is the mean phase of the harmful class at each site (E3).

    This angle puts the class mean where SS by θ puts it.
    """
    phases = mean_phase_rotation(calibration, angle, phase_of="positive")
    steps = [
        replace(
            s,
            operator="standard",
            parameters={"basis": s.parameters["basis"], "angle": angle + s.parameters["mean_phase"]},
        )
        for s in phases.steps
    ]
    return replace(phases, method="standard", steps=tuple(steps))


def run(
    model: Any,
    contrast: ContrastSet,
    calibration: Calibration,
    activations: Activations,
    *,
    tasks: PromptSet | None = None,
    seed: int = 0,
    engine: str = ENGINE,
    max_new_tokens: int = 48,
    progress: bool = True,
    keep: Keep = lambda key, make: make(),
) -> list[Measured]:
    """Measure no steering, and every condition at its own best angle and at the nominal one.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        contrast: Prompts. The angles are chosen on the select split and measured on the report split.
        calibration: Calibration with direction, plane and discriminative sites.
        activations: Recorded activations of the fit split, for the plane from uncentred candidates.
        tasks: Capability tasks with a ground truth; None measures no capability.
        seed: Seed of random blocks, sites and planes.
        engine: Engine that generates; see :func:`lens_steer.generate`.
        max_new_tokens: Largest number of tokens of each answer.
        progress: Show a progress bar.
        keep: Function that may store the result of each step, such as :meth:`lens_steer.evaluation.pieces.Pieces.keep`.
            A step is one plan: its measurement on the report split, or its count of harmful select prompts complied
            with.
    """
    bench = Bench(model, contrast.report, tasks or PromptSet(()), engine, max_new_tokens)
    all_conditions = conditions(calibration, activations, seed)
    on_report, on_select = bench.n_prompts, len(contrast.select.positive)
    per_condition = len(ANGLES) * on_select + 2 * on_report

    def measure(
        key: str, plans: tuple[SteeringPlan, ...], name: str, angle: float | None, *, at_nominal: bool
    ) -> Measured:
        return Measured.of(keep(key, lambda: bench.measure(plans, name, angle, at_nominal=at_nominal).plain()))

    def hits(plans: tuple[SteeringPlan, ...]) -> int:
        return int((bench.answer(contrast.select.positive, plans)[1] == "best").sum())

    nominal = 0.0
    with counting("experiments", on_report + len(all_conditions) * per_condition, shown=progress) as counter:
        found = [measure("none", (), "no steering", None, at_nominal=False)]
        for k, (name, plans) in enumerate(all_conditions.items()):
            counter.reach(float(on_report + k * per_condition))
            if name == COLLAPSE:
                collapsed = measure(f"{k:02}", plans(0.0), name, None, at_nominal=False)
                found += [collapsed, replace(collapsed, at_nominal=True)]
                continue
            counts = {a: keep(f"{k:02}-{a:g}", partial(hits, plans(a))) for a in ANGLES}
            best, _ = middle_of_best(list(counts), list(counts.values()))
            # BASE is the first condition, so its best angle is the nominal angle of all conditions after it.
            nominal = best if name == BASE else nominal
            found.append(measure(f"{k:02}-best", plans(best), name, best, at_nominal=False))
            if best == nominal:
                found.append(replace(found[-1], at_nominal=True))
            else:
                found.append(measure(f"{k:02}-nominal", plans(nominal), name, nominal, at_nominal=True))
    return found


@dataclass(frozen=True)
class Bench:
    """The prompts, tasks and options with which every condition is measured.

    Attributes:
        model: A model from :func:`lens_steer.load_model`.
        contrast: Harmful (positive) and harmless (negative) prompts.
        tasks: Capability tasks; may be empty.
        engine, max_new_tokens: See :func:`lens_steer.generate`.
    """

    model: Any
    contrast: Contrast
    tasks: PromptSet
    engine: str
    max_new_tokens: int

    @property
    def n_prompts(self) -> int:
        """Number of prompts that :meth:`measure` runs."""
        return len(self.contrast.positive) + len(self.contrast.negative) + len(self.tasks)

    def measure(self, plans: tuple[SteeringPlan, ...], name: str, angle: float | None, *, at_nominal: bool) -> Measured:
        """Generate and grade the answers of both classes and of the tasks under the plans.

        The perplexity of the answers to both classes is measured without the plans.
        """
        prompts = PromptSet(self.contrast.positive.prompts + self.contrast.negative.prompts)
        texts, graded = self.answer(prompts, plans)
        harmful = len(self.contrast.positive)
        done = self.answer(self.tasks, plans)[1] if len(self.tasks) else np.array([], dtype="U6")
        return Measured(
            name,
            angle,
            at_nominal,
            graded[:harmful] == "best",
            graded[harmful:] == "best",
            graded == "broken",
            mean_surprise(self.model, prompts, texts, engine=self.engine),
            done == "best",
        )

    def answer(self, prompts: PromptSet, plans: tuple[SteeringPlan, ...]) -> tuple[list[str], np.ndarray]:
        """Generate answers under the plans and grade them.

        Returns:
            The texts, and one grade per text, which is ``best`` (right; without a ground truth, answered), ``broken``
            (incoherent, or degenerate by the text alone) or ``other``.
        """
        with ExitStack() as stack:
            for plan in plans:
                stack.enter_context(steering(self.model, plan, tell=False))
            texts = generate(self.model, prompts, max_new_tokens=self.max_new_tokens, engine=self.engine)
        names = {grading.grades_of(prompts)[0]: "best", "incoherent": "broken", grading.DEGENERATE: "broken"}
        return texts, np.array([names.get(grading.grade(p, t), "other") for p, t in zip(prompts, texts, strict=True)])


def rows(found: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return one row per condition: rates with Wilson intervals, perplexity with a bootstrap interval over prompts."""
    table = []
    for m in found:
        row: dict[str, Any] = {"condition": m.condition, "angle": m.angle, "at_nominal": m.at_nominal}
        for name in ("positive_right", "negative_right", "broken", "capable"):
            hits = getattr(m, name)
            rate = wilson(int(hits.sum()), len(hits)) if len(hits) else None
            for end, value in zip(("", "_low", "_high", "_n"), _parts(rate), strict=True):
                row[name + end] = value
        said = m.surprise[~np.isnan(m.surprise)]
        surprise = bootstrap_mean(said) if len(said) else None
        for end, value in zip(("", "_low", "_high", "_n"), _parts(surprise), strict=True):
            row[f"perplexity{end}"] = value if end == "_n" or value is None else float(np.exp(value))
        table.append(row)
    return table


def _parts(estimate: Estimate | None) -> tuple[float | None, float | None, float | None, int]:
    return (None, None, None, 0) if estimate is None else (estimate.value, estimate.low, estimate.high, estimate.n)
