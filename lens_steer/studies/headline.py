"""The comparison that Selective Steering's abstract makes: SS at L_disc against the angular methods as published.

The claims are read from the record of a comparison (``comparison.json``). There every method has the setting that was
chosen for it on select under the constraints, from the same number of settings, and all numbers are of the report
split; a method for which no setting does better than none counts as no steering. Side effects are compared where both
methods change the model by the same amount (equal divergence), because at their own choices the constraints bound them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lens_steer.evaluation.published_direction import CALIBRATED, GIVEN, UNBOUNDED, named
from lens_steer.stats.estimates import Estimate
from lens_steer.studies.claim import Claim
from lens_steer.studies.verdicts import HOLDS, NOT_SHOWN, SMALLEST, TIED, effect_verdict, shows

SS = "selective"
RIVALS = {
    "standard-everywhere": "SAS as published",
    "adaptive-everywhere": "AAS as published",
    "standard": "SAS at L_disc",
    "adaptive": "AAS at L_disc",
}
# They show that answers can be freed at all: two that are chosen on select like every method, and the best replicated
# fact of the field, directional ablation as Arditi et al. choose its direction (with all of their bounds, or where none
# keeps these, with fewer).
ABLATION = "ablation-everywhere"
CONTROLS = (
    named("sttp", CALIBRATED), named("stmp", CALIBRATED), ABLATION, named(ABLATION, GIVEN), named(ABLATION, UNBOUNDED),
)  # fmt: skip
PUBLISHED = "+1 to +83 points for SAS and 0 to +35 for AAS on eight models, HarmBench, largest over angles"  # Table 1
OWN = "at the choice of each on select"
EQUAL = "at equal divergence"
BROKEN = f"{NOT_SHOWN} (a choice breaks the constraints)"


def headline(record: Mapping[str, Any]) -> list[Claim]:
    """Return the claims of one model's comparison.

    The intervals are joint: at the choices for all conditions of the comparison, at equal divergence for all methods
    that were matched. A claim therefore holds jointly or not at all. A method that the comparison does not have, or
    that cannot be matched, gives no claim.
    """
    rates = {s["condition"]: _rate(s) for s in record["report"]}
    seen = any(shows(_excess(rates[name], rates["no steering"])) for name in CONTROLS if name in rates)
    found = []
    for rival, label in RIVALS.items():
        gaps = record["differences_from_selective"].get(rival)
        if gaps is not None:
            found.append(
                _claim(rival, label, OWN, "positive_right", gaps["positive_right"], seen, _unfit(record, rival))
            )
        equal = record["equal_kl"].get("differences_from_selective", {}).get(rival)
        if equal is not None:
            for quantity in ("positive_right", "capable", "log_perplexity"):
                if quantity in equal:
                    found.append(_claim(rival, label, EQUAL, quantity, equal[quantity], seen, ""))
    return found


def at_choice(claims: list[Claim], rival: str) -> Claim | None:
    """Return the claim on compliance at the choices against one rival; None where the comparison does not have it.

    >>> at_choice([], "standard-everywhere") is None
    True
    """
    return next((c for c in claims if c.id == _id(rival, OWN, "positive_right")), None)


def _claim(rival: str, label: str, where: str, quantity: str, gap: Mapping[str, Any], seen: bool, unfit: str) -> Claim:
    """Return the claim that SS is better than a rival by one quantity."""
    effect = Estimate(-gap["value"], -gap["high"], -gap["low"], gap["n"])
    below = quantity == "log_perplexity"
    smallest = SMALLEST if quantity == "positive_right" else None  # no control shows that the others could be seen
    verdict = unfit or effect_verdict(effect, below=below, smallest=smallest, seen=seen or smallest is None)
    what, unit = {
        "positive_right": ("frees more answers to harmful prompts than", "harmful prompts complied with"),
        "capable": ("keeps more tasks right than", "capability tasks right"),
        "log_perplexity": ("leaves answers less perplexing than", "mean log perplexity under the unsteered model"),
    }[quantity]
    paper = f" (the paper: {PUBLISHED})" if where == OWN and rival.endswith("everywhere") else ""
    return Claim(
        id=_id(rival, where, quantity),
        statement=f"SS {what} {label}, {where}{paper}",
        formula=f"mean over prompts of the {unit}, SS − {label}",
        level="behaviour",
        domain="the report split of the comparison",
        quantity=f"SS − {label}, {unit}",
        criterion=f"interval {'below' if below else 'above'} 0",
        value=effect.value,
        n=effect.n,
        verdict=verdict,
        interval=(effect.low, effect.high),
        witness={"holds_jointly": verdict == HOLDS, "smallest": smallest, "control_seen": seen},
    )


def _unfit(record: Mapping[str, Any], rival: str) -> str:
    """Return the verdict on a comparison of choices that cannot be compared; empty where they can."""
    choices = [record["choices"][name] for name in (SS, rival)]
    if all(c.get("at_nothing", False) for c in choices):
        return TIED
    return "" if all(c.get("met", True) for c in choices) else BROKEN


def _id(rival: str, where: str, quantity: str) -> str:
    name = {"positive_right": "ss-above", "capable": "ss-keeps-tasks", "log_perplexity": "ss-less-perplexing"}[quantity]
    return f"{name}-{rival}" + ("-equal-divergence" if where == EQUAL else "")


def _rate(setting: Mapping[str, Any]) -> tuple[float, float, float, int]:
    name = "positive_right"
    return setting[name], setting[f"{name}_low"], setting[f"{name}_high"], int(setting[f"{name}_n"])


def _excess(of: tuple[float, float, float, int], over: tuple[float, float, float, int]) -> Estimate:
    """Return a difference of two rates with an interval that is too wide: its ends are those of the two intervals."""
    return Estimate(of[0] - over[0], of[1] - over[2], of[2] - over[1], of[3])
