"""The numbers of a report, as plain values: directions and sites, lengths, outcomes, controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from lens_steer.evaluation import cells
from lens_steer.evaluation.controls import AT_ITS_VALUE
from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.discriminative import discriminative_sites, opposite_sign
from lens_steer.inference.record import Activations
from lens_steer.metrics.grading import Outcome
from lens_steer.operators import rotation
from lens_steer.reports.report_sweep import ANGLES, Swept
from lens_steer.stats.rates import wilson


def norm_changes(activations: Activations, calibration: Calibration) -> dict[str, Any]:
    """Return the largest relative change of length that each rotation makes to activations over the twelve angles.

    The activations are the recorded ones at the steered sites. The change is measured in float32, in which the hooks
    compute, and in float64, where only the error of the float32 basis is left.

    Returns:
        The number of vectors, and ``max |‖h'‖/‖h‖ − 1|`` for each operator and dtype. Empty if no site is steered.
    """
    rows = [activations.sites.index(name) for name in calibration.discriminative_sites]
    if not rows:
        return {}
    h = torch.cat([activations.positive, activations.negative])[:, rows]
    angle = torch.tensor(ANGLES, dtype=torch.float64)
    found: dict[str, Any] = {"n_vectors": h.shape[0] * h.shape[1]}
    operators: dict[str, Callable[..., torch.Tensor]] = {
        "selective": rotation.selective_rotation,
        "standard": rotation.standard_angular,
        "adaptive": rotation.adaptive_angular,
    }
    for name, operator in operators.items():
        for dtype in (torch.float32, torch.float64):
            x = h.to(dtype).expand(len(ANGLES), *h.shape)
            change = operator(x, calibration.basis, angle).double().norm(dim=-1) / x.double().norm(dim=-1) - 1
            found[f"{name}_{str(dtype).removeprefix('torch.')}"] = float(change.abs().max())
    return found


def direction_numbers(calibration: Calibration, summary: dict[str, Any], held_out: Activations) -> dict[str, Any]:
    """Return the numbers of the direction, the plane and the sites, and how these hold on the held-out prompts."""
    again = discriminative_sites(
        held_out.positive,
        held_out.negative,
        calibration.basis[0],
        held_out.sites,
        rule=calibration.rule,
        bound=calibration.bound,
    )
    chosen = set(calibration.discriminative_sites)
    kept = len(chosen & set(again.sites))
    return {
        "selected_site": calibration.selected_site,
        "selection_margin": summary["selection"]["margin"],
        "n_sites": len(calibration.sites),
        "zero_candidates": summary["zero_candidates"],
        "rule": calibration.rule,
        "discriminative_sites": len(chosen),
        "discriminative_blocks": list(calibration.discriminative_blocks),
        "n_blocks": calibration.n_layers,
        "discriminative_on_held_out": _interval(kept, len(chosen)) if chosen else None,
        "held_out_separation": _separation(held_out, calibration),
        "share_in_plane": summary["plane"]["share_in_plane_centred"],
        "b2_remainder": calibration.details["pc_remainder_after_b1"],
        "pc_explained": calibration.details["pc_explained_variance"],
    }


def outcome_row(outcome: Outcome, *, graded: bool) -> dict[str, Any]:
    """Return the counts and rates of an outcome as plain values.

    Without a ground truth they come with the number of answers that were cut off, and the mean perplexity.
    """
    rates, p = {g: outcome.rate(g) for g in outcome.counts}, outcome.perplexity
    by_cell = {g: by for g in outcome.counts if (by := outcome.cell_rates(g))}
    besides = {"cut_off": outcome.cut_off, "perplexity": None if p is None else [p.value, p.low, p.high]}
    return {
        "condition": outcome.condition,
        "angle": outcome.angle,
        "class": outcome.side,
        "counts": outcome.counts,
        "rates": {g: [e.value, e.low, e.high] for g, e in rates.items()},
        **cells.plain(by_cell),
        **({} if graded else besides),
        **({"draw": outcome.draw} if outcome.draw else {}),
    }


def controls_row(found: Swept, draws: int) -> dict[str, Any]:
    """Return the bands of the controls as plain values."""
    bands = {
        control: {side: {g: asdict(b) for g, b in by_grade.items()} for side, by_grade in by_side.items()}
        for control, by_side in found.bands.items()
    }
    return {
        "draws": draws,
        "bands": bands,
        "left_out": dict(found.left_out),
        "told": AT_ITS_VALUE if bands else "",
    }


def _separation(held_out: Activations, calibration: Calibration) -> dict[str, Any]:
    """Return the share of held-out prompts whose projection at the selected site has their class's sign, by class."""
    positive, negative = (x.double() @ calibration.basis[0].double() for x in held_out.at(calibration.selected_site))
    ones = torch.ones(1, dtype=torch.float64)
    return {
        "positive": _interval(int(opposite_sign(positive, -ones.expand_as(positive)).sum()), len(positive)),
        "negative": _interval(int(opposite_sign(negative, ones.expand_as(negative)).sum()), len(negative)),
    }


def _interval(successes: int, n: int) -> dict[str, float | int]:
    rate = wilson(successes, n)
    return {"value": rate.value, "low": rate.low, "high": rate.high, "n": n}
