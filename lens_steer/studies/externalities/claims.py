"""Tests of the claims about the side effects of benign steering; their texts and criteria stand in ``claim_texts``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import NONE
from lens_steer.metrics.token_divergence import TokenDivergence
from lens_steer.stats import Estimate, bootstrap_mean, percent
from lens_steer.studies.claim import FAILS, REPORTED, Claim, verdict
from lens_steer.studies.externalities import claim_texts as texts
from lens_steer.studies.externalities.choice import COMPLIANCE, JSON
from lens_steer.studies.externalities.claim_texts import FLAT, HALF, SAID, K, Paired
from lens_steer.studies.externalities.conditions import CONTROL, OUTSIDE, OUTSIDE_EQUAL, RANDOM, named
from lens_steer.studies.externalities.depth import random_cosine
from lens_steer.studies.externalities.study import Externalities
from lens_steer.studies.externalities.tokens import BENIGN, HARMFUL, START, excess, excess_by_start, gap, slopes, start

LEAST = 5  # smallest number of responses; with fewer, a bootstrap interval is too narrow to decide a claim
PAPER_CROSSING = (30, 32)  # the paper draws the crossings at block 30 of 32


def claims(found: Externalities, model: str) -> list[Claim]:
    """Test every claim for both steerings; a claim that cannot be measured is reported as such.

    Args:
        found: Result of the study.
        model: Name of the model, for the record.
    """
    both = (COMPLIANCE, JSON)
    return [
        _paired(found, texts.POSITIVE_CONTROL, CONTROL, model),
        *(_paired(found, one, name, model) for name in both for one in texts.PURPOSE[name]),
        *(_paired(found, one, name, model) for name in both for one in texts.ATTACK),
        *(claim for name in both for claim in _causes(found, name, model)),
        *(claim for name in both for claim in _prefix(found, name, model)),
        *(claim for name in both for claim in _tokens(found, name, model)),
        *(test(found, name, model) for name in both for test in (_angle, _crossing)),
        *_prefix(found, CONTROL, model),
        *_tokens(found, CONTROL, model),
    ]


def _paired(found: Externalities, one: Paired, name: str, model: str) -> Claim:
    """Test a claim about a share under two conditions, for one steering."""
    first, second = (NONE if kind == NONE else named(name, kind) for kind in (one.first, one.second))
    claim = one.claim(first, second, name=name, who=SAID[name], model=model)
    e = _difference(found, first, second, one.share)
    if e is None:
        claim = _reported(claim, _reason(found, first) or _reason(found, second))
    else:
        shares = {c: float(np.mean(list(found.values(c, one.share).values()))) for c in (first, second)}
        claim = _decided(claim, e, shares=shares)
        # A share of 1 cannot rise and a share of 0 cannot fall, so such a claim is reported without a verdict.
        if second == NONE and shares[NONE] == (1.0 if one.criterion == texts.ABOVE else 0.0):
            claim = _reported(claim, f"without steering it is {percent(shares[NONE])} % already", n=e.n)
    if one is texts.OVER_ROTATION:
        # The divergences were made equal on the select split. Their values on the report split are the witness.
        pair = {c: found.divergences[c, BENIGN] for c in (first, second) if (c, BENIGN) in found.divergences}
        kl = {c: float(np.nanmean(divergence.per_prompt())) for c, divergence in pair.items()}
        claim = replace(claim, witness={**claim.witness, "kl_benign_report": kl})
    return claim


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
            made.append(_reported(claim, _reason(found, condition)))
        elif rise.low <= 0:
            made.append(_reported(claim, "no rise to take away", n=rise.n, rise=_listed(rise)))
        else:
            holds = lost.low > 0 and left.low <= 0
            made.append(_decided(claim, lost, holds, rise=_listed(rise), left=_listed(left)))
    return made + [_paired(found, one, name, model) for one in texts.REFUSAL_ALONE]


def _prefix(found: Externalities, name: str, model: str) -> list[Claim]:
    """Test whether the first tokens of the answer carry the rise in attack success."""
    base, full = found.values(NONE, "attack"), found.values(name, "attack")
    made = []
    for family, text in texts.SOME_TOKENS.items():
        claim = text.claim(key=_key(name), who=SAID[name], model=model)
        condition = named(name, family, k=K)
        some = found.values(condition, "attack")
        if set(some) != set(base):
            made.append(_reported(claim, f"{condition!r} was not run"))
        elif found.difference(name, NONE, "attack").low <= 0:
            made.append(_reported(claim, "no rise to share out"))
        else:
            kept = np.array([some[i] - base[i] - HALF * (full[i] - base[i]) for i in sorted(base)])
            remaining = _listed(found.difference(condition, NONE, "attack"))
            made.append(_decided(claim, bootstrap_mean(kept, seed=found.seed), remaining=remaining))
    return made


def _tokens(found: Externalities, name: str, model: str) -> list[Claim]:
    """Test the shape of the divergence along fixed responses."""
    made = _shape(found, name, SAID[name], _key(name), model)
    if name != CONTROL:
        random = named(name, RANDOM)
        made += _shape(found, random, "random directions of equal norm", f"random-{name}", model)
        one, other = (found.divergences.get((condition, HARMFUL)) for condition in (name, random))
        more = np.empty(0) if one is None or other is None else start(one) - start(other)
        made.append(_mean(texts.LARGER_THAN_RANDOM.claim(name=name, who=SAID[name], model=model), more, found.seed))
    return made + [_flat(found, name, responses, model) for responses in (HARMFUL, BENIGN)]


def _shape(found: Externalities, condition: str, who: str, key: str, model: str) -> list[Claim]:
    """Test whether the divergence of a condition is largest at the start, and larger there on harmful responses."""
    names = {"key": key, "who": who, "condition": condition, "model": model}
    made, starts = [], []
    for responses in (HARMFUL, BENIGN):
        claim = texts.LARGEST_AT_START.claim(responses=responses, **names)
        one = found.divergences.get((condition, responses))
        made.append(_too_few(claim, 0) if one is None else _largest_at_start(claim, one, found.seed))
        starts += [] if one is None else [start(one)]
    claim = texts.LARGER_ON_HARMFUL.claim(**names)
    if len(starts) < 2:
        return [*made, _reported(claim, "a set of responses is missing")]
    fewest = min(map(len, starts))
    return [*made, _too_few(claim, fewest) if fewest < LEAST else _decided(claim, gap(*starts, seed=found.seed))]


def _largest_at_start(claim: Claim, one: TokenDivergence, seed: int) -> Claim:
    """Decide a claim by the mean of :func:`~lens_steer.studies.externalities.tokens.excess`.

    The witness has the values for other numbers of first tokens, and a note where their sign differs.
    """
    claim = _mean(claim, excess(one), seed)
    if claim.value is None:
        return claim
    at = excess_by_start(one)
    other = [n for n, value in at.items() if (value > 0) != (at[START] > 0)]
    note = {"note": f"the sign is the other one for the first {', '.join(map(str, other))}"} if other else {}
    return replace(claim, witness={"by_start": at, **note})


def _flat(found: Externalities, name: str, responses: str, model: str) -> Claim:
    """Test whether the divergence stays as it is from token to token after the start."""
    claim = texts.FLAT_AFTER_START.claim(responses=responses, key=_key(name), who=SAID[name], model=model)
    one = found.divergences.get((name, responses))
    values = np.empty(0) if one is None else slopes(one)
    if one is None or len(values) < LEAST:
        return _too_few(claim, len(values))
    e, first = bootstrap_mean(values, seed=found.seed), float(start(one).mean())
    bound = FLAT * first
    made = _decided(claim, e, max(abs(e.low), abs(e.high)) <= bound, start=first)
    if made.verdict == FAILS and e.low <= bound and e.high >= -bound:
        return replace(made, verdict=REPORTED, witness={**made.witness, "note": f"undecided: wider than ± {bound:.2g}"})
    return made


def _angle(found: Externalities, name: str, model: str) -> Claim:
    """Test the angle of the direction to refusal at the steered sites."""
    bound = random_cosine(found.calibrations.refusal.d_model, seed=found.seed)[1]
    cosines = {str(a.block): a.cosine for a in found.angles if a.steering == name and a.steered}
    highest = max(cosine.high for cosine in cosines.values())
    return replace(
        texts.AWAY_FROM_REFUSAL.claim(name=name, who=SAID[name], model=model, blocks=", ".join(cosines)),
        value=highest,
        n=min(cosine.n for cosine in cosines.values()),
        verdict=verdict(highest < -bound),
        witness={"b": bound, "cosines": {block: cosine.value for block, cosine in cosines.items()}},
    )


def _crossing(found: Externalities, name: str, model: str) -> Claim:
    """Test whether steered prompts cross the boundary at the block of the same relative depth as in the paper."""
    # ⌊(l + ½) n_layers / 32⌋ for block l of the paper's 32
    block = (2 * PAPER_CROSSING[0] + 1) * found.calibrations.refusal.n_layers // (2 * PAPER_CROSSING[1])
    plain, crossed = (
        next(p.crossed for p in found.projections if p.kind == kind and p.block == block) for kind in ("harmful", name)
    )
    claim = texts.CROSSING.claim(name=name, who=SAID[name], model=model, block=str(block))
    return _decided(claim, crossed, crossed.low > plain.high and crossed.value > HALF, unsteered=_listed(plain))


def _decided(claim: Claim, e: Estimate, holds: bool | None = None, **witness: Any) -> Claim:
    """Add a result to a claim; None decides it by its criterion, an interval above or below 0."""
    if holds is None:
        holds = e.low > 0 if claim.criterion == texts.ABOVE else e.high < 0
    return replace(claim, value=e.value, n=e.n, interval=(e.low, e.high), verdict=verdict(holds), witness=witness)


def _reported(claim: Claim, note: str, *, n: int = 0, **witness: Any) -> Claim:
    """Return a claim without a verdict; the note says why it has none."""
    return replace(claim, n=n, verdict=REPORTED, witness={"note": note, **witness})


def _mean(claim: Claim, values: np.ndarray, seed: int) -> Claim:
    """Decide a claim by the mean of one value for each response."""
    return _too_few(claim, len(values)) if len(values) < LEAST else _decided(claim, bootstrap_mean(values, seed=seed))


def _too_few(claim: Claim, n: int) -> Claim:
    return _reported(claim, f"{n} responses are long enough: at least {LEAST} are needed", n=n)


def _difference(found: Externalities, first: str, second: str, quantity: str) -> Estimate | None:
    try:
        return found.difference(first, second, quantity)
    except LensSteerError:
        return None


def _reason(found: Externalities, name: str) -> str:
    """Return the reason why a condition was not run; empty if it was run."""
    return next((c.reason for c in found.conditions if c.name == name), "")


def _key(name: str) -> str:
    """Return the name of a steering in the id of a claim."""
    return "control" if name == CONTROL else name


def _listed(e: Estimate) -> list[float]:
    return [e.value, e.low, e.high]
