"""A second pass over prompts whose activations were not kept, for the spread of their projections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import Contrast, ContrastSet, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.geometry.boundary import Boundary, midway
from lens_steer.geometry.calibration import Calibration
from lens_steer.inference.pooling import Pooling
from lens_steer.inference.record import stream


def boundaries(
    model: Any,
    contrast: ContrastSet | Contrast,
    calibration: Calibration,
    *,
    pooling: Pooling | None = None,
    engine: str = ENGINE,
) -> dict[str, Boundary]:
    """Return the boundary on the selected direction at every site of a calibration, by a second pass over the prompts.

    This is the result of :func:`lens_steer.boundary` for a calibration that was made from moments, and so holds no
    projections of its prompts.

    Args:
        model, contrast, engine: The arguments with which the calibration was recorded.
        calibration: The calibration, for its direction and sites.
        pooling: The pooling; None takes that of the calibration.

    Returns:
        The boundary of each site, keyed by site.

    Raises:
        LensSteerError: If a class has fewer than two prompts, or :func:`lens_steer.record` refuses an argument.
    """
    pair = contrast.fit if isinstance(contrast, ContrastSet) else contrast
    if min(len(pair.positive), len(pair.negative)) < 2:
        raise LensSteerError("a spread needs at least two prompts of each class: give more prompts")
    unit, names = calibration.basis[0].double(), calibration.sites
    kind: Any = calibration.details.get("pooling", "last") if pooling is None else pooling
    classes = [_spread(model, side, names, unit, kind, engine) for side in (pair.positive, pair.negative)]
    by_site = zip(*(quantity.tolist() for one_class in classes for quantity in one_class), strict=True)
    return {name: midway(calibration, name, statistics) for name, statistics in zip(names, by_site, strict=True)}


def _spread(
    model: Any, prompts: PromptSet, names: Sequence[str], unit: Tensor, pooling: Pooling, engine: str
) -> tuple[Float[Tensor, " n_sites"], Float[Tensor, " n_sites"]]:
    """Return the mean and the standard deviation (n − 1) of the projections at every site, computed batch by batch.

    Chan's update merges the mean and the sum of squared deviations of each batch into the totals. It subtracts no large
    squares from each other.
    """
    n, mean, square = (torch.zeros(len(names), dtype=torch.float64) for _ in range(3))

    def keep(rows: Tensor, index: int, values: Float[Tensor, "batch d_model"]) -> None:
        rho = values.double() @ unit
        total = n[index] + len(rho)
        gap = rho.mean() - mean[index]
        square[index] += ((rho - rho.mean()) ** 2).sum() + gap**2 * n[index] * len(rho) / total
        mean[index] += gap * len(rho) / total
        n[index] = total

    stream(model, prompts, names, keep, pooling=pooling, engine=engine)
    return mean, (square / (n - 1)).sqrt()
