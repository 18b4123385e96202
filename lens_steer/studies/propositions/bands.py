"""Questions to the random controls: SS at L_disc against all draws of a control, each with a verdict.

The criterion has two parts. The 95 % interval of the difference from the mean of the draws, over prompts and over
draws, lies on the claimed side of 0, and the rank of SS among the draws has a one-sided p of at most 0.05: with 19
draws, SS lies beyond every one of them. The first part alone would tell of the mean of such draws, the second alone of
these prompts. A claim is refuted if both parts hold on the other side, and not shown where the rank does not tell. With
fewer than ten draws nothing is shown, refuted or excluded.

The draws have no choice of their own, so they are compared at the angle that was chosen for SS, and only there. The
criteria of these claims are *post hoc*: before, SS was compared with a single draw.

The questions of an outcome are a family of their own for the joint level. It asks of the rank what fewer than 79 draws
cannot give, and the paired questions (:mod:`lens_steer.studies.propositions.questions`) do not pay for it.
"""

from __future__ import annotations

from dataclasses import replace

from lens_steer.studies.claim import Claim
from lens_steer.studies.propositions.draws import AXIS, HALF, PLANE, SITES, Against, against
from lens_steer.studies.propositions.experiments import BASE, Experiments
from lens_steer.studies.propositions.outcomes import OUTCOMES, Outcome, claim_id, is_seen
from lens_steer.studies.verdicts import HOLDS, LARGEST_P, NOT_SHOWN, TIED, drawn_verdict, effect_verdict

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


BAND_FAMILY = len(BAND_QUESTIONS)  # the claims of one outcome, for the level at which they hold jointly


def band_claims(found: Experiments, model: str, *, seed: int = 0) -> list[Claim]:
    """Answer every question to the random controls for every outcome that was measured.

    Args:
        found: The results of the experiments.
        model: Name of the model.
        seed: Seed of the bootstrap.
    """
    claims = []
    for outcome in OUTCOMES:
        if any(len(getattr(m, outcome.name)) for m in found.measured):
            seen = is_seen(found, outcome.name, seed=seed)
            claims += [_answered(q, found, outcome, seen, model, seed) for q in BAND_QUESTIONS]
    return claims


def band_verdict(compared: Against, sign: int, *, seen: bool, largest_p: float = LARGEST_P) -> str:
    """Return the verdict on the claim that SS lies beyond the draws of a control.

    Args:
        compared: SS against the draws.
        sign: 1 if it is claimed to lie above them, −1 if below.
        seen: Whether the experiments could have seen an effect.
        largest_p: The largest one-sided p of the rank at which the claim holds, or is refuted on the other side.

    >>> from lens_steer.evaluation.control_bands import band
    >>> from lens_steer.stats.estimates import Estimate
    >>> far = Estimate(0.7, 0.5, 0.8, 64)
    >>> [band_verdict(Against(far, band([0.1] * n, 0.8)), 1, seen=True) for n in (19, 18, 9)]
    ['HOLDS', 'NOT SHOWN', 'NOT SHOWN (fewer than 10 draws)']
    """
    ranks = compared.rank_p(1), compared.rank_p(-1)
    return drawn_verdict(compared.difference, ranks, compared.band.n, below=sign < 0, seen=seen, largest_p=largest_p)


def _answered(
    question: tuple[str, str, str, str],
    found: Experiments,
    outcome: Outcome,
    seen: bool,
    model: str,
    seed: int,
) -> Claim:
    key, control, said, experiment = question
    base = found.at(nominal=False).get(BASE)
    drawn = found.drawn.get(control, ())
    angle = "" if base is None or base.angle is None else f" at {base.angle:g}°"
    asked = Claim(
        id=claim_id(key, outcome.name, at_nominal=True),
        statement=f"{said.format(outcome.said)}, at one nominal angle ({experiment})",
        formula="SS less the mean of the draws, on the same prompts; rank of SS among the draws",
        level="behaviour",
        domain=f"{model}, report split: {BASE}{angle}, and {len(drawn)} draws of {control} at the same angle; no draw "
        "has a choice of its own",
        quantity=f"{outcome.quantity} from the mean of the draws; the interval is over prompts and over draws",
        criterion=f"95 % interval {'above' if outcome.sign > 0 else 'below'} 0, and a one-sided rank p of at most "
        f"{LARGEST_P:g} among the draws (19 draws: beyond every one)",
        value=None,
        n=0,
        verdict=TIED,
    )
    if base is None or base.tied:
        return asked
    alone, jointly = (against(base, drawn, outcome.name, comparisons=n, seed=seed) for n in (1, BAND_FAMILY))
    if alone is None or jointly is None:
        note = "no prompt has a value under SS and under every draw" if drawn else "there is no draw"
        return replace(asked, verdict=NOT_SHOWN, witness={"note": note})
    band, effect = alone.band, alone.difference
    verdict = band_verdict(alone, outcome.sign, seen=seen)
    joint_p = LARGEST_P / BAND_FAMILY
    holds_jointly = band_verdict(jointly, outcome.sign, seen=seen, largest_p=joint_p) == HOLDS
    return replace(
        asked,
        value=effect.value,
        n=effect.n,
        interval=(effect.low, effect.high) if band.n > 1 else None,
        verdict=verdict,
        witness={
            "draws": band.n,
            "minimum": band.minimum,
            "median": band.median,
            "maximum": band.maximum,
            "rank_p": alone.rank_p(outcome.sign),
            "rank_p_of_the_other_side": alone.rank_p(-outcome.sign),
            "by_interval_alone": effect_verdict(effect, below=outcome.sign < 0, seen=seen),
            "family_interval": [jointly.difference.low, jointly.difference.high] if band.n > 1 else None,
            "family": f"95 % for the {BAND_FAMILY} questions to random controls of this outcome together, also for the "
            f"rank: p at most {joint_p:.2g}",
            **({"holds_jointly": holds_jointly} if verdict == HOLDS else {}),
        },
    )
