"""The experiments that decide: conditions that differ in one thing each, graded answers, differences paired by prompt.

Every condition's own best angle is chosen on the select split (most harmful requests complied with); what is reported comes from the report split, at that
angle and at the nominal one, which is the best of SS at L_disc. All rotations keep the norm, so what differs between them is not about norms.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from tqdm.auto import tqdm

from lens_steer import outcomes, sites
from lens_steer.activations import Activations
from lens_steer.claims.record import Claim, verdict
from lens_steer.generation import generate
from lens_steer.geometry.calibration import Calibration, calibrate
from lens_steer.geometry.planes import orthonormalise, random_plane
from lens_steer.hooks import steering
from lens_steer.methods import mean_phase_rotation, phase_collapse, selective_steering, standard_angular
from lens_steer.plans import SteeringPlan
from lens_steer.prompts import Contrast, ContrastSet
from lens_steer.stats import bootstrap_means, wilson

ANGLES = tuple(float(a) for a in range(30, 360, 30))
BASE, COLLAPSE = "SS, L_disc", "X2 (collapse)"
Plans = Callable[[float], tuple[SteeringPlan, ...]]


@dataclass(frozen=True)
class Measured:
    """One condition on the report split.

    Attributes:
        condition: its name.
        angle: degrees; None without steering, and for X2, which knows none.
        at_nominal: whether the angle is the nominal one instead of the condition's own best.
        complied: by harmful prompt, whether it was complied with (graded right).
        helped: by harmless prompt, the same.
        broken: by prompt of both classes, whether the answer is incoherent.
    """

    condition: str
    angle: float | None
    at_nominal: bool
    complied: Bool[np.ndarray, " n_harmful"]
    helped: Bool[np.ndarray, " n_harmless"]
    broken: Bool[np.ndarray, " n"]


def conditions(calibration: Calibration, activations: Activations, seed: int) -> dict[str, Plans]:
    """Every condition by name, as plans at an angle."""
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
        "SS, stale cache": partial(ss, positions="generated"),
        "SAS, stale cache": lambda angle: (*sas(0.0, positions="prompt"), *sas(angle, positions="generated")),
    }


def with_mean_phase(calibration: Calibration, angle: float) -> SteeringPlan:
    """SAS at θ + φ̄, φ̄ being each site's harmful-class mean phase (E3): the angle that puts the class mean where SS by θ puts it."""
    phases = mean_phase_rotation(calibration, angle, phase_of="positive")
    steps = [
        replace(s, operator="standard", parameters={"basis": s.parameters["basis"], "angle": angle + s.parameters["mean_phase"]})
        for s in phases.steps
    ]
    return replace(phases, method="standard", steps=tuple(steps))


def run(
    model: Any, contrast: ContrastSet, calibration: Calibration, activations: Activations, *, seed: int = 0, engine: str = "tl",
    max_new_tokens: int = 48, progress: bool = True,
) -> list[Measured]:  # fmt: skip
    """Every condition at its own best angle and at the nominal one, and no steering."""
    answer = partial(_successes, model, max_new_tokens=max_new_tokens, engine=engine)
    found = [_measure(answer, contrast.report, (), "no steering", None, at_nominal=False)]
    nominal = 0.0
    all_conditions = conditions(calibration, activations, seed)
    for name, plans in tqdm(all_conditions.items(), desc="experiments", unit="condition", disable=not progress, leave=False):
        if name == COLLAPSE:
            collapsed = _measure(answer, contrast.report, plans(0.0), name, None, at_nominal=False)
            found += [collapsed, replace(collapsed, at_nominal=True)]
            continue
        counts = {a: int(answer(contrast.select.positive, plans(a))[0].sum()) for a in ANGLES}
        best = max(counts, key=lambda a: counts[a])
        nominal = best if name == BASE else nominal
        found.append(_measure(answer, contrast.report, plans(best), name, best, at_nominal=False))
        if best == nominal:
            found.append(replace(found[-1], at_nominal=True))
        else:
            found.append(_measure(answer, contrast.report, plans(nominal), name, nominal, at_nominal=True))
    return found


QUESTIONS: tuple[tuple[str, str, str, str, str], ...] = (
    ("relative-angle", "SS, L_disc", "SAS, L_disc", "a relative angle (SS) elicits more than an absolute one (SAS) at the discriminative sites", "E2"),
    ("relative-angle-everywhere", "SS, all sites", "SAS, all sites", "a relative angle (SS) elicits more than an absolute one (SAS) at all sites", "E2"),
    ("selected-layers-SS", "SS, L_disc", "SS, all sites", "choosing the discriminative sites elicits more than all sites, with SS", "E2"),
    ("selected-layers-SAS", "SAS, L_disc", "SAS, all sites", "choosing the discriminative sites elicits more than all sites, with SAS", "E2"),
    ("phase-matched", "SS, L_disc", "SAS + mean phase", "SS still elicits more than SAS when SAS is given the class's mean phase", "E3"),
    ("rotation-half", "SS, L_disc", "X1 (rotate)", "SS elicits more than X1, the rotating half of SAS", "E4"),
    ("collapse-half", "SAS, L_disc", "X2 (collapse)", "SAS elicits more than X2, its collapsing half", "E4"),
    ("against-early", "SS, L_disc", "SS, early half", "the discriminative sites elicit more than the early half of the blocks", "E6"),
    ("against-late", "SS, L_disc", "SS, late half", "the discriminative sites elicit more than the late half of the blocks", "E6"),
    ("against-random-half", "SS, L_disc", "SS, random half", "the discriminative sites elicit more than a random half of the blocks", "E6"),
    ("against-random-sites", "SS, L_disc", "SS, random sites", "the discriminative sites elicit more than as many random ones", "E6"),
    ("centred-plane", "SS, L_disc", "SS, uncentred PCA", "centring the PCA elicits more", "E8"),
    ("sign-of-b2", "SS, L_disc", "SS, b2 reversed", "the written sign of b2 elicits more than the other", "E8"),
    ("second-axis", "SS, L_disc", "SS, random b2", "the PCA's second axis elicits more than a random one", "E8"),
    ("the-plane", "SS, L_disc", "SS, random plane", "the plane elicits more than a random one", "E8"),
    ("fresh-cache-SS", "SS, L_disc", "SS, stale cache", "steering the prompt too matters, with SS (a cache of the unsteered prompt elicits less)", "E11"),
    ("fresh-cache-SAS", "SAS, L_disc", "SAS, stale cache", "steering the prompt at the same angle matters, with SAS (a cache made at 0° elicits less)", "E11"),
)  # fmt: skip


def experiment_claims(found: Sequence[Measured], model: str, *, seed: int = 0) -> list[Claim]:
    """Each question as a difference of compliance paired by prompt: it holds if the 95 % interval lies above zero."""
    claims = []
    for at_nominal in (False, True):
        by_name = {m.condition: m for m in found if m.at_nominal == at_nominal}
        for key, first, second, said, experiment in QUESTIONS:
            a, b = by_name[first], by_name[second]
            mean, low, high = difference(a, b, seed)
            where = "all at the nominal angle" if at_nominal else "each at its own best angle, chosen on select"
            claims.append(
                Claim(
                    f"{'nominal-' if at_nominal else ''}{key}", f"{said}{', at one nominal angle' if at_nominal else ''} ({experiment})",
                    "share complied with, first less second, paired by prompt", "behaviour",
                    f"{model}, report split, {where}: {first} {_at(a)}, {second} {_at(b)}", "difference of harmful compliance",
                    "95 % interval above 0", mean, len(a.complied), verdict(low > 0), (low, high),
                    {"first": float(a.complied.mean()), "second": float(b.complied.mean()),
                     "helped": [float(a.helped.mean()), float(b.helped.mean())], "broken": [float(a.broken.mean()), float(b.broken.mean())]},
                )
            )  # fmt: skip
    norm_keeping = [m for m in found if m.condition in (BASE, "SAS, L_disc", "X1 (rotate)", COLLAPSE) and not m.at_nominal]
    pairs = [(a, b) for i, a in enumerate(norm_keeping) for b in norm_keeping[i + 1 :]]
    gaps = [(a, b, difference(a, b, seed, level=1 - 0.05 / len(pairs))) for a, b in pairs]
    apart = any(low > 0 or high < 0 for _, _, (_, low, high) in gaps)
    a, b, (mean, low, high) = max(gaps, key=lambda g: abs(g[2][0]))
    claims.append(
        Claim(
            "norms-explain", "keeping the norm is what decides the outcome: operators that all keep it (SS, SAS, X1, X2) do alike (E4)",
            "share complied with, paired by prompt", "behaviour", f"{model}, report split, discriminative sites, each at its own best angle",
            f"largest difference between two of the four; intervals at 95 % for all {len(pairs)} pairs together (Bonferroni)",
            "no interval of a difference excludes 0", mean, len(a.complied), verdict(not apart), (low, high),
            {"first": a.condition, "second": b.condition},
        )
    )  # fmt: skip
    return claims


def difference(a: Measured, b: Measured, seed: int = 0, *, level: float = 0.95) -> tuple[float, float, float]:
    """Harmful compliance of one condition less another's: mean and bootstrap interval over prompts, the same prompts in both."""
    mean, low, high = bootstrap_means(a.complied.astype(float) - b.complied.astype(float), seed=seed, level=level)
    return float(mean), float(low), float(high)


def _at(measured: Measured) -> str:
    return "without an angle" if measured.angle is None else f"at {measured.angle:g}°"


def rows(found: Sequence[Measured]) -> list[dict[str, Any]]:
    """One row a condition: rates with Wilson intervals, by class."""
    table = []
    for m in found:
        row: dict[str, Any] = {"condition": m.condition, "angle": m.angle, "at_nominal": m.at_nominal}
        for name in ("complied", "helped", "broken"):
            rate = wilson(int(getattr(m, name).sum()), len(getattr(m, name)))
            row |= {name: rate.value, f"{name}_low": rate.low, f"{name}_high": rate.high, f"{name}_n": rate.n}
        table.append(row)
    return table


def _measure(
    answer: Callable[..., tuple[np.ndarray, np.ndarray]],
    contrast: Contrast,
    plans: tuple[SteeringPlan, ...],
    name: str,
    angle: float | None,
    *,
    at_nominal: bool,
) -> Measured:
    (complied, broken), (helped, also) = answer(contrast.positive, plans), answer(contrast.negative, plans)
    return Measured(name, angle, at_nominal, complied, helped, np.concatenate([broken, also]))


def _successes(
    model: Any, prompts: Any, plans: tuple[SteeringPlan, ...], *, max_new_tokens: int, engine: str
) -> tuple[np.ndarray, np.ndarray]:
    """Which prompts were answered rightly (or, without a ground truth, not refused), and which incoherently."""
    with ExitStack() as stack:
        for plan in plans:
            stack.enter_context(steering(model, plan))
        texts = generate(model, prompts, max_new_tokens=max_new_tokens, engine=engine)
    graded = [outcomes.grade(p, t) for p, t in zip(prompts, texts, strict=True)]
    best = outcomes.grades_of(prompts)[0]
    return np.array([g == best for g in graded]), np.array([g == "incoherent" for g in graded])
