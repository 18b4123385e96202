"""The claims of a trait study: steering gives back a trait that a system prompt has taken away, and what it costs.

The methods are those of projection-aware steering (arXiv 2604.08169). The criteria were written before any result on a
real model. A claim is decided by its 95 % interval, and again by one that is joint for all claims of the study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count, takewhile
from typing import Any

import numpy as np
from jaxtyping import Float

from lens_steer._io.rowstore import Row
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.selection import at_nothing
from lens_steer.stats.differences import paired_difference
from lens_steer.stats.estimates import Estimate
from lens_steer.studies.claim import REPORTED, Claim
from lens_steer.studies.draws import BEYOND, against_draws
from lens_steer.studies.traits.conditions import (
    ALIGNED_SIDE,
    EQUAL,
    GATED,
    INCOHERENT,
    MALICIOUS_SIDE,
    METHODS,
    POSITIONS,
    RANDOM,
    TRAIT,
    TraitCondition,
)
from lens_steer.studies.traits.search import TraitResult, draw_name
from lens_steer.studies.verdicts import (
    BROKEN,
    HOLDS,
    NOT_SHOWN,
    SMALLEST,
    TIED,
    effect_verdict,
    shows,
)

ALL, RESPONSE = POSITIONS  # the position modes
UNGATED = "swfc"
ABOVE = "95 % interval above 0"
COHERENT = "no more incoherent answers on report than the choice was allowed on select"
INCOHERENT_THERE = f"{NOT_SHOWN} (more incoherent answers on report than the bound allows)"
SHARE = "share of answers with the trait"


def claims(found: TraitResult, trait: str, *, seed: int = 0) -> list[Claim]:
    """Return the claims of a study.

    Args:
        found: The search with probes of averaged answers.
        trait: The trait, for the statements.
        seed: The seed of the intervals.
    """
    made = _claims(found, trait, seed, 0.95)
    family = sum(c.interval is not None for c in made)
    jointly = {c.id: c.verdict for c in _claims(found, trait, seed, 1 - 0.05 / max(1, family))}
    return [
        replace(c, witness={**c.witness, "holds_jointly": jointly[c.id] == HOLDS}) if c.verdict == HOLDS else c
        for c in made
    ]


def _claims(found: TraitResult, trait: str, seed: int, level: float) -> list[Claim]:
    of = _Study(found, trait, seed, level)
    return [
        of.prompt_control(),
        *(of.recovers(m, mode) for m in METHODS for mode in POSITIONS),
        *(of.over_random(m) for m in METHODS),
        *(of.all_above_response(m) for m in METHODS),
        *(of.gate_spares(m) for m in GATED),
    ]


class _Study:
    """One study at one level of its intervals."""

    def __init__(self, found: TraitResult, trait: str, seed: int, level: float) -> None:
        self.found, self.trait, self.seed, self.level = found, trait, seed, level
        self.control = self.difference((NONE, ALIGNED_SIDE), (NONE, MALICIOUS_SIDE))
        self.seen = shows(self.control)

    def prompt_control(self) -> Claim:
        """The judge, or the ground truth, sees what the system prompts do."""
        asked = self.asked(
            "prompt-control",
            f"without steering more answers show {self.trait} under the aligned system prompt than under the malicious "
            "one (the positive control)",
            f"{SHARE}, aligned − malicious system prompt",
        )
        return self.decided(asked, self.control, effect_verdict(self.control))

    def recovers(self, method: str, mode: str) -> Claim:
        """The choice of a method and a position mode against no steering, under the malicious prompt."""
        name = TraitCondition(method, mode).name
        asked = self.asked(
            f"recovers-{method}-{mode}",
            f"{method} at {_tokens(mode)} gives {self.trait} back under the malicious system prompt",
            f"{SHARE} under the malicious prompt, {name} − no steering",
            f"{ABOVE}; {COHERENT}",
        )
        e, gap = self.difference((name, MALICIOUS_SIDE), (NONE, MALICIOUS_SIDE)), self.control.value
        closed = {"share_of_the_gap": e.value / gap} if gap > 0 else {}
        return self.given_back(asked, [name], e, effect_verdict(e, seen=self.seen), **closed)

    def over_random(self, method: str) -> Claim:
        """The choice at all tokens against the same steps along random directions."""
        name = TraitCondition(method, ALL).name
        asked = self.asked(
            f"over-random-{method}",
            f"{method} at all tokens gives more {self.trait} back than the same steps along random directions",
            f"{SHARE} under the malicious prompt, {name} less the mean of the draws; rank among the draws",
            f"{BEYOND}; {COHERENT}",
        )
        first, drawn = TraitCondition(method, ALL, RANDOM).name, {r["condition"] for r in self.found.draws}
        names = [first, *takewhile(drawn.__contains__, (draw_name(first, i) for i in count(2)))]
        own = self.values(name, MALICIOUS_SIDE)
        draws = np.stack([self.values(n, MALICIOUS_SIDE) for n in names])
        e, verdict, spread = against_draws(own, draws, level=self.level, seed=self.seed, seen=self.seen)
        return self.given_back(asked, [name], e, verdict, **spread)

    def all_above_response(self, method: str) -> Claim:
        """All tokens against those of the response, each at its own choice."""
        both = [TraitCondition(method, mode).name for mode in (ALL, RESPONSE)]
        asked = self.asked(
            f"all-above-response-{method}",
            f"{method} gives more {self.trait} back at all tokens than at the response's",
            f"{SHARE} under the malicious prompt, {both[0]} − {both[1]}",
            f"{ABOVE}; {COHERENT}",
        )
        e = self.difference(*((name, MALICIOUS_SIDE) for name in both))
        seen = shows(self.difference((both[0], MALICIOUS_SIDE), (NONE, MALICIOUS_SIDE)))
        return self.given_back(asked, both, e, effect_verdict(e, seen=seen))

    def gate_spares(self, method: str) -> Claim:
        """A gated method against the ungated one, where both give back as much: what it leaves of aligned answers."""
        one, two = (TraitCondition(m, ALL, EQUAL).name for m in (method, UNGATED))
        asked = self.asked(
            f"gate-spares-{method}",
            f"where both give back as much, {method} leaves more aligned answers with {self.trait} than {UNGATED}",
            f"{SHARE} under the aligned prompt, {method} − {UNGATED}, at equal trait, all tokens",
        )
        missing = [m for m in (method, UNGATED) if TraitCondition(m, ALL).name not in self.found.equal]
        if missing:
            return replace(asked, witness={"note": f"{' and '.join(missing)} recover nothing that could be equal"})
        e = self.difference((one, ALIGNED_SIDE), (two, ALIGNED_SIDE))
        harm = self.difference((NONE, ALIGNED_SIDE), (two, ALIGNED_SIDE))
        back = self.difference((one, MALICIOUS_SIDE), (two, MALICIOUS_SIDE))
        unequal = f"{NOT_SHOWN} (on report they do not give back as much)" if back.low > 0 or back.high < 0 else ""
        verdict = unequal or effect_verdict(e, seen=shows(harm))
        return self.decided(asked, e, verdict, harm_of_ungated=harm.value, given_back=back.value)

    def given_back(self, asked: Claim, names: Sequence[str], e: Estimate, verdict: str, **witness: Any) -> Claim:
        """Decide a claim about what conditions give back, unless there is no room for it, a choice cannot be used, or
        more answers are incoherent on report than the bound allows.
        """
        room = 1 - self.rate(NONE, MALICIOUS_SIDE)
        if room < SMALLEST:
            return replace(asked, n=e.n, verdict=REPORTED, witness={"note": f"there is room for {room:.2f} alone"})
        shares = {name: self.found.reported(name).measured[INCOHERENT].value for name in names}
        unfit = next((u for name in names if (u := self.unfit(name))), "")
        if not unfit and max(shares.values()) > self.found.bound.bound:
            unfit = INCOHERENT_THERE
        return self.decided(asked, e, unfit or verdict, incoherent=shares, **witness)

    def asked(self, key: str, statement: str, formula: str, criterion: str = ABOVE) -> Claim:
        """Return the claim, not measured yet."""
        return Claim(
            id=key,
            statement=statement,
            formula=f"mean over scenarios of the {formula}",
            level="behaviour",
            domain="the report split; site and coefficient as chosen on select",
            quantity=f"difference of the {SHARE}",
            criterion=criterion,
            value=None,
            n=0,
            verdict=REPORTED,
        )

    def decided(self, asked: Claim, e: Estimate, verdict: str, **witness: Any) -> Claim:
        told = {**witness, "control_seen": self.seen}
        return replace(asked, value=e.value, n=e.n, interval=(e.low, e.high), verdict=verdict, witness=told)

    def unfit(self, name: str) -> str:
        """Return the verdict on a choice at which nothing can be decided; empty on any other."""
        choice, own = self.found.choices[name], [s for s in self.found.select if s.condition == name]
        base = next(s for s in self.found.select if s.condition == NONE)
        if at_nothing(own, base, choice, TRAIT):
            return TIED
        return "" if choice.met else BROKEN

    def values(self, condition: str, side: str) -> Float[np.ndarray, " n"]:
        """Return whether each scenario's answer shows the trait, in the order of the scenarios."""
        rows: Sequence[Row] = [*self.found.rows, *self.found.draws]
        own = {int(r["prompt"]): float(r["right"]) for r in rows if (r["condition"], r["side"]) == (condition, side)}
        return np.array([own[i] for i in sorted(own)])

    def rate(self, condition: str, side: str) -> float:
        return float(self.values(condition, side).mean())

    def difference(self, first: tuple[str, str], second: tuple[str, str]) -> Estimate:
        return paired_difference(self.values(*first), self.values(*second), level=self.level, seed=self.seed)


def _tokens(mode: str) -> str:
    return "all tokens" if mode == ALL else "the tokens of the response"
