"""Tests of the claims about the divergence along fixed responses: where it is large, and on which responses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lens_steer.metrics.token_divergence import TokenDivergence
from lens_steer.studies.claim import Claim
from lens_steer.studies.externalities import claim_texts as texts
from lens_steer.studies.externalities.claim_texts import FLAT, SAID
from lens_steer.studies.externalities.conditions import CONTROL, RANDOM, named
from lens_steer.studies.externalities.deciding import LEAST, by_mean, decided, key_of, mean_of, reported, too_few
from lens_steer.studies.externalities.found import Externalities
from lens_steer.studies.externalities.tokens import BENIGN, HARMFUL, START, excess, excess_by_start, gap, slopes, start
from lens_steer.studies.verdicts import HOLDS, NOT_SHOWN, REFUTED


def token_claims(found: Externalities, name: str, model: str) -> list[Claim]:
    """Test the shape of the divergence along fixed responses."""
    made = _shape(found, name, SAID[name], key_of(name), model)
    if name != CONTROL:
        random = named(name, RANDOM)
        made += _shape(found, random, "random directions of equal norm", f"random-{name}", model)
        one, other = (found.divergences.get((condition, HARMFUL)) for condition in (name, random))
        more = np.empty(0) if one is None or other is None else start(one) - start(other)
        asked = texts.LARGER_THAN_RANDOM.claim(name=name, who=SAID[name], model=model, on=found.harmful_name)
        made.append(by_mean(asked, more, found))
    return made + [flat(found, name, responses, model) for responses in (HARMFUL, BENIGN)]


def _shape(found: Externalities, condition: str, who: str, key: str, model: str) -> list[Claim]:
    """Test whether the divergence of a condition is largest at the start, and larger there on harmful responses."""
    names = {"key": key, "who": who, "condition": condition, "model": model}
    made, starts = [], []
    for responses in (HARMFUL, BENIGN):
        claim = texts.LARGEST_AT_START.claim(responses=responses, on=found.said(responses), **names)
        one = found.divergences.get((condition, responses))
        made.append(too_few(claim, 0) if one is None else largest_at_start(claim, one, found))
        starts += [] if one is None else [start(one)]
    paired = len(starts) == 2 and len(starts[0]) == len(starts[1]) and found.in_pairs
    how = ", by pair of prompts that share a response" if paired else ""
    claim = texts.LARGER_ON_HARMFUL.claim(on=found.harmful_name, how=how, **names)
    if len(starts) < 2:
        return [*made, reported(claim, "a set of responses is missing")]
    if paired:
        return [*made, by_mean(claim, starts[0] - starts[1], found)]
    fewest = min(map(len, starts))
    return [
        *made,
        too_few(claim, fewest) if fewest < LEAST else decided(claim, gap(*starts, level=found.level, seed=found.seed)),
    ]


def largest_at_start(claim: Claim, one: TokenDivergence, found: Externalities) -> Claim:
    """Decide a claim by the mean of :func:`~lens_steer.studies.externalities.tokens.excess`.

    The witness has the values for other numbers of first tokens, and a note where their sign differs.
    """
    claim = by_mean(claim, excess(one), found)
    if claim.value is None:
        return claim
    at = excess_by_start(one)
    other = [n for n, value in at.items() if (value > 0) != (at[START] > 0)]
    note = {"note": f"the sign is the other one for the first {', '.join(map(str, other))}"} if other else {}
    return replace(claim, witness={"by_start": at, **note})


def flat(found: Externalities, name: str, responses: str, model: str) -> Claim:
    """Test whether the divergence stays as it is from token to token after the start."""
    said = {"responses": responses, "on": found.said(responses)}
    claim = texts.FLAT_AFTER_START.claim(key=key_of(name), who=SAID[name], model=model, **said)
    one = found.divergences.get((name, responses))
    values = np.empty(0) if one is None else slopes(one)
    if one is None or len(values) < LEAST:
        return too_few(claim, len(values))
    e, first = mean_of(values, found), float(start(one).mean())
    bound = FLAT * first
    inside, outside = max(abs(e.low), abs(e.high)) <= bound, e.low > bound or e.high < -bound
    note: dict[str, Any] = {} if inside or outside else {"note": f"wider than ± {bound:.2g}"}
    return decided(claim, e, HOLDS if inside else REFUTED if outside else NOT_SHOWN, start=first, **note)
