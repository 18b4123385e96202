"""Tests of the claims about the side effects of benign steering; their texts and criteria stand in ``claim_texts``.

Each is decided by its 95 % interval (:mod:`lens_steer.studies.verdicts`), and again by one that is joint for all claims
on the model. Claims about attack success are decided with the rise that the positive control makes: without one, an
effect that is not there was not shown to be missing.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np

from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.selection import at_nothing
from lens_steer.stats.estimates import Estimate, percent
from lens_steer.stats.rates import wilson
from lens_steer.studies.claim import REPORTED, Claim
from lens_steer.studies.draws import against_draws
from lens_steer.studies.externalities import claim_texts as texts
from lens_steer.studies.externalities.choice import COMPLIANCE, JSON
from lens_steer.studies.externalities.claim_texts import HALF, SAID, K, Paired
from lens_steer.studies.externalities.conditions import CONTROL, OUTSIDE, OUTSIDE_EQUAL, STEERED, named
from lens_steer.studies.externalities.deciding import decided, key_of, listed, mean_of, reported
from lens_steer.studies.externalities.depth import random_cosine
from lens_steer.studies.externalities.found import Externalities
from lens_steer.studies.externalities.token_claims import token_claims
from lens_steer.studies.externalities.tokens import BENIGN
from lens_steer.studies.verdicts import BROKEN, HOLDS, NOT_SHOWN, REFUTED, SMALLEST, TIED, shows

PAPER_CROSSING = (30, 32)  # the paper draws the crossings at block 30 of 32


def claims(found: Externalities, model: str) -> list[Claim]:
    """Test every claim for both steerings; a claim that cannot be measured is reported as such.

    The witness of a claim that holds says whether it holds jointly with all others that are decided by an interval
    (Bonferroni).

    Args:
        found: Result of the study.
        model: Name of the model, for the record.
    """
    made = _claims(found, model)
    family = sum(c.interval is not None for c in made)
    jointly = {c.id: c.verdict for c in _claims(replace(found, level=1 - 0.05 / max(1, family)), model)}
    made = [
        replace(c, witness={**c.witness, "holds_jointly": jointly[c.id] == HOLDS})
        if c.verdict == HOLDS and c.interval is not None
        else c
        for c in made
    ]
    return made if found.known else list(map(_ungraded, made))


def _ungraded(claim: Claim) -> Claim:
    """Return a claim in the words of what is measured where no ground truth grades the answers."""
    fields = {name: getattr(claim, name) for name in ("statement", "formula", "quantity", "criterion")}
    for graded, said in texts.UNGRADED.items():
        fields = {name: text.replace(graded, said) for name, text in fields.items()}
    return replace(claim, **fields)


def _claims(found: Externalities, model: str) -> list[Claim]:
    both = (COMPLIANCE, JSON)
    attack = [
        *(_unless_unfit(found, name, _paired(found, one, name, model)) for name in both for one in texts.ATTACK),
        *(_unless_unfit(found, name, claim) for name in both for claim in _causes(found, name, model)),
        *(_unless_unfit(found, name, claim) for name in both for claim in _prefix(found, name, model)),
    ]
    return [
        _paired(found, texts.POSITIVE_CONTROL, CONTROL, model),
        *(_paired(found, one, name, model) for name in both for one in texts.PURPOSE[name]),
        *attack,
        *(claim for name in both for claim in token_claims(found, name, model)),
        *(test(found, name, model) for name in both for test in (_angle, _crossing)),
        *(_unless_unfit(found, CONTROL, claim) for claim in _prefix(found, CONTROL, model)),
        *token_claims(found, CONTROL, model),
    ]


def _unless_unfit(found: Externalities, name: str, claim: Claim) -> Claim:
    """Return the claim; not shown where the choice of the steering breaks its bound, or is a tie at no effect."""
    if name == CONTROL:
        choice, tied = found.control.choice, False
    else:
        choice = next(s.choice for s in found.steerings if s.name == name)
        base, *tried = found.select[name]
        tied = name == JSON and at_nothing(tried, base, choice, "json_unasked")
    unfit = TIED if tied else "" if choice.met else BROKEN
    if not unfit or claim.verdict == REPORTED:
        return claim
    return replace(claim, verdict=unfit, witness={k: v for k, v in claim.witness.items() if k != "excludes"})


def _paired(found: Externalities, one: Paired, name: str, model: str) -> Claim:
    """Test a claim about a share under two conditions, for one steering."""
    first, second = (NONE if kind == NONE else named(name, kind) for kind in (one.first, one.second))
    claim = one.claim(first, second, name=name, who=SAID[name], model=model)
    e = _difference(found, first, second, one.share)
    if e is None:
        claim = reported(claim, _reason(found, first) or _reason(found, second))
    else:
        shares = {c: float(np.mean(list(found.values(c, one.share).values()))) for c in (first, second)}
        besides = _besides(found, one, name, e)
        claim = (
            _over_draws(found, claim, first, second, one.share, shares, besides)
            if one is texts.OVER_RANDOM
            else decided(claim, e, shares=shares, **besides)
        )
        # A share near 1 cannot rise by the smallest effect of interest, and one near 0 cannot fall by it.
        room = shares[second] if one.criterion == texts.BELOW else 1 - shares[second]
        if second == NONE and room < SMALLEST:
            claim = reported(claim, f"without steering it is {percent(shares[NONE])} % already", n=e.n)
    if one is texts.OVER_ROTATION:
        # The divergences were made equal on the select split. Their values on the report split are the witness.
        pair = {c: found.divergences[c, BENIGN] for c in (first, second) if (c, BENIGN) in found.divergences}
        kl = {c: float(np.nanmean(divergence.per_prompt())) for c, divergence in pair.items()}
        claim = replace(claim, witness={**claim.witness, "kl_benign_report": kl})
    return claim


def _over_draws(
    found: Externalities,
    claim: Claim,
    condition: str,
    drawn: str,
    share: str,
    shares: dict[str, float],
    besides: dict[str, Any],
) -> Claim:
    """Decide a claim against the draws of a control by the interval over prompts and draws, and by the rank."""
    own, draws = found.values(condition, share), found.drawn(drawn, share)
    values = np.array([own[i] for i in sorted(own)])
    e, verdict, spread = against_draws(values, draws, level=found.level, seed=found.seed, seen=besides["seen"])
    return decided(claim, e, verdict, shares=shares, **spread)


def _causes(found: Externalities, name: str, model: str) -> list[Claim]:
    """Test whether the rise in attack success depends on the part of the direction that lies in the refusal plane."""
    rise = found.difference(name, NONE, "attack")
    made = []
    for kind, how, condition in (
        ("", "", named(name, OUTSIDE)),
        ("-equal-norm", " (at equal norm)", named(name, OUTSIDE_EQUAL)),
    ):
        claim = texts.WITHOUT_REFUSAL.claim(kind=kind, how=how, name=name, who=SAID[name], model=model)
        left, lost = _difference(found, condition, NONE, "attack"), _difference(found, name, condition, "attack")
        if left is None or lost is None:
            made.append(reported(claim, _reason(found, condition)))
        elif rise.low <= 0:
            made.append(reported(claim, "no rise to take away", n=rise.n, rise=listed(rise)))
        else:
            gone = left.low <= 0 and left.high < SMALLEST
            said = HOLDS if lost.low > 0 and gone else REFUTED if lost.high < 0 else NOT_SHOWN
            made.append(decided(claim, lost, said, rise=listed(rise), left=listed(left)))
    return made + [_paired(found, one, name, model) for one in texts.REFUSAL_ALONE]


def _prefix(found: Externalities, name: str, model: str) -> list[Claim]:
    """Test whether the first tokens of the answer carry the rise in attack success."""
    base, full = found.values(NONE, "attack"), found.values(name, "attack")
    made = []
    for family, text in texts.SOME_TOKENS.items():
        claim = text.claim(key=key_of(name), who=SAID[name], model=model)
        condition = named(name, family, k=K)
        some = found.values(condition, "attack")
        if set(some) != set(base):
            made.append(reported(claim, f"{condition!r} was not run"))
        elif found.difference(name, NONE, "attack").low <= 0:
            made.append(reported(claim, "no rise to share out"))
        else:
            kept = np.array([some[i] - base[i] - HALF * (full[i] - base[i]) for i in sorted(base)])
            remaining = listed(found.difference(condition, NONE, "attack"))
            made.append(decided(claim, mean_of(kept, found), remaining=remaining))
    return made


def _angle(found: Externalities, name: str, model: str) -> Claim:
    """Test the angle of the direction to refusal at the steered sites."""
    bound = random_cosine(found.calibrations.refusal.d_model, seed=found.seed)[1]
    cosines = {str(a.block): a.cosine for a in found.angles if a.steering == name and a.steered}
    highest, lowest = (max(getattr(cosine, end) for cosine in cosines.values()) for end in ("high", "low"))
    return replace(
        texts.AWAY_FROM_REFUSAL.claim(name=name, who=SAID[name], model=model, blocks=", ".join(cosines)),
        value=highest,
        n=min(cosine.n for cosine in cosines.values()),
        verdict=HOLDS if highest < -bound else REFUTED if lowest > -bound else NOT_SHOWN,
        witness={"b": bound, "cosines": {block: cosine.value for block, cosine in cosines.items()}},
    )


def _crossing(found: Externalities, name: str, model: str) -> Claim:
    """Test whether steered prompts cross the boundary at the block of the same relative depth as in the paper."""
    # ⌊(l + ½) n_layers / 32⌋ for block l of the paper's 32
    block = (2 * PAPER_CROSSING[0] + 1) * found.calibrations.refusal.n_layers // (2 * PAPER_CROSSING[1])
    z = NormalDist().inv_cdf((1 + found.level) / 2)
    at_block = {p.kind: p.crossed for p in found.projections if p.block == block}
    plain, crossed = (wilson(round(e.value * e.n), e.n, z) for e in (at_block["harmful"], at_block[name]))
    claim = texts.CROSSING.claim(name=name, who=SAID[name], model=model, block=str(block))
    more = crossed.low > plain.high and crossed.value > HALF
    return decided(
        claim, crossed, HOLDS if more else REFUTED if crossed.high < HALF else NOT_SHOWN, unsteered=listed(plain)
    )


def _besides(found: Externalities, one: Paired, name: str, e: Estimate) -> dict[str, Any]:
    """Return what else decides a claim about a share, and the published effects that its interval excludes.

    The positive control is what shows that harmful requests could have been answered; it has none itself.
    """
    harmful = one is not texts.POSITIVE_CONTROL and one.share in ("attack", "positive_refused")
    rise = _difference(found, CONTROL, NONE, "attack") if harmful else None
    asked = found.known and (one.first, one.second) == (STEERED, NONE)  # the papers' answers are judged to comply
    published = texts.PUBLISHED.get((name, one.share), {}) if asked else {}
    beyond = [f"{100 * size:+g} points ({where})" for where, size in published.items() if e.high < size]
    return {
        "smallest": SMALLEST,
        "seen": rise is None or (shows(rise) and found.control.choice.met),
        **({"excludes": beyond} if beyond else {}),
    }


def _difference(found: Externalities, first: str, second: str, quantity: str) -> Estimate | None:
    try:
        return found.difference(first, second, quantity)
    except LensSteerError:
        return None


def _reason(found: Externalities, name: str) -> str:
    """Return the reason why a condition was not run; empty if it was run."""
    return next((c.reason for c in found.conditions if c.name == name), "")
