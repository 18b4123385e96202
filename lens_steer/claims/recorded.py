"""On a model: recorded activations at every site and angle, and what happens downstream of hooks that keep the norm.

Calibration comes from the fit split, activations from the report split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer import sites
from lens_steer.activations import Activations, record_prompts
from lens_steer.claims.differences import NOMINAL, separation_claims
from lens_steer.claims.formula import ACTADD, OPERATORS, SAS, SS
from lens_steer.claims.precision import COARSE, KEPT
from lens_steer.claims.record import Claim, verdict
from lens_steer.geometry.calibration import Calibration
from lens_steer.hooks import steering
from lens_steer.methods import selective_steering, standard_angular
from lens_steer.models import info_of
from lens_steer.norms import relative_change
from lens_steer.operators.addition import add_direction
from lens_steer.plans import SteeringPlan
from lens_steer.prompts import PromptSet
from lens_steer.stats import bootstrap_means, wilson

DRIFT = 0.01  # mean change of a later norm from which it has drifted
LATER = "resid_post"


def recorded_claims(activations: Activations, calibration: Calibration) -> list[Claim]:
    """Whether each operator keeps the norm of every recorded activation, at every site and twelve angles, with the calibration's own plane."""
    h = torch.cat([activations.positive, activations.negative])
    vectors = h.reshape(-1, h.shape[-1])
    where = f"{len(h)} held-out prompts of {activations.model} × {h.shape[1]} sites × {len(COARSE)} angles, float32"
    claims = []
    for name, operator in OPERATORS.items():
        if name == ACTADD:
            change = _raw_addition(activations, calibration)
        else:
            change = torch.stack([relative_change(vectors, operator(vectors, calibration.basis, a)).abs() for a in COARSE]).amax(
                dim=0
            )
        rate = wilson(int((change > KEPT).sum()), len(change))
        worst = int(change.argmax())
        claims.append(
            Claim(
                f"norm-recorded-{name}", f"{name} keeps the norm of recorded activations", "‖h'‖/‖h‖ − 1", "recorded", where,
                f"largest |‖h'‖/‖h‖ − 1|; interval: share of vectors above {KEPT:g}", f"at most {KEPT:g}", float(change[worst]), len(change),
                verdict(float(change[worst]) <= KEPT), (rate.low, rate.high),
                {"prompt": worst // h.shape[1], "site": activations.sites[worst % h.shape[1]]},
            )
        )  # fmt: skip
    positive, negative = (x.double() for x in activations.at(calibration.selected_site))
    return claims + separation_claims(
        positive,
        negative,
        calibration.basis.double(),
        OPERATORS,
        f"held-out activations at {calibration.selected_site}",
        "recorded",
    )


def _raw_addition(activations: Activations, calibration: Calibration) -> Float[Tensor, " n"]:
    """ActAdd as it is used: each site's own raw difference of means, once."""
    assert calibration.mean_positive is not None
    assert calibration.mean_negative is not None
    difference = calibration.mean_positive - calibration.mean_negative
    h = torch.cat([activations.positive, activations.negative])
    moved = torch.stack([add_direction(h[:, k], difference[k], 1.0) for k in range(h.shape[1])], dim=1)
    return relative_change(h, moved).abs().flatten()


@dataclass(frozen=True)
class Drift:
    """Mean |‖h'‖/‖h‖ − 1| of one later tensor under one operator, with its bootstrap interval over prompts."""

    operator: str
    site: str
    block: int
    mean: float
    low: float
    high: float
    n: int


def downstream(model: Any, prompts: PromptSet, calibration: Calibration, *, angle: float = NOMINAL, seed: int = 0) -> list[Drift]:
    """How far the norms of later blocks' streams drift (last prompt token) although each steered site kept its own."""
    info = info_of(model)
    first = min(sites.blocks_of(calibration.discriminative_sites))
    names = [
        n for n in sites.resolve(LATER, n_layers=info.n_layers, architecture=info.architecture) if sites.parse(n).block >= first
    ]
    plain = record_prompts(model, prompts, names)
    plans: dict[str, SteeringPlan] = {SAS: standard_angular(calibration, angle), SS: selective_steering(calibration, angle)}
    found = []
    for operator, plan in plans.items():
        with steering(model, plan):
            steered = record_prompts(model, prompts, names)
        change = relative_change(plain, steered).abs().numpy()
        mean, low, high = bootstrap_means(np.asarray(change), seed=seed)
        found += [
            Drift(operator, name, sites.parse(name).block, float(mean[k]), float(low[k]), float(high[k]), len(change))
            for k, name in enumerate(names)
        ]
    return found


def downstream_claims(drifts: Sequence[Drift], model: str, angle: float = NOMINAL) -> list[Claim]:
    """Whether norms kept at the hooks are norms kept in later blocks."""
    claims = []
    for operator in (SAS, SS):
        rows = [d for d in drifts if d.operator == operator]
        worst = max(rows, key=lambda d: d.mean)
        claims.append(
            Claim(
                f"norm-downstream-{operator}", f"keeping the norm at every steered norm output with {operator} keeps the norms of the stream in later "
                f"blocks of {model}", "mean |‖h'‖/‖h‖ − 1| of the block's output", "downstream",
                f"last prompt token, {angle:g}°, blocks {rows[0].block} to {rows[-1].block}", "largest mean change over the blocks",
                f"at most {DRIFT:g}", worst.mean, worst.n, verdict(worst.mean <= DRIFT), (worst.low, worst.high), {"site": worst.site},
            )
        )  # fmt: skip
    return claims
