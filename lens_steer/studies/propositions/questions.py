"""Questions to the experiments: differences between two conditions, paired by prompt, each with a verdict.

The joint level is that of all such claims on an outcome: each question at the conditions' own best angles and at the
nominal one. The questions to the random controls are another family (:mod:`lens_steer.studies.propositions.bands`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lens_steer.studies.claim import Claim
from lens_steer.studies.propositions.bands import band_claims
from lens_steer.studies.propositions.experiments import BASE, COLLAPSE, Experiments
from lens_steer.studies.propositions.measured import Measured, paired
from lens_steer.studies.propositions.outcomes import OUTCOMES, Outcome, claim_id, difference, is_seen
from lens_steer.studies.propositions.prefix_cache import Reuse
from lens_steer.studies.verdicts import HOLDS, NOT_SHOWN, TIED, effect_verdict

__all__ = [
    "FAMILY", "NORM_KEEPING", "OUTCOMES", "QUESTIONS", "Outcome", "claim_id", "difference", "experiment_claims",
    "is_seen", "norm_keeping_differ",
]  # fmt: skip

NORM_KEEPING = (BASE, "SAS, L_disc", "X1 (rotate)", COLLAPSE)


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
        "centred-plane",
        "SS, L_disc",
        "SS, uncentred PCA",
        "a plane from centred candidates {} than one from uncentred ones",
        "E8",
    ),
    ("sign-of-b2", "SS, L_disc", "SS, b2 reversed", "the written sign of b2 {} than the other", "E8"),
    (
        "engine-cache-SS",
        "SS, L_disc",
        "SS, stale cache",
        "an empty cache {} than an engine's prefix cache with whole blocks of the unsteered prompt, with SS",
        "E11",
    ),
    (
        "engine-cache-SAS",
        "SAS, L_disc",
        "SAS, stale cache",
        "an empty cache {} than an engine's prefix cache with whole blocks of the prompt at 0°, with SAS",
        "E11",
    ),
    (
        "whole-prompt-SS",
        "SS, L_disc",
        "SS, last token and answer",
        "steering the whole prompt {} than steering its last token and the answer alone, with SS",
        "E11",
    ),
    (
        "whole-prompt-SAS",
        "SAS, L_disc",
        "SAS, last token and answer",
        "steering the whole prompt {} than its last token and the answer alone, the rest at 0°, with SAS",
        "E11",
    ),
    (
        "fresh-cache-SS",
        "SS, L_disc",
        "SS, answer alone",
        "steering prompt and answer {} than the answer alone, with SS",
        "E11",
    ),
    (
        "fresh-cache-SAS",
        "SAS, L_disc",
        "SAS, answer alone",
        "steering prompt and answer {} than the answer alone, the prompt at 0°, with SAS",
        "E11",
    ),
)
OF_A_CACHE = "engine-cache"  # the beginning of the questions to which it matters how many prompts have a whole block
FAMILY = 2 * len(QUESTIONS)  # the paired claims of one outcome, at own and nominal angles, for their joint level


def experiment_claims(found: Experiments, model: str, *, seed: int = 0) -> list[Claim]:
    """Answer every question for every outcome that was measured.

    A claim holds if the 95 % interval of the paired difference lies on the claimed side of zero. It is not shown where
    one of the angles would come from a tie at nothing on the select split: nothing is compared at such an angle. The
    questions to the random controls follow; see :mod:`lens_steer.studies.propositions.bands`.
    """
    claims = []
    for outcome in OUTCOMES:
        if not any(len(getattr(m, outcome.name)) for m in found.measured):
            continue
        seen = is_seen(found, outcome.name, seed=seed)
        for at_nominal in (False, True):
            by_name = found.at(nominal=at_nominal)
            for question in QUESTIONS:
                claim = _answered(question, by_name, outcome, at_nominal, seen, model, seed)
                reused = found.reused.get(outcome.name) if question[0].startswith(OF_A_CACHE) else None
                pair = [by_name.get(name) for name in question[1:3]]
                claims.append(claim if reused is None else _of_a_cache(claim, reused, pair, outcome.name, seed))
    claims += band_claims(found, model, seed=seed)
    return [*claims, norm_keeping_differ(found, model, seed=seed)]


def _of_a_cache(claim: Claim, reused: Reuse, pair: Sequence[Measured | None], outcome: str, seed: int) -> Claim:
    """Return a claim on a prefix cache with what the cache hands over of the outcome's own prompts.

    Where this is nothing, nothing is shown. The witness has the difference among the prompts with a whole block: the
    others are the same under both conditions, and pull the difference towards 0.
    """
    told: dict[str, Any] = {
        "block": reused.block,
        "n_prompts": reused.n_prompts,
        "n_with_block": reused.n_with_block,
        "share_of_tokens": reused.share_of_tokens,
    }
    domain = f"{claim.domain}; {reused}"
    if not reused.n_with_block:
        why = f"{NOT_SHOWN} (no prompt has a whole block)"
        return replace(claim, domain=domain, value=None, interval=None, n=0, verdict=why, witness=told)
    a, b = pair
    if claim.interval is not None and a is not None and b is not None:
        among = paired(a, b, outcome, seed=seed, among=reused.with_block)
        told["among_prompts_with_a_block"] = None if among is None else [among.value, among.low, among.high, among.n]
    return replace(claim, domain=domain, witness={**claim.witness, **told})


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
    found, family = (difference(a, b, outcome.name, seed, comparisons=n) for n in (1, FAMILY))
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
            "family": f"95 % for the {FAMILY} paired claims of this outcome together, at own and nominal angles "
            "(Bonferroni)",
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


def _mean(measured: Measured, outcome: str) -> float:
    return float(np.nanmean(getattr(measured, outcome).astype(float)))


def _at(measured: Measured | None) -> str:
    if measured is None or measured.tied:
        return "without an angle (a tie at nothing on select)"
    return "without an angle" if measured.angle is None else f"at {measured.angle:g}°"
