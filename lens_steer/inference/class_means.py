"""Class means without the single activations: recording in memory that does not grow with the number of prompts.

With directions that are differences of means, and with a rule on means for the discriminative sites, a calibration's
directions, plane and sites depend only on the class means at every site, of the raw vectors and of the vectors scaled
to unit length. The spread of the projections on the selected direction needs
that direction, so it comes from a second pass (:mod:`lens_steer.geometry.streamed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer._display import Shown
from lens_steer.data import Contrast
from lens_steer.errors import LensSteerError
from lens_steer.inference.pooling import Pooling
from lens_steer.models.fits import ModelRef, reference
from lens_steer.models.info import ModelInfo

UNIT_EPS = 1e-8  # The released code adds it to the length by which it divides.


@dataclass(frozen=True, eq=False)
class StreamMeans:
    """Class means of the residual stream at the inputs of the blocks, recorded together with norm outputs.

    Methods that work on the residual stream itself need them.

    Attributes:
        sites: The names of the sites, in network order.
        mean_positive, mean_negative: The means of the raw vectors, in float64.
    """

    sites: tuple[str, ...]
    mean_positive: Float[Tensor, "n_stream d_model"]
    mean_negative: Float[Tensor, "n_stream d_model"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Recording(ModelRef):
    """The origin of what was recorded from two contrasted prompt sets.

    Attributes:
        pooling: ``last`` (the last prompt token) or ``response`` (the mean over the tokens of the fixed response; of
            its ``thought`` or its ``answer`` alone under these names), with one row per prompt; ``token`` (every token
            of the fixed response; ``thought token``, ``answer token``) or ``prompt token`` (every token of the prompt),
            with one row per token, from :func:`lens_steer.inference.record_tokens.record_tokens`.
        backend, weight_processing: The backend and the weight processing of the recorded model.
        prompt_hash: The hash of the contrast.
        hashes_positive, hashes_negative: The hash of each prompt (:attr:`~lens_steer.data.Prompt.hash`); empty if they
            are not known.
        stream: The class means at the input of every block. They are recorded in the same pass if the sites are norm
            outputs in every block; otherwise None. They belong to exactly these prompts and labels, so code that takes
            a part of the prompts, or labels them anew, must set None.
        proof: The error of each check of :func:`lens_steer.models.proof.prove` on the recorded model; empty if it was
            not proved.
    """

    pooling: Pooling
    backend: str
    weight_processing: str
    prompt_hash: str
    hashes_positive: tuple[str, ...] = ()
    hashes_negative: tuple[str, ...] = ()
    stream: StreamMeans | None = None
    proof: Mapping[str, float] = field(default_factory=dict)


def recording(info: ModelInfo, pair: Contrast, pooling: Pooling) -> dict[str, Any]:
    """Return the fields of a :class:`Recording` that follow from a model, a contrast and a pooling."""
    kept = {"backend": info.backend, "weight_processing": info.weight_processing}
    return {**reference(info), **kept, "pooling": pooling, "prompt_hash": pair.hash}


@dataclass(frozen=True, eq=False)
class Moments(Recording, Shown, view="activations"):
    """The class means of both classes, which :func:`lens_steer.calibrate` can use in place of all activations.

    Attributes:
        sites: The names of the sites, in network order.
        mean_positive, mean_negative: The means of the raw vectors, in float64.
        unit_mean_positive, unit_mean_negative: The means of the vectors after each was scaled to unit length.
        n_positive, n_negative: The numbers of prompts.
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
        """Return the means of both classes, as :func:`lens_steer.geometry.directions.class_means` does."""
        if unit_samples:
            return self.unit_mean_positive, self.unit_mean_negative
        return self.mean_positive, self.mean_negative

    def __repr__(self) -> str:
        return (
            f"Moments({self.n_positive} positive, {self.n_negative} negative, {len(self.sites)} sites of "
            f"{self.model}, d_model {self.mean_positive.shape[-1]})"
        )


class Sums:
    """Sums over the prompts of one class, in memory that does not grow with the number of prompts."""

    def __init__(self, n_sites: int, d_model: int) -> None:
        self._sums = torch.zeros(2, n_sites, d_model, dtype=torch.float64)
        self._n = 0

    def keep(self, rows: Tensor, index: int, values: Float[Tensor, "batch d_model"]) -> None:
        """Add the vectors of one batch at one site."""
        x = values.double()
        self._sums[0, index] += x.sum(dim=0)
        self._sums[1, index] += unit_samples_of(x).sum(dim=0)
        self._n += len(x) if index == 0 else 0

    def means(self, names: Sequence[str], source: str) -> Float[Tensor, "2 n_sites d_model"]:
        """Return the means of the raw vectors and of the unit vectors.

        Raises:
            LensSteerError: If a sum is not finite.
        """
        bad = ~torch.isfinite(self._sums).all(dim=-1).all(dim=0)
        if bool(bad.any()):
            raise LensSteerError(
                f"activations of {source!r} at {names[int(bad.nonzero()[0])]} are not finite: load the model in "
                "float32 or bfloat16, and check its weights"
            )
        return self._sums / self._n


def unit_samples_of(x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """Scale each vector to unit length: ``x / (‖x‖ + 1e-8)``, with the eps of the released code.

    >>> unit_samples_of(torch.tensor([[0.0, 4.0]])).tolist()
    [[0.0, 1.0]]
    """
    return x / (x.norm(dim=-1, keepdim=True) + UNIT_EPS)
