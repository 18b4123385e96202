"""Logistic regression with an L2 penalty, in the span of its samples."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from lens_steer.errors import LensSteerError

MAX_RANK_NEWTON = 2048  # up to this many coordinates Newton's method is faster than L-BFGS


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples that are prepared for any number of fits with other labels or weights.

    The penalty acts on ``w`` alone. A fit then does not depend on the origin, and w has no part outside the span of the
    centred samples. The fit is therefore done in the coordinates of an orthonormal basis of this span. These are at
    most n − 1, however wide the samples are, and the minimum is the same.

    Attributes:
        coordinates: The coordinates of the centred (and scaled) samples.
        basis: The orthonormal rows that span the samples.
        mean: The mean of the samples.
        scale: The number by which each feature was divided.
    """

    coordinates: Float[np.ndarray, "n rank"]
    basis: Float[np.ndarray, "rank d_model"]
    mean: Float[np.ndarray, " d_model"]
    scale: Float[np.ndarray, " d_model"]


def prepare(x: Float[np.ndarray, "n d_model"], *, standardize: bool = False) -> Samples:
    """Centre the samples, scale them if asked, and express them in an orthonormal basis of their span.

    Args:
        x: The samples.
        standardize: Whether to divide each feature by its standard deviation (a constant feature by 1).

    Raises:
        LensSteerError: If samples are not finite, or all the same.

    >>> prepare(np.array([[1.0, 0.0], [3.0, 0.0]])).basis.shape
    (1, 2)
    """
    x = np.asarray(x, dtype=np.float64)
    if not np.isfinite(x).all():
        raise LensSteerError("samples hold values that are not finite: record activations again in float32 or bfloat16")
    mean, scale = x.mean(axis=0), np.ones(x.shape[1])
    if standardize:
        scale = x.std(axis=0)
        scale[scale == 0] = 1.0
    left, singular, basis = np.linalg.svd((x - mean) / scale, full_matrices=False)
    kept = singular > singular.max(initial=0.0) * max(x.shape) * np.finfo(np.float64).eps
    if not kept.any():
        raise LensSteerError("all samples are the same: there is nothing to tell apart; choose another site")
    return Samples(left[:, kept] * singular[kept], basis[kept], mean, scale)


def fit(
    samples: Samples,
    labels: Bool[np.ndarray, " n"],
    *,
    C: float | int = 1.0,
    weights: Float[np.ndarray, " n"] | None = None,
) -> tuple[Float[np.ndarray, " d_model"], float]:
    """Fit the weight and the bias of a logistic regression, on the raw features.

    They minimise ``½‖w‖² + C Σ_i weight_i log(1 + exp(−y_i (w·x_i + b)))``, y = ±1.

    Args:
        samples: The samples, from :func:`prepare`; with ``standardize`` the penalty is on the weight of the scaled
            features.
        labels: True for the positive class.
        C: The inverse strength of the penalty.
        weights: The weight of each sample, such as the counts of resampled prompts; None weights every sample by 1.

    Returns:
        The weight and the bias.

    Raises:
        LensSteerError: If all samples are of one class, C is not above 0, or the fit does not converge.

    >>> w, b = fit(prepare(np.array([[1.0], [2.0], [4.0], [5.0]])), np.array([False, False, True, True]))
    >>> bool(w[0] > 0), round(float(-b / w[0]), 3)
    (True, 3.0)
    """
    check_penalty(C)
    counted = labels if weights is None else labels[weights > 0]
    if counted.all() or not counted.any():
        raise LensSteerError("all samples are of one class: a probe needs both")
    solver = "newton-cholesky" if samples.coordinates.shape[1] <= MAX_RANK_NEWTON else "lbfgs"
    how = {"solver": solver, "tol": 1e-8, "max_iter": 5000}
    model = converged("logistic regression", samples.coordinates, labels, C, weights, **how)
    weight = (model.coef_[0] @ samples.basis) / samples.scale
    return weight, float(np.asarray(model.intercept_)[0] - weight @ samples.mean)


def check_penalty(C: float | int) -> None:
    """Refuse an inverse strength of a penalty that is not above 0."""
    if not C > 0:
        raise LensSteerError(f"C={C}: the inverse strength of the penalty is above 0")


def converged(
    what: str,
    x: Float[np.ndarray, "n d"],
    labels: Bool[np.ndarray, " n"],
    C: float | int,
    weights: Float[np.ndarray, " n"] | None = None,
    **how: Any,
) -> Any:
    """Return scikit-learn's ``LogisticRegression`` with the options ``how``, fitted to samples.

    Raises:
        LensSteerError: If the fit does not converge; the message names it by ``what``.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            return LogisticRegression(C=float(C), **how).fit(x, labels, sample_weight=weights)
        except ConvergenceWarning as warning:
            raise LensSteerError(f"the {what} at C={C} does not converge ({warning}): take a smaller C") from None


def probabilities(
    x: Float[np.ndarray, "n d_model"], weight: Float[np.ndarray, " d_model"], bias: float
) -> Float[np.ndarray, " n"]:
    """Return ``1 / (1 + exp(−(w·x + b)))``, computed without overflow.

    >>> probabilities(np.array([[2.0], [-1e6]]), np.array([1.0]), -2.0).tolist()
    [0.5, 0.0]
    """
    return np.exp(-np.logaddexp(0.0, -(np.asarray(x, dtype=np.float64) @ weight + bias)))
