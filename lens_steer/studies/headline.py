"""The comparison that Selective Steering's abstract makes: SS at L_disc against the angular methods as published.

The claims are read from the record of a comparison (``comparison.json``). There every method has the setting that was
chosen for it on select under the constraints, from the same number of settings, and all numbers are of the report
split; a method for which no setting does better than none counts as no steering. The constraints bound a few side
effects, and only on select, so side effects are compared where both methods change the model by the same amount (equal
divergence): that of SS at its choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
# Largest over angles of the rate by HarmBench's classifier, on eight models, SS less the rival: Table 1.
PUBLISHED = {
    "standard-everywhere": "arXiv 2601.19375, Table 1, against its own code's SAS: +1 to +83 points",
    "adaptive-everywhere": "arXiv 2601.19375, Table 1, against its own code's AAS: 0 to +35 points",
}
OWN = "at the choice of each on select"
EQUAL = "at equal divergence"
NO_MATCH = "no value has the divergence"


def headline(record: Mapping[str, Any]) -> list[Claim]:
    """Return the claims of one model's comparison.

    A verdict is that of the interval of each claim by itself, and a claim holds jointly where that of all conditions of
    the comparison together (at equal divergence: of all methods that were matched) decides it too. Records of earlier
    releases have the joint intervals alone, which then decide. A method that the comparison does not have gives no
    claim; one without a value of the same divergence gives claims that say so.
    """
    rates = {s["condition"]: _rate(s) for s in record["report"]}
    shown = [name for name in CONTROLS if name in rates and shows(_excess(rates[name], rates["no steering"]))]
    seen = {
        "control_seen": bool(shown),
        "controls": {name: {"met": record["choices"].get(name, {}).get("met", True)} for name in shown},
    }
    equal, found = record["equal_kl"], list[Claim]()
    for rival in RIVALS:
        gaps = record["differences_from_selective"].get(rival)
        if gaps is None:
            continue
        found.append(_claim(record, rival, OWN, "positive_right", gaps, seen, _unfit(record, (SS, rival))))
        gaps = equal.get("differences_from_selective", {}).get(rival)
        reason = equal.get("matches", {}).get(rival, {}).get("reason", "")
        unfit = _unfit(record, (SS,)) or (f"{NOT_SHOWN} ({NO_MATCH})" if reason else "")
        if gaps is not None or reason:
            for quantity in ("positive_right", "capable", "log_perplexity"):
                if gaps is None or quantity in gaps:
                    found.append(_claim(record, rival, EQUAL, quantity, gaps, seen | {"reason": reason}, unfit))
    return found


def at_choice(claims: list[Claim], rival: str) -> Claim | None:
    """Return the claim on compliance at the choices against one rival; None where the comparison does not have it.

    >>> at_choice([], "standard-everywhere") is None
    True
    """
    return next((c for c in claims if c.id == _id(rival, OWN, "positive_right")), None)


def _claim(
    record: Mapping[str, Any],
    rival: str,
    where: str,
    quantity: str,
    gaps: Mapping[str, Any] | None,
    seen: Mapping[str, Any],
    unfit: str,
) -> Claim:
    """Return the claim that SS is better than a rival by one quantity; None as the gaps: nothing was measured."""
    below, label = quantity == "log_perplexity", RIVALS[rival]
    smallest = SMALLEST if quantity == "positive_right" else None  # no control shows that the others could be seen
    could = {"smallest": smallest, "seen": seen["control_seen"] or smallest is None, "below": below}
    alone = gaps is None or "low_alone" in gaps[quantity]
    effect = None if gaps is None else _effect(gaps[quantity], "_alone")
    jointly = None if gaps is None else _effect(gaps[quantity], "")
    verdict = unfit or (NOT_SHOWN if effect is None else effect_verdict(effect, **could))
    complied = "complied with" if record.get("graded_by_a_ground_truth", True) else "answered"
    what, unit = {
        "positive_right": ("frees more answers to harmful prompts than", f"harmful prompts {complied}"),
        "capable": ("keeps more tasks right than", "capability tasks right"),
        "log_perplexity": ("leaves answers less perplexing than", "mean log perplexity under the unsteered model"),
    }[quantity]
    paper = f" ({PUBLISHED[rival]})" if where == OWN and rival in PUBLISHED else ""
    return Claim(
        id=_id(rival, where, quantity),
        statement=f"SS {what} {label}, {where}{paper}",
        formula=f"mean over prompts of the {unit}, SS − {label}",
        level="behaviour",
        domain="the report split of the comparison" + ("" if alone else ", at the joint level of all its conditions"),
        quantity=f"SS − {label}, {unit}",
        criterion=f"interval {'below' if below else 'above'} 0",
        value=None if effect is None else effect.value,
        n=0 if effect is None else effect.n,
        verdict=verdict,
        interval=None if effect is None else (effect.low, effect.high),
        witness={
            "holds_jointly": verdict == HOLDS and jointly is not None and effect_verdict(jointly, **could) == HOLDS,
            "smallest": smallest,
            **{name: value for name, value in seen.items() if value != ""},
        },
    )


def _effect(gap: Mapping[str, Any], of: str) -> Estimate:
    """Return SS less the rival, of a row that has the rival less SS."""
    low, high = (gap.get(f"{end}{of}", gap[end]) for end in ("low", "high"))
    return Estimate(-gap["value"], -high, -low, gap["n"])


def _unfit(record: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the verdict on a comparison of choices that cannot be compared; empty where they can.

    A choice at nothing counts as no steering, which breaks nothing.
    """
    choices = [record["choices"][name] for name in names]
    if len(names) > 1 and all(c.get("at_nothing", False) for c in choices):
        return TIED
    broken = [n for n, c in zip(names, choices, strict=True) if not (c.get("met", True) or c.get("at_nothing", False))]
    return f"{NOT_SHOWN} (the choice of {' and '.join(broken)} breaks the constraints)" if broken else ""


def _id(rival: str, where: str, quantity: str) -> str:
    name = {"positive_right": "ss-above", "capable": "ss-keeps-tasks", "log_perplexity": "ss-less-perplexing"}[quantity]
    return f"{name}-{rival}" + ("-equal-divergence" if where == EQUAL else "")


def _rate(setting: Mapping[str, Any]) -> tuple[float, float, float, int]:
    name = "positive_right"
    return setting[name], setting[f"{name}_low"], setting[f"{name}_high"], int(setting[f"{name}_n"])


def _excess(of: tuple[float, float, float, int], over: tuple[float, float, float, int]) -> Estimate:
    """Return a difference of two rates with an interval that is too wide: its ends are those of the two intervals."""
    return Estimate(of[0] - over[0], of[1] - over[2], of[2] - over[1], of[3])
