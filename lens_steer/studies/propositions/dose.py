"""Dose–response of the norm: the phases of a rotation that keeps the norm, and a norm error of a known size.

SS at its chosen angle is followed, at every steered site, by a multiplication with s: a relative norm error of s − 1
for every activation, and nothing else. Each outcome is a paired difference from s = 1 on the report split. The
criteria, fixed before the measurement:

- an error *changes* an outcome if the 95 % interval of the difference excludes 0 (``HOLDS``);
- an effect is *excluded beyond* d if the interval lies between −d and d, where d is the smallest effect of interest:
  ten points of a rate, a tenth of a nat of log-perplexity;
- the assay can see an effect on an outcome if at s = 0.5 or at s = 2 the interval that is joint for these two (97.5 %)
  excludes 0. Otherwise nothing is excluded: ``ASSAY INSENSITIVE``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lens_steer.evaluation.grids import Grid
from lens_steer.geometry.calibration import Calibration
from lens_steer.stats.estimates import Estimate
from lens_steer.steer.methods import selective_steering
from lens_steer.steer.plans import SteeringPlan
from lens_steer.studies.claim import Claim
from lens_steer.studies.propositions import precision
from lens_steer.studies.propositions.formula import SAS
from lens_steer.studies.propositions.measured import Measured, paired
from lens_steer.studies.propositions.norms import relative_change
from lens_steer.studies.verdicts import HOLDS, INSENSITIVE, NOT_SHOWN, REFUTED, SMALLEST, TIED, change_verdict

SCALES = (0.5, 0.8, 0.95, 0.99, 0.996, 1.004, 1.01, 1.05, 1.25, 2.0)  # beside 1, which is SS itself
CONTROLS = (0.5, 2.0)  # where the assay must see an effect
PUBLISHED = 0.004  # at least as large as every norm error of the released planes, in the dtype they were released in
CONDITION = "SS, L_disc, times s"
# Measured on the eight released planes, which are stored in bfloat16; see ``precision.published_claims``.
RELEASED = {"SAS, released bfloat16 planes": (1.2e-3, 3.7e-3), "SS, released bfloat16 planes": (1.0e-3, 3.0e-3)}


@dataclass(frozen=True)
class DoseOutcome:
    """An outcome that a norm error may change.

    Attributes:
        name: Field of :class:`Measured` that holds the values.
        said: The outcome as the object of a sentence.
        unit: What :data:`SMALLEST` is a share of, in words.
    """

    name: str
    said: str
    unit: str


OUTCOMES = (
    DoseOutcome("positive_right", "harmful compliance", "of the prompts"),
    DoseOutcome("negative_right", "right answers to harmless requests", "of the prompts"),
    DoseOutcome("surprise", "log-perplexity of both classes' answers under the unsteered model", "nats a token"),
    DoseOutcome("capable", "capability tasks done right", "of the tasks"),
)


def scaled(calibration: Calibration, angle: float | Sequence[float], *, scale: float) -> SteeringPlan:
    """Return SS at the discriminative sites with its output multiplied by a factor.

    Args:
        calibration: A calibration with discriminative sites.
        angle: The angle in degrees, or one for each prompt.
        scale: The factor s, above zero; at 1 the plan does what SS does.

    Raises:
        LensSteerError: If the angle or the scale is not a number.
    """
    plan = selective_steering(calibration, angle)
    steps = (replace(s, operator="selective_scaled", parameters={**s.parameters, "scale": scale}) for s in plan.steps)
    return replace(plan, steps=tuple(steps))


def dose_grids(calibration: Calibration, angle: float) -> dict[float, Grid]:
    """Return a grid at one angle for each norm error, by the factor s; without that of s = 1."""
    return {s: Grid(CONDITION, partial(scaled, calibration, scale=s), (angle,), variant=f"{s:g}") for s in SCALES}


def claim_id(outcome: str, scale: float | None = None) -> str:
    """Return a claim's id: that of an outcome at one factor, or without one that of the largest harmless error.

    >>> claim_id("capable", 0.95), claim_id("capable")
    ('norm-dose-capable-0.95', 'norm-dose-capable')
    """
    return f"norm-dose-{outcome}" + ("" if scale is None else f"-{scale:g}")


def dose_claims(dose: Mapping[float, Measured], model: str, *, tasks: bool = True, seed: int = 0) -> list[Claim]:
    """Test for every outcome whether a norm error changes it, error by error, and up to which size it does not.

    Args:
        dose: The measurements by factor, with that of 1; empty where the choice of the angle is a tie at nothing.
        model: Name of the model.
        tasks: Whether capability was measured; otherwise nothing is claimed of it.
        seed: Seed of the bootstrap.
    """
    claims = []
    for outcome in OUTCOMES:
        if outcome.name == "capable" and not tasks:
            continue
        effects = effects_of(dose, outcome.name, seed=seed)
        jointly = effects_of(dose, outcome.name, seed=seed, level=1 - 0.05 / len(SCALES))
        seen = sensitive(dose, outcome.name, seed=seed)
        where = f"{model}, report split, discriminative sites" + (f", at {dose[1.0].angle:g}°" if dose else "")
        for s in SCALES:
            claim = _of_one_error(s, effects.get(s), dose, outcome, seen, where)
            if claim.verdict == HOLDS:
                also = change_verdict(jointly[s]) == HOLDS
                claim = replace(claim, witness={**claim.witness, "holds_jointly": also})
            claims.append(claim)
        claims.append(_largest(effects, jointly, outcome, seen, where, tied=not dose))
    return claims


def effects_of(
    dose: Mapping[float, Measured], outcome: str, *, seed: int = 0, level: float = 0.95
) -> dict[float, Estimate]:
    """Return the paired difference of an outcome from that at s = 1, by factor.

    The interval is that of :func:`lens_steer.stats.differences.paired_difference`. A factor is left out if no
    prompt has a value at it and at 1.
    """
    found = {}
    for s in SCALES if dose else ():
        effect = paired(dose[s], dose[1.0], outcome, level=level, seed=seed)
        if effect is not None:
            found[s] = effect
    return found


def sensitive(dose: Mapping[float, Measured], outcome: str, *, seed: int = 0) -> bool:
    """Return whether one of the largest errors has an effect, at a level that is joint for them."""
    found = effects_of(dose, outcome, seed=seed, level=1 - 0.05 / len(CONTROLS))
    return any(s in found and (found[s].low > 0 or found[s].high < 0) for s in CONTROLS)


def small(effect: Estimate) -> bool:
    """Return whether an effect of :data:`SMALLEST` in either direction is excluded.

    >>> small(Estimate(0.02, -0.05, 0.09, 64)), small(Estimate(0.02, -0.05, 0.11, 64))
    (True, False)
    """
    return effect.low > -SMALLEST and effect.high < SMALLEST


def size(scale: float) -> float:
    """Return the size ``|s − 1|`` of a norm error.

    >>> size(0.996), size(1.004)
    (0.004, 0.004)
    """
    return round(abs(scale - 1), 9)


def rounding_error(*, seed: int = 0) -> float:
    """Return the largest relative norm error of SAS if its basis and its arithmetic are in bfloat16.

    It is that of the claim ``rounding-SAS``: of the worst of many drawn vectors, at the worst of twelve angles.
    """
    basis, h = precision.drawn(seed)
    b, x, sas = basis.bfloat16(), h.bfloat16(), precision.LITERAL[SAS]
    return max(float(relative_change(x, sas(x, b, angle)).abs().max()) for angle in precision.COARSE)


def _of_one_error(
    scale: float, effect: Estimate | None, dose: Mapping[float, Measured], outcome: DoseOutcome, seen: bool, where: str
) -> Claim:
    asked = Claim(
        id=claim_id(outcome.name, scale),
        statement=f"a norm error of {size(scale):g} at every steered site, phases kept (SS times {scale:g}), changes "
        f"{outcome.said}",
        formula="at s less at s = 1, paired by prompt",
        level="behaviour",
        domain=where,
        quantity=f"difference of {outcome.said}",
        criterion=f"95 % interval excludes 0; excluded beyond {SMALLEST:.2f} {outcome.unit} if it lies within ±"
        f"{SMALLEST:.2f} and s = 0.5 or 2 shows an effect",
        value=None,
        n=0,
        verdict=NOT_SHOWN if dose else TIED,
    )
    if effect is None:
        return asked
    one, two = (getattr(dose[s], outcome.name).astype(float) for s in (scale, 1.0))
    return replace(
        asked,
        value=effect.value,
        n=effect.n,
        interval=(effect.low, effect.high),
        verdict=change_verdict(effect, seen=seen),
        witness={
            "at_s": float(np.nanmean(one)),
            "at_1": float(np.nanmean(two)),
            "prompts_that_differ": int((one != two)[~(np.isnan(one) | np.isnan(two))].sum()),
        },
    )


def largest_harmless(effects: Mapping[float, Estimate]) -> float:
    """Return the largest tested norm error up to which every effect of :data:`SMALLEST` or more is excluded.

    >>> none, large = Estimate(0.0, -0.05, 0.05, 64), Estimate(-0.5, -0.6, -0.4, 64)
    >>> largest_harmless({s: large if size(s) >= 0.5 else none for s in SCALES})
    0.25
    """
    large = [size(s) for s in SCALES if s not in effects or not small(effects[s])]
    return max((size(s) for s in SCALES if all(size(s) < other for other in large)), default=0.0)


def _largest(
    effects: Mapping[float, Estimate],
    jointly: Mapping[float, Estimate],
    outcome: DoseOutcome,
    seen: bool,
    where: str,
    *,
    tied: bool,
) -> Claim:
    """Return the claim on the largest norm error of which an effect beyond the smallest of interest is excluded."""
    harmless = largest_harmless(effects)
    opposite = any(size(s) <= PUBLISHED and (e.low > SMALLEST or e.high < -SMALLEST) for s, e in effects.items())
    verdict = HOLDS if harmless >= PUBLISHED else REFUTED if opposite else NOT_SHOWN
    return Claim(
        id=claim_id(outcome.name),
        statement=f"a norm error as large as the published ones (at most {PUBLISHED:g}) changes {outcome.said} by less "
        f"than {SMALLEST:.2f} {outcome.unit}",
        formula="max |s − 1| with |difference| < d at every error up to it",
        level="behaviour",
        domain=where,
        quantity=f"largest tested norm error up to which every effect is excluded beyond {SMALLEST:.2f}",
        criterion=f"at least {PUBLISHED:g}, and s = 0.5 or 2 shows an effect at 97.5 %",
        value=harmless if seen else None,
        n=min((e.n for e in effects.values()), default=0),
        verdict=TIED if tied else verdict if seen or verdict == REFUTED else INSENSITIVE,
        witness={f"{s:g}": [e.low, e.high] for s, e in effects.items()}
        | {"holds_jointly": largest_harmless(jointly) >= PUBLISHED},
    )
