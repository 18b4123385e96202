"""Questions to the experiments: differences between two conditions, paired by prompt, each with a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lens_steer.stats import Estimate, paired_difference
from lens_steer.studies.claim import Claim, verdict
from lens_steer.studies.propositions.experiments import BASE, COLLAPSE, Measured
from lens_steer.studies.verdicts import NOT_SHOWN

NORM_KEEPING = (BASE, "SAS, L_disc", "X1 (rotate)", COLLAPSE)


@dataclass(frozen=True)
class Outcome:
    """A quantity by which two conditions are compared.

    Attributes:
        name: Field of :class:`Measured` that holds the values.
        said: Verb phrase for what the first condition is claimed to do more than the second.
        quantity: Description of the difference.
        sign: 1 where a larger value is better, −1 where a smaller one is.
    """

    name: str
    said: str
    quantity: str
    sign: int


OUTCOMES = (
    Outcome("positive_right", "elicits more", "difference of harmful compliance", 1),
    Outcome(
        "surprise",
        "gives answers of lower perplexity",
        "difference of log-perplexity of both classes' answers under the unsteered model",
        -1,
    ),
    Outcome("capable", "keeps more capability", "difference of the share of capability tasks done right", 1),
)
# Each entry: key, first condition, second condition, statement with {} for the outcome, experiment.
QUESTIONS: tuple[tuple[str, str, str, str, str], ...] = (
    (
        "relative-angle",
        "SS, L_disc",
        "SAS, L_disc",
        "a relative angle (SS) {} than an absolute one (SAS) at the discriminative sites",
        "E2",
    ),
    (
        "relative-angle-everywhere",
        "SS, all sites",
        "SAS, all sites",
        "a relative angle (SS) {} than an absolute one (SAS) at all sites",
        "E2",
    ),
    (
        "selected-layers-SS",
        "SS, L_disc",
        "SS, all sites",
        "choosing the discriminative sites {} than all sites, with SS",
        "E2",
    ),
    (
        "selected-layers-SAS",
        "SAS, L_disc",
        "SAS, all sites",
        "choosing the discriminative sites {} than all sites, with SAS",
        "E2",
    ),
    ("phase-matched", "SS, L_disc", "SAS + mean phase", "SS {} than SAS that is given the class's mean phase", "E3"),
    ("rotation-half", "SS, L_disc", "X1 (rotate)", "SS {} than X1, the rotating half of SAS", "E4"),
    ("collapse-half", "SAS, L_disc", "X2 (collapse)", "SAS {} than X2, its collapsing half", "E4"),
    (
        "against-early",
        "SS, L_disc",
        "SS, early half",
        "choosing the discriminative sites {} than the early half of the blocks",
        "E6",
    ),
    (
        "against-late",
        "SS, L_disc",
        "SS, late half",
        "choosing the discriminative sites {} than the late half of the blocks",
        "E6",
    ),
    (
        "against-random-half",
        "SS, L_disc",
        "SS, random half",
        "choosing the discriminative sites {} than a random half of the blocks",
        "E6",
    ),
    (
        "against-random-sites",
        "SS, L_disc",
        "SS, random sites",
        "choosing the discriminative sites {} than as many random ones",
        "E6",
    ),
    (
        "centred-plane",
        "SS, L_disc",
        "SS, uncentred PCA",
        "a plane from centred candidates {} than one from uncentred ones",
        "E8",
    ),
    ("sign-of-b2", "SS, L_disc", "SS, b2 reversed", "the written sign of b2 {} than the other", "E8"),
    ("second-axis", "SS, L_disc", "SS, random b2", "the PCA's second axis {} than a random one", "E8"),
    ("the-plane", "SS, L_disc", "SS, random plane", "the plane {} than a random one", "E8"),
    (
        "fresh-cache-SS",
        "SS, L_disc",
        "SS, stale cache",
        "a fresh cache {} than a cache of the unsteered prompt, with SS",
        "E11",
    ),
    ("fresh-cache-SAS", "SAS, L_disc", "SAS, stale cache", "a fresh cache {} than a cache made at 0°, with SAS", "E11"),
)


def claim_id(question: str, outcome: str, *, at_nominal: bool) -> str:
    """Return a claim's id: ``relative-angle``, ``nominal-relative-angle``, ``nominal-capable-relative-angle``, …"""
    return ("nominal-" if at_nominal else "") + ("" if outcome == "positive_right" else f"{outcome}-") + question


def experiment_claims(found: Sequence[Measured], model: str, *, seed: int = 0) -> list[Claim]:
    """Answer every question for every outcome that was measured.

    A claim holds if the 95 % interval of the paired difference lies on the claimed side of zero.
    """
    claims = []
    for outcome in OUTCOMES:
        if not all(len(getattr(m, outcome.name)) for m in found):
            continue
        for at_nominal in (False, True):
            by_name = {m.condition: m for m in found if m.at_nominal == at_nominal}
            claims += [_answered(q, by_name, outcome, at_nominal, model, seed) for q in QUESTIONS]
    return [*claims, norms_explain(found, model, seed=seed)]


def _answered(
    question: tuple[str, str, str, str, str],
    by_name: dict[str, Measured],
    outcome: Outcome,
    at_nominal: bool,
    model: str,
    seed: int,
) -> Claim:
    key, first, second, said, experiment = question
    a, b = by_name[first], by_name[second]
    where = "all at the nominal angle" if at_nominal else "each at its own best angle, chosen on select"
    asked = Claim(
        id=claim_id(key, outcome.name, at_nominal=at_nominal),
        statement=f"{said.format(outcome.said)}{', at one nominal angle' if at_nominal else ''} ({experiment})",
        formula="first less second, paired by prompt",
        level="behaviour",
        domain=f"{model}, report split, {where}: {first} {_at(a)}, {second} {_at(b)}",
        quantity=outcome.quantity,
        criterion=f"95 % interval {'above' if outcome.sign > 0 else 'below'} 0",
        value=None,
        n=0,
        verdict=NOT_SHOWN,
    )
    found, family = (difference(a, b, outcome.name, seed, comparisons=n) for n in (1, len(QUESTIONS)))
    if found is None or family is None:
        return replace(asked, witness={"note": "no prompt has a value under both conditions"})
    holds = found.low > 0 if outcome.sign > 0 else found.high < 0
    return replace(
        asked,
        value=found.value,
        n=found.n,
        interval=(found.low, found.high),
        verdict=verdict(holds),
        witness={
            "first": _mean(a, outcome.name),
            "second": _mean(b, outcome.name),
            "family_interval": [family.low, family.high],
            "family": f"95 % for the {len(QUESTIONS)} questions of this outcome together (Bonferroni)",
        },
    )


def norms_explain(found: Sequence[Measured], model: str, *, seed: int = 0) -> Claim:
    """Test whether the four operators that keep the norm have the same outcome.

    The claim fails if any two of them differ at a joint level of 95 %.
    """
    norm_keeping = [m for m in found if m.condition in NORM_KEEPING and not m.at_nominal]
    pairs = [(a, b) for i, a in enumerate(norm_keeping) for b in norm_keeping[i + 1 :]]
    compared = [(a, b, difference(a, b, "positive_right", seed, comparisons=len(pairs))) for a, b in pairs]
    gaps = [(a, b, gap) for a, b, gap in compared if gap is not None]
    apart = any(gap.low > 0 or gap.high < 0 for _, _, gap in gaps)
    a, b, widest = max(gaps, key=lambda g: abs(g[2].value))
    return Claim(
        id="norms-explain",
        statement="keeping the norm is what decides the outcome: operators that all keep it (SS, SAS, X1, X2) "
        "do alike (E4)",
        formula="share complied with, paired by prompt",
        level="behaviour",
        domain=f"{model}, report split, discriminative sites, each at its own best angle",
        quantity=f"largest difference between two of the four; intervals at 95 % for all {len(pairs)} pairs together "
        "(Bonferroni)",
        criterion="no interval of a difference excludes 0",
        value=widest.value,
        n=widest.n,
        verdict=verdict(not apart),
        interval=(widest.low, widest.high),
        witness={"first": a.condition, "second": b.condition},
    )


def difference(
    a: Measured, b: Measured, outcome: str = "positive_right", seed: int = 0, *, comparisons: int = 1
) -> Estimate | None:
    """Compare two conditions on the same prompts.

    Args:
        a, b: The conditions.
        outcome: The name of an :class:`Outcome`.
        seed: Seed of the bootstrap.
        comparisons: The number of comparisons for which the interval holds at 95 % together (Bonferroni).

    Returns:
        The mean of ``a − b`` with the interval of :func:`lens_steer.stats.paired_difference`; None if no prompt has a
        value under both conditions.
    """
    one, two = (getattr(m, outcome).astype(float) for m in (a, b))
    kept = ~(np.isnan(one) | np.isnan(two))
    return paired_difference(one[kept], two[kept], level=1 - 0.05 / comparisons, seed=seed) if kept.any() else None


def _mean(measured: Measured, outcome: str) -> float:
    return float(np.nanmean(getattr(measured, outcome).astype(float)))


def _at(measured: Measured) -> str:
    return "without an angle" if measured.angle is None else f"at {measured.angle:g}°"
