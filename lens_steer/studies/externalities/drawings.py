"""The data of the figures of a study; :mod:`lens_steer.studies.externalities.figures` draws them."""

from __future__ import annotations

from typing import Any

from lens_steer.evaluation.conditions import NONE
from lens_steer.figures.core import Drawing
from lens_steer.models import sites
from lens_steer.stats import Estimate
from lens_steer.studies.externalities.conditions import CONTROL, RANDOM, STEERED, named
from lens_steer.studies.externalities.depth import random_cosine
from lens_steer.studies.externalities.figures import PANELS, SHARES, STRENGTH, TITLES
from lens_steer.studies.externalities.study import Externalities

LEAST = 3  # smallest number of responses that reach a position that is drawn, unless every set has fewer responses


def drawings(found: Externalities) -> dict[str, Drawing]:
    """Return the drawings of a study, by file name."""
    return {
        "externality_strength": strength_drawing(found),
        "externality_attack": attack_drawing(found),
        "externality_kl": kl_drawing(found),
        "externality_prefix": prefix_drawing(found),
        "externality_depth": depth_drawing(found),
        "externality_angles": angle_drawing(found),
    }


def strength_drawing(found: Externalities) -> Drawing:
    """Return every setting of the select split."""
    rows = [
        {
            "steering": name,
            "x": s.value if name == "compliance" else sites.parse(s.variant).block,
            "quantity": q,
            **_numbers(e),
        }
        for name, settings in found.select.items()
        for s in settings
        if s.condition != NONE
        for q, e in s.measured.items()
        if q in STRENGTH
    ]
    base = {
        name: {
            q: e.value for q, e in next(s for s in settings if s.condition == NONE).measured.items() if q in STRENGTH
        }
        for name, settings in found.select.items()
    }
    chosen = {
        s.name: s.choice.value if s.name == "compliance" else sites.parse(s.choice.variant).block
        for s in found.steerings
    }
    compliance = next(s for s in found.steerings if s.name == "compliance")
    at = sum(found.calibrations.compliance.relative(compliance.strength).values()) / len(compliance.sites)
    length = compliance.strength / at if at else 1.0
    return Drawing(
        "externality_strength", _columns(rows), {"chosen": chosen, "base": base, "length": length, "known": found.known}
    )


def attack_drawing(found: Externalities) -> Drawing:
    """Return the outcomes of harmful requests of the report split under no steering, each steering and its controls."""
    rows = [
        {
            "steering": name,
            "condition": f"steering {TITLES[name]}" if c.kind == STEERED else named(None, c.kind, draw=c.draw),
            "quantity": q,
            **_numbers(found.measured(c.name)[q]),
        }
        for name in TITLES
        for c in found.conditions
        if c.runs and c.steering in (None, name)
        for q in SHARES
    ]
    return Drawing("externality_attack", _columns(rows), {"known": found.known})


def kl_drawing(found: Externalities) -> Drawing:
    """Return the divergence by response token, of each steering and of a random direction."""
    least = min(LEAST, max(one.n_prompts - one.n_empty for one in found.divergences.values()))
    rows = [
        {"steering": name, "what": what, "responses": responses, "position": t + 1, **_numbers(e)}
        for name in PANELS
        for what, condition in (("steering", name), ("random", named(name, RANDOM)))
        for responses in ("harmful", "benign")
        if (condition, responses) in found.divergences
        for t, e in enumerate(found.divergences[condition, responses].by_position("kl", seed=found.seed))
        if e.n >= least
    ]
    return Drawing("externality_kl", _columns(rows))


def prefix_drawing(found: Externalities) -> Drawing:
    """Return the attack success with the steering at fewer tokens."""
    rows = [
        {"steering": c.steering, "family": c.kind, "k": c.k, **_numbers(found.measured(c.name)["attack"])}
        for c in found.prefixes
    ]
    notes = {
        name: {"full": found.measured(name)["attack"].value, "none": found.measured(NONE)["attack"].value}
        for name in PANELS
    }
    return Drawing("externality_prefix", _columns(rows), notes)


def depth_drawing(found: Externalities) -> Drawing:
    """Return the positions relative to the boundary, and the shares on the harmless side, by block."""
    rows = [
        {"kind": p.kind, "block": p.block, **_numbers(p.position), **_numbers(p.crossed, "crossed_")}
        for p in found.projections
    ]
    written = {s.name: [sites.parse(site).block for site in s.sites] for s in found.steerings}
    written[CONTROL] = [sites.parse(found.control.choice.variant).block]
    return Drawing("externality_depth", _columns(rows), {"written": written})


def angle_drawing(found: Externalities) -> Drawing:
    """Return the angles to refusal by block."""
    rows = [{"steering": a.steering, "block": a.block, "steered": a.steered, **_numbers(a.angle)} for a in found.angles]
    return Drawing(
        "externality_angles",
        _columns(rows),
        {"random_cosine": random_cosine(found.calibrations.refusal.d_model, seed=found.seed)[1]},
    )


def _numbers(e: Estimate, prefix: str = "") -> dict[str, float | int]:
    return {f"{prefix}mean": e.value, f"{prefix}low": e.low, f"{prefix}high": e.high, "n": e.n}


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
