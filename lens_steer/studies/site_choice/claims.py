"""The claims of the study: do the sites of the published rule free more answers than others, under one budget?

The criteria were written before any result. The outcome is an answered harmful prompt: neither refused, nor broken, nor
cut off in a thought. Every rival has its own angle under the same budget. The same questions of the fall of the refusal
score, a finer outcome, were added after a first look (*post hoc*,
:data:`lens_steer.studies.claim.POST_HOC`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from lens_steer._io.rowstore import Row
from lens_steer.evaluation.cells import clusters_of
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.selection import is_counted
from lens_steer.evaluation.sweep_protocol import POSITIVE
from lens_steer.stats.clusters import Clusters
from lens_steer.stats.differences import paired_difference
from lens_steer.stats.estimates import Estimate
from lens_steer.studies.claim import Claim
from lens_steer.studies.draws import BEYOND, against_draws
from lens_steer.studies.site_choice.sets import RANDOM, SIGN, SiteSet
from lens_steer.studies.site_choice.study import POSITIVE_CONTROL, SiteChoice
from lens_steer.studies.verdicts import HOLDS, TIED, effect_verdict, shows

UNIT = "harmful prompts answered"
ByCondition = Mapping[tuple[str, str], list[Row]]  # the rows of harmful prompts, by condition and variant


def claims(found: SiteChoice, *, seed: int = 0) -> list[Claim]:
    """Return the claims: the published rule's sites against those of every other set, and against random ones.

    Args:
        found: The results of the study.
        seed: The seed of the intervals.
    """
    sets = [c.set for c in found.select]
    own, rivals = sets[0], [s for s in sets[1:] if not s.draw and s.sites != sets[0].sites]
    drawn = [s for s in sets if s.draw and len(s.sites) == len(own.sites)]
    rows = _by_condition(found.rows)
    level = 1 - 0.05 / max(1, len(rivals))  # the question to random sets, which has a rank, is a family of its own
    seen = _seen(rows, seed)
    made = [_against(found, rows, own, rival, level, seen, seed) for rival in rivals]
    made += [_against_random(found, rows, own, drawn, seen, seed)] if drawn else []
    clusters = clusters_of(rows[NONE, ""])
    made += [_score_against(found, own, rival, level, clusters, seed) for rival in rivals]
    return made + ([_score_against_random(found, own, drawn, clusters, seed)] if drawn else [])


def _by_condition(rows: Sequence[Row]) -> ByCondition:
    by: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda r: int(r["prompt"])):
        if row["side"] == POSITIVE:
            by.setdefault((row["condition"], row["variant"]), []).append(row)
    return by


def _answered(rows: Sequence[Row]) -> Float[np.ndarray, " n"]:
    """Return for each prompt, in order, whether it was answered."""
    return np.array([float(is_counted(row, "answered") or 0) for row in rows])


def _values(found: SiteChoice, rows: ByCondition, of: SiteSet) -> Float[np.ndarray, " n"]:
    """Return the outcomes at a set's angle; where no angle is within the budget, those without steering."""
    steered = found.chosen(of, found.budget) is not None
    return _answered(rows[(of.condition, of.variant) if steered else (NONE, "")])


def _seen(rows: ByCondition, seed: int) -> bool:
    """Return whether the positive control frees answers: the assay could have seen an effect."""
    control = next((group for (name, _), group in rows.items() if name.startswith(POSITIVE_CONTROL)), None)
    if control is None:
        return False
    base = rows[NONE, ""]
    return shows(paired_difference(_answered(control), _answered(base), clusters=clusters_of(base), seed=seed))


def _asked(found: SiteChoice, key: str, rival: str, formula: str, criterion: str) -> Claim:
    """Return the claim before it is decided: as it stands where no set has an effect within the budget."""
    return Claim(
        id=f"sign-above-{key}",
        statement="SS at the sites of the published rule (opposite signs of the class means) frees more answers than "
        f"at {rival}, under the same budget of side effects",
        formula=formula,
        level="behaviour",
        domain=f"{found.calibration.model}, report split; the angle of each set is the one of the largest effect on "
        f"select whose KL on harmless prompts is at most {found.budget:g} nats a token",
        quantity=f"difference of the share of {UNIT}",
        criterion=criterion,
        value=None,
        n=0,
        verdict=TIED,
    )


def _decided(asked: Claim, effect: Estimate, verdict: str, jointly: str, witness: Mapping[str, Any]) -> Claim:
    joint = {"holds_jointly": jointly == HOLDS} if verdict == HOLDS else {}
    interval = (effect.low, effect.high)
    return replace(
        asked, value=effect.value, n=effect.n, interval=interval, verdict=verdict, witness={**witness, **joint}
    )


def _against(
    found: SiteChoice, rows: ByCondition, own: SiteSet, rival: SiteSet, level: float, seen: bool, seed: int
) -> Claim:
    key = f"{rival.rule.replace(' ', '-')}-{len(rival.sites)}"
    formula = f"mean over prompts of the {UNIT}, {SIGN} − {rival.rule}"
    asked = _asked(found, key, f"those of {rival.name}", formula, "95 % interval above 0")
    angles = {s.name: found.chosen(s, found.budget) for s in (own, rival)}
    costs = {s.name: found.cost(s) for s in (own, rival)}
    if set(angles.values()) == {None}:
        return asked
    one, two = _values(found, rows, own), _values(found, rows, rival)
    clusters = clusters_of(rows[NONE, ""])
    alone, jointly = (paired_difference(one, two, level=at, clusters=clusters, seed=seed) for at in (0.95, level))
    said = [effect_verdict(effect, seen=seen) for effect in (alone, jointly)]
    return _decided(asked, alone, said[0], said[1], {"angles": angles, "costs": costs, "control_seen": seen})


def _against_random(
    found: SiteChoice,
    rows: ByCondition,
    own: SiteSet,
    drawn: Sequence[SiteSet],
    seen: bool,
    seed: int,
) -> Claim:
    formula = f"mean over prompts of the {UNIT}, {SIGN} less the mean of the draws; rank of {SIGN} among the draws"
    asked = _asked(found, RANDOM, f"as many random ones ({len(drawn)} draws)", formula, BEYOND)
    if all(found.chosen(s, found.budget) is None for s in (own, *drawn)):
        return asked
    one, draws = _values(found, rows, own), np.stack([_values(found, rows, s) for s in drawn])
    effect, verdict, spread = against_draws(one, draws, clusters_of(rows[NONE, ""]), seed=seed, seen=seen)
    at = {"angle": found.chosen(own, found.budget), "cost": found.cost(own)}
    return _decided(asked, effect, verdict, verdict, {**at, "control_seen": seen, **spread})


def _falls(found: SiteChoice, of: SiteSet) -> Float[np.ndarray, " n"]:
    """Return the fall of each harmful prompt's refusal score at a set's angle; 0 where none is within the budget."""
    curve, angle = next(c for c in found.report if c.set == of), found.chosen(of, found.budget)
    return np.zeros(len(curve.plain)) if angle is None else curve.plain - curve.harmful[:, curve.values.index(angle)]


def _score_asked(found: SiteChoice, key: str, rival: str, formula: str, criterion: str) -> Claim:
    return replace(
        _asked(found, key, rival, formula, criterion),
        id=f"sign-score-{key}",
        statement="SS at the sites of the published rule (opposite signs of the class means) lowers the refusal score "
        f"of harmful prompts more than at {rival}, under the same budget of side effects",
        quantity="difference of the fall of the refusal score, in nats",
    )


def _score_against(
    found: SiteChoice, own: SiteSet, rival: SiteSet, level: float, clusters: Clusters | None, seed: int
) -> Claim:
    key = f"{rival.rule.replace(' ', '-')}-{len(rival.sites)}"
    formula = f"mean over prompts of the fall of the refusal score, {SIGN} − {rival.rule}"
    asked = _score_asked(found, key, f"those of {rival.name}", formula, "95 % interval above 0")
    if found.chosen(own, found.budget) is found.chosen(rival, found.budget) is None:
        return asked
    both = _falls(found, own), _falls(found, rival)
    alone, jointly = (paired_difference(*both, level=at, clusters=clusters, seed=seed) for at in (0.95, level))
    said = [effect_verdict(effect, smallest=None) for effect in (alone, jointly)]
    sizes = {s.name: float(falls.mean()) for s, falls in zip((own, rival), both, strict=True)}
    return _decided(asked, alone, said[0], said[1], {"falls": sizes})


def _score_against_random(
    found: SiteChoice, own: SiteSet, drawn: Sequence[SiteSet], clusters: Clusters | None, seed: int
) -> Claim:
    formula = f"mean fall of the refusal score, {SIGN} less the mean of the draws; rank of {SIGN} among them"
    asked = _score_asked(found, RANDOM, f"as many random ones ({len(drawn)} draws)", formula, BEYOND)
    if all(found.chosen(s, found.budget) is None for s in (own, *drawn)):
        return asked
    one, draws = _falls(found, own), np.stack([_falls(found, s) for s in drawn])
    effect, verdict, spread = against_draws(one, draws, clusters, seed=seed, smallest=None)
    return _decided(asked, effect, verdict, verdict, {**spread, "fall": float(one.mean())})
