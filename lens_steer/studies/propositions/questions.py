"""Questions to the experiments: differences between two conditions, paired by prompt, each with a verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lens_steer.stats import Estimate, paired_difference
from lens_steer.studies.claim import Claim
from lens_steer.studies.propositions.experiments import BASE, COLLAPSE, UNSTEERED, Experiments
from lens_steer.studies.propositions.measured import Measured
from lens_steer.studies.verdicts import HOLDS, NOT_SHOWN, SMALLEST, TIED, effect_verdict

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


def experiment_claims(found: Experiments, model: str, *, seed: int = 0) -> list[Claim]:
    """Answer every question for every outcome that was measured.

    A claim holds if the 95 % interval of the paired difference lies on the claimed side of zero. It is not shown where
    one of the angles would come from a tie at nothing on the select split: nothing is compared at such an angle.
    """
    claims = []
    for outcome in OUTCOMES:
        if not any(len(getattr(m, outcome.name)) for m in found.measured):
            continue
        seen = is_seen(found, outcome.name, seed=seed)
        for at_nominal in (False, True):
            by_name = found.at(nominal=at_nominal)
            claims += [_answered(q, by_name, outcome, at_nominal, seen, model, seed) for q in QUESTIONS]
    return [*claims, norm_keeping_differ(found, model, seed=seed)]


def is_seen(found: Experiments, outcome: str, *, seed: int = 0) -> bool:
    """Return whether the experiments could have seen an effect on an outcome.

    They could if a condition at its own angle, chosen on select, differs from no steering by the smallest effect of
    interest or more, with an interval that is joint for all conditions.
    """
    measured = {name: m for name, m in found.at(nominal=False).items() if not m.tied}
    unsteered, others = measured.pop(UNSTEERED, None), list(measured.values())
    if unsteered is None:
        return False
    made = [difference(m, unsteered, outcome, seed, comparisons=len(others)) for m in others]
    return any(e is not None and max(e.low, -e.high) >= SMALLEST for e in made)


def _answered(
    question: tuple[str, str, str, str, str],
    by_name: dict[str, Measured],
    outcome: Outcome,
    at_nominal: bool,
    seen: bool,
    model: str,
    seed: int,
) -> Claim:
    key, first, second, said, experiment = question
    a, b = by_name.get(first), by_name.get(second)
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
        verdict=TIED,
    )
    if a is None or b is None or a.tied or b.tied:
        return asked
    found, family = (difference(a, b, outcome.name, seed, comparisons=n) for n in (1, len(QUESTIONS)))
    if found is None or family is None:
        return replace(asked, verdict=NOT_SHOWN, witness={"note": "no prompt has a value under both conditions"})
    said, jointly = (effect_verdict(e, below=outcome.sign < 0, seen=seen) for e in (found, family))
    return replace(
        asked,
        value=found.value,
        n=found.n,
        interval=(found.low, found.high),
        verdict=said,
        witness={
            "first": _mean(a, outcome.name),
            "second": _mean(b, outcome.name),
            "family_interval": [family.low, family.high],
            "family": f"95 % for the {len(QUESTIONS)} questions of this outcome together (Bonferroni)",
            **({"holds_jointly": jointly == HOLDS} if said == HOLDS else {}),
        },
    )


def norm_keeping_differ(found: Experiments, model: str, *, seed: int = 0) -> Claim:
    """Test whether two conditions that both keep every norm have different outcomes.

    The claim holds if any two of the four differ at a joint level of 95 %. It says that such operators need not do
    alike. It says nothing of what a norm error would do; see :mod:`lens_steer.studies.propositions.dose`.
    """
    measured = [m for name, m in found.at(nominal=False).items() if name in NORM_KEEPING and not m.tied]
    pairs = [(a, b) for i, a in enumerate(measured) for b in measured[i + 1 :]]
    compared = [(a, b, difference(a, b, "positive_right", seed, comparisons=len(pairs))) for a, b in pairs]
    gaps = [(a, b, gap) for a, b, gap in compared if gap is not None]
    asked = Claim(
        id="norm-keeping-differ",
        statement="conditions that all keep every norm (SS, SAS, X1, X2) differ in harmful compliance (E4)",
        formula="share complied with, paired by prompt",
        level="behaviour",
        domain=f"{model}, report split, discriminative sites, each at its own best angle; left out as a tie at nothing "
        f"on select: {', '.join(n for n in NORM_KEEPING if n not in {m.condition for m in measured}) or 'none'}",
        quantity=f"largest difference between two of the {len(measured)}; intervals at 95 % for all {len(pairs)} pairs "
        "together (Bonferroni)",
        criterion="the interval of a difference excludes 0",
        value=None,
        n=0,
        verdict=NOT_SHOWN if measured[1:] else TIED,
    )
    if not gaps:
        return asked
    a, b, widest = max(gaps, key=lambda g: abs(g[2].value))
    apart = any(gap.low > 0 or gap.high < 0 for _, _, gap in gaps)
    return replace(
        asked,
        value=widest.value,
        n=widest.n,
        verdict=HOLDS if apart else NOT_SHOWN,
        interval=(widest.low, widest.high),
        witness={"first": a.condition, "second": b.condition, "holds_jointly": apart},
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


def _at(measured: Measured | None) -> str:
    if measured is None or measured.tied:
        return "without an angle (a tie at nothing on select)"
    return "without an angle" if measured.angle is None else f"at {measured.angle:g}°"
