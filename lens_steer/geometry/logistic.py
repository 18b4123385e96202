"""Logistic regression with an L2 penalty, in the span of its samples."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from lens_steer.errors import LensSteerError

MAX_RANK_NEWTON = 2048  # coordinates up to which Newton's method is the quicker one


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples prepared for any number of fits to other labels or weights.

    With the penalty on ``w`` alone a fit neither depends on where the origin lies nor has a part of w outside the span
    of the centred samples, so it is done in the coordinates of an orthonormal basis of that span: at most n − 1 of them
    however wide the samples are, with the same minimum.

    Attributes:
        coordinates: of the centred (and scaled) samples.
        basis: of their span, orthonormal rows.
        mean: of the samples.
        scale: what each feature was divided by.
    """

    coordinates: Float[np.ndarray, "n rank"]
    basis: Float[np.ndarray, "rank d_model"]
    mean: Float[np.ndarray, " d_model"]
    scale: Float[np.ndarray, " d_model"]


def prepare(x: Float[np.ndarray, "n d_model"], *, standardize: bool = False) -> Samples:
    """Centre, scale if asked to (by each feature's standard deviation; a constant feature by 1), and turn into the
    span.

    Raises:
        LensSteerError: samples that are not finite, or that are all the same.

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
    """The weight and bias, on the raw features, that minimise
    ``½‖w‖² + C Σ_i weight_i log(1 + exp(−y_i (w·x_i + b)))``, y = ±1.

    Args:
        samples: from :func:`prepare`; with ``standardize`` the penalty is on the scaled features' weight.
        labels: True for the positive class.
        C: inverse strength of the penalty.
        weights: of each sample; resampled prompts are counts. One each unless given.

    Raises:
        LensSteerError: one class only, C not above 0, a fit that does not converge.

    >>> w, b = fit(prepare(np.array([[1.0], [2.0], [4.0], [5.0]])), np.array([False, False, True, True]))
    >>> bool(w[0] > 0), round(float(-b / w[0]), 3)
    (True, 3.0)
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if not C > 0:
        raise LensSteerError(f"C={C}: the inverse strength of the penalty is above 0")
    counted = labels if weights is None else labels[weights > 0]
    if counted.all() or not counted.any():
        raise LensSteerError("all samples are of one class: a probe needs both")
    solver = "newton-cholesky" if samples.coordinates.shape[1] <= MAX_RANK_NEWTON else "lbfgs"
    model = LogisticRegression(C=float(C), solver=solver, tol=1e-8, max_iter=5000)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(samples.coordinates, labels, sample_weight=weights)
        except ConvergenceWarning as warning:
            raise LensSteerError(
                f"the logistic regression at C={C} does not converge ({warning}): take a smaller C"
            ) from None
    weight = (model.coef_[0] @ samples.basis) / samples.scale
    return weight, float(np.asarray(model.intercept_)[0] - weight @ samples.mean)


def probabilities(
    x: Float[np.ndarray, "n d_model"], weight: Float[np.ndarray, " d_model"], bias: float
) -> Float[np.ndarray, " n"]:
    """``1 / (1 + exp(−(w·x + b)))``, without overflow.

    >>> probabilities(np.array([[2.0], [-1e6]]), np.array([1.0]), -2.0).tolist()
    [0.5, 0.0]
    """
    return np.exp(-np.logaddexp(0.0, -(np.asarray(x, dtype=np.float64) @ weight + bias)))
