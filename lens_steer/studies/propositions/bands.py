"""Questions to the random controls: SS at L_disc against all draws of a control, each with a verdict.

The criterion has two parts. The 95 % interval of the difference from the mean of the draws, paired by prompt, lies on
the claimed side of 0, and so does SS beside every single draw: its rank among n draws is then p = 1 / (1 + n), which is
the smallest that n draws can give. The first part alone would tell of these draws only, the second alone of these
prompts only. A claim is refuted if both parts hold on the other side.

The draws have no choice of their own, so they are compared at the angle that was chosen for SS, and only there. The
criteria of these claims are *post hoc*: before, SS was compared with a single draw.
"""

from __future__ import annotations

from dataclasses import replace

from lens_steer.studies.claim import Claim
from lens_steer.studies.propositions.draws import AXIS, HALF, PLANE, SITES, Against, against
from lens_steer.studies.propositions.experiments import BASE, Experiments
from lens_steer.studies.propositions.outcomes import OUTCOMES, Outcome, claim_id, is_seen
from lens_steer.studies.verdicts import HOLDS, NOT_SHOWN, REFUTED, TIED, effect_verdict

# Each entry: key, control, statement with {} for the outcome, experiment.
BAND_QUESTIONS: tuple[tuple[str, str, str, str], ...] = (
    (
        "against-random-half",
        HALF,
        "choosing the discriminative sites {} than any random half of the blocks that was drawn",
        "E6",
    ),
    ("against-random-sites", SITES, "choosing the discriminative sites {} than any as many random ones drawn", "E6"),
    ("second-axis", AXIS, "the PCA's second axis {} than any random one drawn", "E8"),
    ("the-plane", PLANE, "the plane {} than any random one drawn", "E8"),
)


def band_claims(found: Experiments, model: str, *, family: int, seed: int = 0) -> list[Claim]:
    """Answer every question to the random controls for every outcome that was measured.

    Args:
        found: The results of the experiments.
        model: Name of the model.
        family: The number of questions of one outcome, the paired ones among them, for the joint level (Bonferroni).
        seed: Seed of the bootstrap.
    """
    claims = []
    for outcome in OUTCOMES:
        if any(len(getattr(m, outcome.name)) for m in found.measured):
            seen = is_seen(found, outcome.name, seed=seed)
            claims += [_answered(q, found, outcome, seen, model, family, seed) for q in BAND_QUESTIONS]
    return claims


def band_verdict(compared: Against, sign: int, *, seen: bool) -> str:
    """Return the verdict on the claim that SS lies beyond the draws of a control.

    Args:
        compared: SS against the draws.
        sign: 1 if it is claimed to lie above them, −1 if below.
        seen: Whether the experiments could have seen an effect.
    """
    said = effect_verdict(compared.difference, below=sign < 0, seen=seen)
    if (said == HOLDS and not compared.beyond(sign)) or (said == REFUTED and not compared.beyond(-sign)):
        return NOT_SHOWN
    return said


def _answered(
    question: tuple[str, str, str, str],
    found: Experiments,
    outcome: Outcome,
    seen: bool,
    model: str,
    family: int,
    seed: int,
) -> Claim:
    key, control, said, experiment = question
    base = found.at(nominal=False).get(BASE)
    drawn = found.drawn.get(control, ())
    angle = "" if base is None or base.angle is None else f" at {base.angle:g}°"
    asked = Claim(
        id=claim_id(key, outcome.name, at_nominal=True),
        statement=f"{said.format(outcome.said)}, at one nominal angle ({experiment})",
        formula="SS less the mean of the draws, paired by prompt; rank of SS among the draws",
        level="behaviour",
        domain=f"{model}, report split: {BASE}{angle}, and {len(drawn)} draws of {control} at the same angle; no draw "
        "has a choice of its own",
        quantity=f"{outcome.quantity} from the mean of the draws; the interval is over prompts",
        criterion=f"95 % interval {'above' if outcome.sign > 0 else 'below'} 0, and beyond every draw (p = 1 / (1 + n) "
        "for n draws)",
        value=None,
        n=0,
        verdict=TIED,
    )
    if base is None or base.tied:
        return asked
    alone, jointly = (against(base, drawn, outcome.name, comparisons=n, seed=seed) for n in (1, family))
    if alone is None or jointly is None:
        return replace(asked, verdict=NOT_SHOWN, witness={"note": "there is no draw with a value"})
    band, effect = alone.band, alone.difference
    p = band.p_at_least if outcome.sign > 0 else band.p_at_most
    verdict = band_verdict(alone, outcome.sign, seen=seen)
    holds_jointly = band_verdict(jointly, outcome.sign, seen=seen) == HOLDS and p <= 0.05 / family
    return replace(
        asked,
        value=effect.value,
        n=effect.n,
        interval=(effect.low, effect.high),
        verdict=verdict,
        witness={
            "draws": band.n,
            "minimum": band.minimum,
            "median": band.median,
            "maximum": band.maximum,
            "rank_p": p,
            "family_interval": [jointly.difference.low, jointly.difference.high],
            "family": f"95 % for the {family} questions of this outcome together, also for the rank: p at most "
            f"{0.05 / family:.2g}",
            **({"holds_jointly": holds_jointly} if verdict == HOLDS else {}),
        },
    )
