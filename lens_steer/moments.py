"""Class means without the activations they are of: recording in memory that does not grow with the number of prompts.

The means at every site, of the vectors as they are and scaled to unit length, are all that a calibration's directions, plane and discriminative sites depend on. Projections on
the selected direction need the direction, so their spread comes from a second pass (:mod:`lens_steer.geometry.streamed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.activations import Pooling, stream
from lens_steer.errors import LensSteerError
from lens_steer.geometry.directions import unit_samples_of
from lens_steer.models import info_of
from lens_steer.prompts import Contrast


@dataclass(frozen=True, eq=False)
class Moments:
    """What :func:`lens_steer.calibrate` needs of both classes' activations.

    Attributes:
        sites: names in network order.
        mean_positive, mean_negative: of the raw vectors, float64.
        unit_mean_positive, unit_mean_negative: of the vectors scaled to unit length one by one.
        n_positive, n_negative: prompts.
        pooling, model, architecture, n_layers, backend, weight_processing, prompt_hash: see :class:`lens_steer.activations.Activations`.
    """

    sites: tuple[str, ...]
    mean_positive: Float[Tensor, "n_sites d_model"]
    mean_negative: Float[Tensor, "n_sites d_model"]
    unit_mean_positive: Float[Tensor, "n_sites d_model"]
    unit_mean_negative: Float[Tensor, "n_sites d_model"]
    n_positive: int
    n_negative: int
    pooling: Pooling
    model: str
    architecture: str
    n_layers: int
    backend: str
    weight_processing: str
    prompt_hash: str

    def means(self, *, unit_samples: bool = False) -> tuple[Float[Tensor, "n_sites d_model"], Float[Tensor, "n_sites d_model"]]:
        """Both classes' means, as :func:`lens_steer.geometry.directions.class_means` gives them."""
        return (self.unit_mean_positive, self.unit_mean_negative) if unit_samples else (self.mean_positive, self.mean_negative)

    def __repr__(self) -> str:
        return f"Moments({self.n_positive} positive, {self.n_negative} negative, {len(self.sites)} sites of {self.model}, d_model {self.mean_positive.shape[-1]})"


def record_moments(
    model: Any, pair: Contrast, names: Sequence[str], *, pooling: Pooling = "last", engine: str = "tl", bar: Any = None
) -> Moments:
    """Means of both classes at resolved site names; see :func:`lens_steer.record` with ``keep="moments"``."""
    info, found = info_of(model), []
    for side in (pair.positive, pair.negative):
        sums = torch.zeros(2, len(names), info.d_model, dtype=torch.float64)
        stream(model, side, names, partial(_add, sums), pooling=pooling, engine=engine, bar=bar)
        bad = ~torch.isfinite(sums).all(dim=-1).all(dim=0)
        if bool(bad.any()):
            raise LensSteerError(
                f"activations of {side.name!r} at {names[int(bad.nonzero()[0])]} are not finite: load the model in float32 or bfloat16, and check its weights"
            )
        found.append(sums / len(side))
    return Moments(
        tuple(names), found[0][0], found[1][0], found[0][1], found[1][1], len(pair.positive), len(pair.negative), pooling, info.name, info.architecture,
        info.n_layers, info.backend, info.weight_processing, pair.hash,
    )  # fmt: skip


def _add(sums: Float[Tensor, "2 n_sites d_model"], rows: Tensor, index: int, values: Float[Tensor, "batch d_model"]) -> None:
    x = values.double()
    sums[0, index] += x.sum(dim=0)
    sums[1, index] += unit_samples_of(x).sum(dim=0)
