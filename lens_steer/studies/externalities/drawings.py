"""The data of the figures of a study; :mod:`lens_steer.studies.externalities.figures` draws them."""

from __future__ import annotations

from lens_steer.evaluation.conditions import NONE
from lens_steer.figures.core import Drawing
from lens_steer.models import sites
from lens_steer.stats.estimates import Estimate
from lens_steer.studies.externalities.conditions import CONTROL, RANDOM, STEERED, named
from lens_steer.studies.externalities.depth import random_cosine
from lens_steer.studies.externalities.figures import PANELS, SHARES, STRENGTH, TITLES
from lens_steer.studies.externalities.found import Externalities

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
        {"steering": name, "x": _place(name, s.value, s.variant), "quantity": q, **_numbers(e)}
        for name, settings in found.select.items()
        for s in settings
        if s.condition != NONE
        for q, e in s.measured.items()
        if q in STRENGTH
    ]
    plain = {name: next(s for s in settings if s.condition == NONE) for name, settings in found.select.items()}
    base = {name: {q: e.value for q, e in s.measured.items() if q in STRENGTH} for name, s in plain.items()}
    chosen = {s.name: _place(s.name, s.choice.value, s.choice.variant) for s in found.steerings}
    compliance = next(s for s in found.steerings if s.name == "compliance")
    at = sum(found.calibrations.compliance.relative(compliance.strength).values()) / len(compliance.sites)
    length = compliance.strength / at if at else 1.0
    notes = {"chosen": chosen, "base": base, "length": length, "known": found.known}
    return Drawing.of("externality_strength", rows, notes)


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
    return Drawing.of("externality_attack", rows, {"known": found.known})


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
    return Drawing.of("externality_kl", rows, {"harmful": found.harmful_name})


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
    return Drawing.of("externality_prefix", rows, notes | {"known": found.known})


def depth_drawing(found: Externalities) -> Drawing:
    """Return the positions relative to the boundary, and the shares on the harmless side, by block."""
    rows = [
        {"kind": p.kind, "block": p.block, **_numbers(p.position), **_numbers(p.crossed, "crossed_")}
        for p in found.projections
    ]
    written = {s.name: [sites.parse(site).block for site in s.sites] for s in found.steerings}
    written[CONTROL] = [sites.parse(found.control.choice.variant).block]
    return Drawing.of("externality_depth", rows, {"written": written})


def angle_drawing(found: Externalities) -> Drawing:
    """Return the angles to refusal by block."""
    rows = [{"steering": a.steering, "block": a.block, "steered": a.steered, **_numbers(a.angle)} for a in found.angles]
    bound = random_cosine(found.calibrations.refusal.d_model, seed=found.seed)[1]
    return Drawing.of("externality_angles", rows, {"random_cosine": bound})


def _place(steering: str, value: float | None, site: str) -> float | int | None:
    """Return what is swept for a steering: α towards compliance, and the block towards JSON."""
    return value if steering == "compliance" else sites.parse(site).block


def _numbers(e: Estimate, prefix: str = "") -> dict[str, float | int]:
    return {f"{prefix}mean": e.value, f"{prefix}low": e.low, f"{prefix}high": e.high, "n": e.n}
