"""Class means without the activations they are of: recording in memory that does not grow with the number of prompts.

The means at every site, of the vectors as they are and scaled to unit length, are all that a calibration's directions,
plane and discriminative sites depend on. Projections on the selected direction need the direction, so their spread
comes from a second pass (:mod:`lens_steer.geometry.streamed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer._display import Shown
from lens_steer.data import Contrast
from lens_steer.errors import LensSteerError
from lens_steer.models.fits import ModelRef, reference
from lens_steer.models.info import ModelInfo

Pooling = Literal["last", "response", "token", "prompt token"]


@dataclass(frozen=True, eq=False)
class StreamMeans:
    """Class means of the residual stream at the blocks' inputs, recorded beside norms' outputs: what a method needs
    that works on the stream itself.

    Attributes:
        sites: names in network order.
        mean_positive, mean_negative: of the raw vectors, float64.
    """

    sites: tuple[str, ...]
    mean_positive: Float[Tensor, "n_stream d_model"]
    mean_negative: Float[Tensor, "n_stream d_model"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Recording(ModelRef):
    """Where what was recorded of two contrasted prompt sets comes from.

    Attributes:
        pooling: ``last`` (last prompt token) or ``response`` (mean over the fixed response's tokens), each a row a
            prompt; ``token`` (every token of the fixed response) or ``prompt token`` (of the prompt), each a row a
            token, from :func:`lens_steer.inference.record_tokens.record_tokens`.
        backend, weight_processing: of the model that was recorded.
        prompt_hash: of the contrast.
        hashes_positive, hashes_negative: each prompt's own (:attr:`~lens_steer.data.Prompt.hash`); empty where they
            are not known.
        stream: class means of every block's input, which are recorded in the same pass where the sites are norms'
            outputs in every block; not of other prompts, so whoever takes some of the prompts, or labels them anew,
            leaves it out.
    """

    pooling: Pooling
    backend: str
    weight_processing: str
    prompt_hash: str
    hashes_positive: tuple[str, ...] = ()
    hashes_negative: tuple[str, ...] = ()
    stream: StreamMeans | None = None


def recording(info: ModelInfo, pair: Contrast, pooling: Pooling) -> dict[str, Any]:
    """Give those fields of a :class:`Recording` that a model, a contrast and a pooling decide."""
    kept = {"backend": info.backend, "weight_processing": info.weight_processing}
    return {**reference(info), **kept, "pooling": pooling, "prompt_hash": pair.hash}


@dataclass(frozen=True, eq=False)
class Moments(Recording, Shown, view="activations"):
    """What :func:`lens_steer.calibrate` needs of both classes' activations.

    Attributes:
        sites: names in network order.
        mean_positive, mean_negative: of the raw vectors, float64.
        unit_mean_positive, unit_mean_negative: of the vectors scaled to unit length one by one.
        n_positive, n_negative: prompts.
    """

    sites: tuple[str, ...]
    mean_positive: Float[Tensor, "n_sites d_model"]
    mean_negative: Float[Tensor, "n_sites d_model"]
    unit_mean_positive: Float[Tensor, "n_sites d_model"]
    unit_mean_negative: Float[Tensor, "n_sites d_model"]
    n_positive: int
    n_negative: int

    def means(
        self, *, unit_samples: bool = False
    ) -> tuple[Float[Tensor, "n_sites d_model"], Float[Tensor, "n_sites d_model"]]:
        """Both classes' means, as :func:`lens_steer.geometry.directions.class_means` gives them."""
        return (
            (self.unit_mean_positive, self.unit_mean_negative)
            if unit_samples
            else (self.mean_positive, self.mean_negative)
        )

    def __repr__(self) -> str:
        return (
            f"Moments({self.n_positive} positive, {self.n_negative} negative, {len(self.sites)} sites of "
            f"{self.model}, d_model {self.mean_positive.shape[-1]})"
        )


class Sums:
    """Sums over the prompts of one class, in memory that does not grow with them."""

    def __init__(self, n_sites: int, d_model: int) -> None:
        self._sums = torch.zeros(2, n_sites, d_model, dtype=torch.float64)
        self._n = 0

    def keep(self, rows: Tensor, index: int, values: Float[Tensor, "batch d_model"]) -> None:
        """Add one batch's vectors at one site."""
        x = values.double()
        self._sums[0, index] += x.sum(dim=0)
        self._sums[1, index] += unit_samples_of(x).sum(dim=0)
        self._n += len(x) if index == 0 else 0

    def means(self, names: Sequence[str], source: str) -> Float[Tensor, "2 n_sites d_model"]:
        """Of the raw vectors and of the unit ones.

        Raises:
            LensSteerError: a sum that is not finite.
        """
        bad = ~torch.isfinite(self._sums).all(dim=-1).all(dim=0)
        if bool(bad.any()):
            raise LensSteerError(
                f"activations of {source!r} at {names[int(bad.nonzero()[0])]} are not finite: load the model in "
                "float32 or bfloat16, and check its weights"
            )
        return self._sums / self._n


def unit_samples_of(x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """Vectors scaled to unit length one by one, with the released code's eps of 1e-8.

    >>> unit_samples_of(torch.tensor([[0.0, 4.0]])).tolist()
    [[0.0, 1.0]]
    """
    return x / (x.norm(dim=-1, keepdim=True) + 1e-8)
