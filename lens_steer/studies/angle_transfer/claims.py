"""The claims of the study.

Their first criteria were written before any result. That steering has to do more than random planes, before a share of
what it does says anything, was added after a look at two models and is marked *post hoc*
(:data:`lens_steer.studies.claim.POST_HOC`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from lens_steer.stats.means import clustered_mean
from lens_steer.studies.angle_transfer.study import AngleTransfer, Turned
from lens_steer.studies.claim import Claim
from lens_steer.studies.draws import BEYOND, against_draws
from lens_steer.studies.verdicts import HOLDS, INSENSITIVE, TIED, effect_verdict

SHARE = 0.8  # of the effect; what is lost by a transfer that holds


def claims(found: AngleTransfer, *, seed: int = 0) -> list[Claim]:
    """Return the claims: an angle holds on another source, and so does the whole steering; turning a plane matters.

    Args:
        found: The results of :func:`lens_steer.studies.angle_transfer.study.angle_transfer`.
        seed: The seed of the intervals.
    """
    between = [t for t in found.turned if t.fitted != t.on]
    level = 1 - 0.05 / len(between)
    beyond = {name: _above_random(found, found.pair(name, name), seed) for name in found.sites}
    seen = {name: claim.verdict == HOLDS for name, claim in beyond.items()}
    made = [_angle(found, t, seen[t.fitted], level, seed) for t in between]
    return [*beyond.values(), *made, *(_steering(found, t, seen[t.on], level, seed) for t in between)]


def _above_random(found: AngleTransfer, own: Turned, seed: int) -> Claim:
    """The null beside the effect: the same turn in random planes."""
    asked = _asked(
        found,
        own,
        f"beyond-random-{own.on}",
        f"steering that was set on {own.on} lowers the refusal score of other prompts of {own.on} more than the same "
        "turn in random planes does",
        "mean fall of the refusal score less the mean of the draws; its rank among them",
        BEYOND,
    )
    if own.angle is None:
        return asked
    effect, verdict, spread = against_draws(own.falls, found.random[own.on], own.clusters, seed=seed, smallest=None)
    witness = {"fall": float(own.falls.mean()), **spread, "angle": own.angle, "holds_jointly": verdict == HOLDS}
    interval = effect.low, effect.high
    return replace(asked, value=effect.value, n=effect.n, interval=interval, verdict=verdict, witness=witness)


def _angle(found: AngleTransfer, pair: Turned, seen: bool, level: float, seed: int) -> Claim:
    asked = _asked(
        found,
        pair,
        f"angle-from-{pair.fitted}-on-{pair.on}",
        f"with direction and sites from {pair.fitted}, the angle found there lowers the refusal score of prompts of "
        f"{pair.on} by at least {SHARE:g} of what the angle found on {pair.on} does",
        f"mean over prompts of the fall at the one angle less {SHARE:g} of the fall at the other",
        f"95 % interval above 0; steering that was set on {pair.fitted} does more there than random planes",
    )
    return _kept(asked, pair, pair.falls_again, seen, {"angle": pair.angle, "again": pair.again}, level, seed)


def _steering(found: AngleTransfer, pair: Turned, seen: bool, level: float, seed: int) -> Claim:
    asked = _asked(
        found,
        pair,
        f"steering-from-{pair.fitted}-on-{pair.on}",
        f"direction, sites and angle from {pair.fitted} lower the refusal score of prompts of {pair.on} by at least "
        f"{SHARE:g} of what those from {pair.on} do",
        f"mean over prompts of the fall under the one steering less {SHARE:g} of the fall under the other",
        f"95 % interval above 0; steering that was set on {pair.on} does more there than random planes",
    )
    own = found.pair(pair.on, pair.on).angle
    return _kept(asked, pair, pair.falls_own, seen, {"angle": pair.angle, "own": own}, level, seed)


def _asked(found: AngleTransfer, pair: Turned, key: str, statement: str, formula: str, criterion: str) -> Claim:
    """Return a claim before it is decided: as it stands where no angle has an effect within the budget."""
    left_out = f", without {pair.left_out} that the steering was set on" if pair.left_out else ""
    return Claim(
        id=key,
        statement=statement,
        formula=formula,
        level="behaviour",
        domain=f"{found.model}, harmful report prompts of {pair.on}{left_out}; SS at the discriminative sites, angles "
        f"of the largest fall on select prompts with a KL of at most {found.budget:g} nats a token on harmless ones",
        quantity="fall of the refusal score, in nats",
        criterion=criterion,
        value=None,
        n=0,
        verdict=TIED,
    )


def _kept(
    asked: Claim,
    pair: Turned,
    other: Float[np.ndarray, " n"],
    seen: bool,
    told: dict[str, Any],
    level: float,
    seed: int,
) -> Claim:
    """Decide whether the falls of a pair are a share of others; these must be seen, or nothing can be said.

    Args:
        asked: The claim before it is decided.
        pair: The falls.
        other: The falls of the same prompts that they are compared with.
        seen: Whether the steering does more than random planes.
        told: What the witness tells besides.
        level: The level that is joint for the family.
        seed: The seed of the intervals.
    """
    if not other.any():  # no angle of the other setting has an effect within the budget
        return asked
    said = []
    for at in (0.95, level):
        effect, reference = (
            clustered_mean(x, pair.clusters, seed=seed, level=at) for x in (pair.falls - SHARE * other, other)
        )
        said.append(effect_verdict(effect, smallest=None) if seen and reference.low > 0 else INSENSITIVE)
    effect = clustered_mean(pair.falls - SHARE * other, pair.clusters, seed=seed)
    return replace(
        asked, value=effect.value, n=effect.n, interval=(effect.low, effect.high), verdict=said[0],
        witness={
            "fall": float(pair.falls.mean()), "against": float(other.mean()), **told,
            "holds_jointly": said[1] == HOLDS,
        },
    )  # fmt: skip
