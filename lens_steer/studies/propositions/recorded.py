"""Claims on a model: recorded activations at every site and angle, and norms downstream of hooks that keep the norm.

The calibration comes from the fit split, the activations from the report split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.data import PromptSet
from lens_steer.geometry.calibration import Calibration
from lens_steer.inference.record import Activations, record_prompts
from lens_steer.models import sites
from lens_steer.models.loading import info_of
from lens_steer.operators.addition import add_direction
from lens_steer.stats.means import bootstrap, bootstrap_means
from lens_steer.stats.rates import wilson
from lens_steer.steer.hooks import steering
from lens_steer.steer.methods import selective_steering, standard_angular
from lens_steer.steer.plans import SteeringPlan
from lens_steer.studies.claim import Claim, verdict
from lens_steer.studies.propositions.differences import NOMINAL, separation_claims
from lens_steer.studies.propositions.formula import ACTADD, PLANE_OPERATORS, SAS, SS
from lens_steer.studies.propositions.norms import relative_change
from lens_steer.studies.propositions.precision import COARSE, KEPT

DRIFT = 0.01  # mean relative length change above which the input of a later norm counts as drifted
UNEVEN = 2.0  # ratio of the largest to the mean step of the norm above which growth over depth is uneven


def recorded_claims(activations: Activations, calibration: Calibration) -> list[Claim]:
    """Test whether each operator keeps the norm of every recorded activation.

    Every site and twelve angles are tested with the plane of the calibration. ActAdd adds the raw difference of means
    of each site. The separation claims at the selected site follow.
    """
    h = torch.cat([activations.positive, activations.negative])
    vectors = h.reshape(-1, h.shape[-1])
    where = f"{len(h)} held-out prompts of {activations.model} × {h.shape[1]} sites × {len(COARSE)} angles, float32"
    claims = []
    for name, operator in PLANE_OPERATORS.items():
        if name == ACTADD:
            change = _raw_addition(activations, calibration)
        else:
            change = torch.stack(
                [relative_change(vectors, operator(vectors, calibration.basis, a)).abs() for a in COARSE]
            ).amax(dim=0)
        # The sites of one prompt are not independent, so the rate counts prompts.
        by_prompt = change.reshape(len(h), -1).amax(dim=1)
        rate = wilson(int((by_prompt > KEPT).sum()), len(by_prompt))
        worst = int(change.argmax())
        claims.append(
            Claim(
                id=f"norm-recorded-{name}",
                statement=f"{name} keeps the norm of recorded activations",
                formula="‖h'‖/‖h‖ − 1",
                level="recorded",
                domain=where,
                quantity="largest |‖h'‖/‖h‖ − 1|",
                criterion=f"at most {KEPT:g}",
                value=float(change[worst]),
                n=len(h),
                verdict=verdict(float(change[worst]) <= KEPT),
                witness={
                    "prompt": worst // h.shape[1],
                    "site": activations.sites[worst % h.shape[1]],
                    "share_of_prompts_changed": [rate.value, rate.low, rate.high],
                },
            )
        )
    positive, negative = (x.double() for x in activations.at(calibration.selected_site))
    return claims + separation_claims(
        positive,
        negative,
        calibration.basis.double(),
        PLANE_OPERATORS,
        f"held-out activations at {calibration.selected_site}",
        "recorded",
    )


def _raw_addition(activations: Activations, calibration: Calibration) -> Float[Tensor, " n"]:
    """Return the norm changes under ActAdd as it is used: each site adds its own raw difference of means once."""
    assert calibration.mean_positive is not None
    assert calibration.mean_negative is not None
    difference = calibration.mean_positive - calibration.mean_negative
    h = torch.cat([activations.positive, activations.negative])
    moved = torch.stack([add_direction(h[:, k], difference[k], 1.0) for k in range(h.shape[1])], dim=1)
    return relative_change(h, moved).abs().flatten()


@dataclass(frozen=True)
class Drift:
    """Length change at the input of one later norm under one operator.

    Attributes:
        operator: Name of the operator that steers.
        site: Site of the residual stream that the norm reads.
        depth: Number of blocks before the site; half a block more after the attention of the block.
        mean, low, high, n: Mean of ``|‖h'‖/‖h‖ − 1|``, its bootstrap interval over prompts, and the number of prompts.
    """

    operator: str
    site: str
    depth: float
    mean: float
    low: float
    high: float
    n: int


def downstream(
    model: Any,
    plain: Float[Tensor, "n_prompts n_sites d_model"],
    prompts: PromptSet,
    calibration: Calibration,
    *,
    angle: float = NOMINAL,
    seed: int = 0,
) -> list[Drift]:
    """Measure how far the inputs of later norms drift in length, although every steered site keeps its own length.

    The change is measured at the last prompt token, at all points of the stream after the first steered site.

    Args:
        model: Model to be steered.
        plain: Activations of the same prompts at :func:`stream_sites`, without steering.
        prompts: Prompts to run.
        calibration: Calibration for the plans of SAS and SS.
        angle: Angle of both plans, in degrees.
        seed: Seed of the bootstrap.
    """
    names = stream_sites(info_of(model).n_layers)
    first = min(depth_of(name) for name in calibration.discriminative_sites)
    later = [k for k, name in enumerate(names) if depth_of(name) > first]
    plans: dict[str, SteeringPlan] = {
        SAS: standard_angular(calibration, angle),
        SS: selective_steering(calibration, angle),
    }
    found = []
    for operator, plan in plans.items():
        with steering(model, plan):
            steered = record_prompts(model, prompts, names)
        change = relative_change(plain, steered).abs().numpy()
        mean, low, high = bootstrap_means(np.asarray(change), seed=seed)
        found += [
            Drift(operator, names[k], depth_of(names[k]), float(mean[k]), float(low[k]), float(high[k]), len(change))
            for k in later
        ]
    return found


def stream_sites(n_layers: int) -> tuple[str, ...]:
    """Return the sites of the residual stream that a norm reads.

    These are the stream before each block, after the attention of each block, and before the final norm.

    >>> stream_sites(1)
    ('blocks.0.hook_resid_pre', 'blocks.0.hook_resid_mid', 'blocks.0.hook_resid_post')
    """
    read = [sites.Site(block, kind).name for block in range(n_layers) for kind in ("resid_pre", "resid_mid")]
    return (*read, sites.Site(n_layers - 1, "resid_post").name)


def depth_of(name: str) -> float:
    """Return the number of blocks before a site; for the output of a norm, before the point that the norm reads."""
    site = sites.parse(name)
    return site.block + {"ln2": 0.5, "ln2_post": 0.5, "resid_mid": 0.5, "resid_post": 1.0}.get(site.kind, 0.0)


def downstream_claims(drifts: Sequence[Drift], model: str, angle: float = NOMINAL) -> list[Claim]:
    """Test whether keeping the norm at the hooks keeps the norm at the inputs of later norms."""
    claims = []
    for operator in (SAS, SS):
        rows = [d for d in drifts if d.operator == operator]
        worst = max(rows, key=lambda d: d.mean)
        claims.append(
            Claim(
                id=f"norm-downstream-{operator}",
                statement=f"keeping the norm at every steered norm output with {operator} keeps the norms of "
                f"the stream that later norms of {model} read",
                formula="mean |‖h'‖/‖h‖ − 1| of a later norm's input",
                level="downstream",
                domain=f"last prompt token, {angle:g}°, the inputs of {len(rows)} norms after the first steered one",
                quantity="largest mean change over the inputs",
                criterion=f"at most {DRIFT:g}",
                value=worst.mean,
                n=worst.n,
                verdict=verdict(worst.mean <= DRIFT),
                interval=(worst.low, worst.high),
                witness={"site": worst.site},
            )
        )
    return claims


def growth_claims(
    plain: Float[Tensor, "n_prompts n_sites d_model"], names: Sequence[str], model: str, *, seed: int = 0
) -> list[Claim]:
    """Test whether the norm of the stream grows over depth, and whether it grows unevenly."""
    blocks = [k for k, name in enumerate(names) if sites.parse(name).kind != "resid_mid"]
    length = plain[:, blocks].double().norm(dim=-1).numpy()

    def growth(rows: np.ndarray) -> float:
        mean = length[rows].mean(axis=0)
        return float(mean[-1] / mean[0])

    def unevenness(rows: np.ndarray) -> float:
        steps = np.abs(np.diff(length[rows].mean(axis=0)))
        return float(steps.max() / steps.mean()) if steps.any() else 1.0

    means = {names[k]: float(v) for k, v in zip(blocks, length.mean(axis=0), strict=True)}
    where = f"{len(length)} held-out prompts, last token, stream before each block and after the last"
    found = []
    for id_, said, formula, statistic, quantity, bound in (
        (
            "norms-grow",
            f"the norms of {model}'s stream grow over depth",
            "mean norm after the last block / before the first",
            growth,
            "ratio",
            1.0,
        ),
        (
            "norms-uneven",
            f"the norms of {model}'s stream change unevenly over depth",
            "largest |step| / mean |step| of the mean norm over blocks",
            unevenness,
            "ratio (1: every block changes it by as much)",
            UNEVEN,
        ),
    ):
        estimate = bootstrap(statistic, len(length), seed=seed)
        found.append(
            Claim(
                id=f"{id_}-{model}",
                statement=said,
                formula=formula,
                level="recorded",
                domain=where,
                quantity=quantity,
                criterion=f"95 % interval above {bound:g}",
                value=estimate.value,
                n=estimate.n,
                verdict=verdict(estimate.low > bound),
                interval=(estimate.low, estimate.high),
                witness={"mean_norms": means},
            )
        )
    return found
