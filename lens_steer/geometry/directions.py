"""Candidate directions across depth and the selection of one (Selective Steering, Eqs. 4, 7, 8)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.inference.class_means import unit_samples_of

UNIT_SAMPLES = ("sample_unit", "angular")  # the norms of candidates that come from unit-scaled samples
ZERO_RELATIVE = 1e-6  # a difference of means not longer than this share of the median length counts as zero


@dataclass(frozen=True)
class Selection:
    """The selected candidate and its margin over the others.

    Attributes:
        index: The row of the selected candidate.
        cosine: The pairwise cosines; a zero candidate has cosine 0 with every candidate, itself included.
        mean_cosine: The mean cosine of each candidate with all candidates that are not zero, itself included; 0 for a
            zero candidate.
        margin: The selected candidate's mean cosine minus that of the runner-up; NaN where there is no runner-up.
    """

    index: int
    cosine: Float[Tensor, "n_sites n_sites"]
    mean_cosine: Float[Tensor, " n_sites"]
    margin: float


def class_means(
    positive: Float[Tensor, "n_positive n_sites d_model"],
    negative: Float[Tensor, "n_negative n_sites d_model"],
    *,
    unit_samples: bool = False,
) -> tuple[Float[Tensor, "n_sites d_model"], Float[Tensor, "n_sites d_model"]]:
    """Return both class means in float64, of the raw activations or of each activation scaled to unit length.

    With ``unit_samples`` they are the means that the released code of Selective Steering projects. Its eps of 1e-8, for
    zero vectors, is kept.
    """
    x, y = positive.double(), negative.double()
    if unit_samples:
        x, y = unit_samples_of(x), unit_samples_of(y)
    return x.mean(dim=0), y.mean(dim=0)


def check_finite(name: str, *activations: Float[Tensor, "..."]) -> None:
    """Refuse activations with values that are not finite; the message gives their name."""
    if not all(bool(torch.isfinite(x).all()) for x in activations):
        raise LensSteerError(f"{name} holds values that are not finite: record again in float32 or bfloat16")


def candidate_directions(
    mean_positive: Float[Tensor, "n_sites d_model"], mean_negative: Float[Tensor, "n_sites d_model"]
) -> Float[Tensor, "n_sites d_model"]:
    """Return the unit differences of class means, ``(μ⁺ − μ⁻)/‖μ⁺ − μ⁻‖``, in float64; a zero difference stays zero.

    A row counts as zero if its length is at most 1e-6 of the median length. At the norm of the first block, every
    prompt ends in the same template token, so the difference there is only rounding. Source: Selective Steering, Eq. 4.

    >>> candidate_directions(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0]])).tolist()
    [[1.0, 0.0]]
    """
    return unit_rows(mean_positive.double() - mean_negative.double())


def candidates_and_span(
    candidate_norm: str,
    raw: tuple[Float[Tensor, "n_sites d_model"], Float[Tensor, "n_sites d_model"]],
    unit: tuple[Float[Tensor, "n_sites d_model"], Float[Tensor, "n_sites d_model"]],
) -> tuple[Float[Tensor, "n_sites d_model"], Float[Tensor, "n_sites d_model"]]:
    """Return the unit candidates, and the vectors whose principal component spans the plane with one of them.

    Args:
        candidate_norm: ``unit`` (candidates from the raw means, and the same vectors), ``raw`` (their differences as
            they are), ``sample_unit`` (both from the means of unit-scaled samples) or ``angular`` (these means
            scaled to unit length again, and their differences as they are, as in Angular Steering's code).
        raw: The means of both classes, positive first.
        unit: The means of the samples scaled to unit length; read for the last two alone.

    >>> raw = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    >>> unit = torch.tensor([[0.5, 0.0]]), torch.tensor([[0.0, 0.25]])
    >>> [candidates_and_span(norm, raw, unit)[1].tolist() for norm in ("raw", "angular")]
    [[[2.0, -2.0]], [[1.0, -1.0]]]
    """
    if candidate_norm == "angular":
        positive, negative = (x / x.norm(dim=-1, keepdim=True) for x in unit)
        return candidate_directions(positive, negative), positive - negative
    candidates = candidate_directions(*(unit if candidate_norm == "sample_unit" else raw))
    return candidates, raw[0] - raw[1] if candidate_norm == "raw" else candidates


def unit_rows(vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    """Return the rows scaled to unit length in float64; rows that count as zero are set to zero."""
    x = vectors.double()
    lengths = x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return torch.where(zero_rows(x)[:, None], 0.0, x / lengths)


def zero_rows(vectors: Float[Tensor, "n d_model"]) -> Bool[Tensor, " n"]:
    """Return which rows count as zero: those of at most 1e-6 of the median length of all rows longer than 0."""
    norms = vectors.double().norm(dim=-1)
    positive = norms[norms > 0]
    if not len(positive):
        return torch.ones_like(norms, dtype=torch.bool)
    return norms <= ZERO_RELATIVE * positive.median()


def cosine_matrix(vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n n"]:
    """Return the pairwise cosines in float64; a zero row has cosine 0 with every row.

    >>> cosine_matrix(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))[0].tolist()
    [1.0, 1.0, 0.0]
    """
    unit = unit_rows(vectors)
    return unit @ unit.T


def select_direction(candidates: Float[Tensor, "n_sites d_model"]) -> Selection:
    """Select the candidate with the highest mean cosine to all candidates; the first one wins a tie.

    The mean runs over the candidates that are not zero, the candidate itself included. Counting the zero candidates too
    would only scale every mean. Source: Selective Steering, Eqs. 8 and 32.

    Raises:
        LensSteerError: If every candidate is zero.
    """
    zero = zero_rows(candidates)
    if bool(zero.all()):
        raise LensSteerError(
            "every candidate direction is zero: both classes have the same mean at every site; record sites after the "
            "first attention, or check that the two prompt sets differ"
        )
    cosine = cosine_matrix(candidates)
    mean = cosine.sum(dim=1) / int((~zero).sum())
    best = int(torch.where(zero, torch.full_like(mean, -torch.inf), mean).argmax())
    others = mean[~zero & (torch.arange(len(mean)) != best)]
    margin = float(mean[best] - others.max()) if len(others) else float("nan")
    return Selection(best, cosine, mean, margin)
