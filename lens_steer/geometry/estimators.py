"""Estimators of the direction that separates two classes at one site; the difference of means is one of them.

An estimator takes the activations of the positive and the negative class at a site. It returns a unit vector in float64
on which the mean of the positive class projects higher, or zeros where both means are equal. :data:`ESTIMATORS` holds
them by name. Options are set with ``functools.partial``, and an entry added to :data:`ESTIMATORS` can be named wherever
a name is accepted.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from lens_steer.errors import LensSteerError
from lens_steer.geometry import logistic as regression
from lens_steer.geometry.directions import candidate_directions, check_finite, class_means, unit_rows, zero_rows

Estimator = Callable[[Tensor, Tensor], Tensor]

MIN_SHRINKAGE = 1e-9  # keeps the shrunk covariance invertible where the intensity is 0
INTERCEPT_SCALING = 1000  # liblinear penalises the intercept too; scaling it weakens that penalty


def difference(
    positive: Float[Tensor, "n_positive d_model"], negative: Float[Tensor, "n_negative d_model"]
) -> Float[Tensor, " d_model"]:
    """Return the unit difference of class means, ``(μ⁺ − μ⁻)/‖μ⁺ − μ⁻‖``, the default of every calibration.

    The "mass-mean" probe of Marks and Tegmark (arXiv 2310.06824) has this direction. Source: Selective Steering (arXiv
    2601.19375), Eq. 4.

    Raises:
        LensSteerError: If a class has fewer than two samples, or values are not finite.

    >>> difference(torch.tensor([[2.0, 1.0], [4.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])).tolist()
    [1.0, 0.0]
    """
    return _unit(_classes(positive, negative)[2])


def fisher(
    positive: Float[Tensor, "n_positive d_model"], negative: Float[Tensor, "n_negative d_model"]
) -> Float[Tensor, " d_model"]:
    """Return Fisher's direction with a shrunk covariance, ``Σ⁻¹(μ⁺ − μ⁻)`` scaled to unit length.

    ``Σ = (1 − δ) S + δ (tr S / d) I`` with ``S = RᵀR / n``, where the rows of R are the residuals, each class centred
    on its own mean. The intensity δ is that of Ledoit and Wolf. It is computed from the squared lengths of the
    residuals and their singular values. Σ is a multiple of the identity plus a matrix of rank at most n. It is
    therefore inverted in two parts, within the span of the residuals' right singular vectors and outside it. This takes
    O(n² d) for n < d, and no d × d matrix.

    Raises:
        LensSteerError: If a class has fewer than two samples, or values are not finite.

    Source: Ledoit and Wolf (2004), Journal of Multivariate Analysis 88, 365–411.

    >>> spread = torch.tensor([[0.0, 9.0], [0.0, -9.0], [0.1, 0.0], [-0.1, 0.0]])
    >>> shift = torch.tensor([1.0, 1.0])
    >>> bool(fisher(spread + shift, spread - shift)[0] > difference(spread + shift, spread - shift)[0])
    True
    """
    x, y, gap = _classes(positive, negative)
    residuals = torch.cat([x - x.mean(dim=0), y - y.mean(dim=0)])
    n, d_model = residuals.shape
    _, singular, right = torch.linalg.svd(residuals, full_matrices=False)
    variances = singular.square() / n
    mean_variance = float(variances.sum()) / d_model
    if mean_variance == 0:
        return _unit(gap)
    intensity = max(_ledoit_wolf(residuals, variances), MIN_SHRINKAGE)
    ridge = intensity * mean_variance
    inside = right @ gap
    solved = (inside / ((1 - intensity) * variances + ridge)) @ right
    if len(right) < d_model:
        solved = solved + (gap - inside @ right) / ridge
    return _unit(solved)


def paired_pca(
    positive: Float[Tensor, "n d_model"], negative: Float[Tensor, "n_negative d_model"]
) -> Float[Tensor, " d_model"]:
    """Return the first principal component of the differences of paired prompts, ``x_i⁺ − x_i⁻`` in the given order.

    The differences are neither centred nor scaled: the direction is their first right singular vector, along which
    their mean square is largest. Its sign is chosen so that the mean difference projects on it with a value ≥ 0; if
    that value is exactly 0, the entry of largest magnitude is positive. A nuisance feature that the two prompts of a
    pair share cancels. If prompts are paired at random, it does not cancel.

    Raises:
        LensSteerError: If the classes have different sizes, a class has fewer than two samples, or values are not
            finite.

    Source: Representation Engineering (arXiv 2310.01405) pairs prompts and takes a first component. Its released code
    draws the order inside each pair at random and centres the differences; neither is done here.

    >>> common = torch.tensor([[0.0, 5.0], [0.0, -7.0]])
    >>> paired_pca(common + torch.tensor([1.0, 0.0]), common).tolist()
    [1.0, 0.0]
    """
    x, y, gap = _classes(positive, negative)
    _check_pairs(len(x), len(y))
    if not bool(gap.any()):
        return gap
    axis = torch.linalg.svd(x - y, full_matrices=False)[2][0]
    along = float(axis @ gap) or float(axis[axis.abs().argmax()])
    return _unit(axis * math.copysign(1.0, along))


def logistic(
    positive: Float[Tensor, "n_positive d_model"],
    negative: Float[Tensor, "n_negative d_model"],
    *,
    C: float | int = 1.0,
) -> Float[Tensor, " d_model"]:
    """Return the unit normal of an L2 logistic regression on raw features, with an intercept that is not penalised.

    It minimises ``½‖w‖² + C Σ log(1 + exp(−y (w·x + b)))`` in the span of the samples, which contains the minimum. At
    the minimum the mean of the positive class projects higher on w, and w is 0 only where both means are equal.

    Args:
        positive, negative: The activations of both classes.
        C: The inverse strength of the penalty.

    Raises:
        LensSteerError: If C is not above 0, the fit does not converge, a class has fewer than two samples, or values
            are not finite.

    Source: arXiv 2604.08169 steers along this normal, fitted with C = 1 by L-BFGS. The minimum, and so the normal, does
    not depend on the solver.

    >>> logistic(torch.tensor([[2.0, 1.0], [4.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])).tolist()
    [1.0, 0.0]
    """
    x, y, gap = _classes(positive, negative)
    if not bool(gap.any()):
        return gap
    weight, _ = regression.fit(regression.prepare(torch.cat([x, y]).numpy()), _labels(x, y), C=C)
    return _unit(torch.from_numpy(weight))


def sparse(
    positive: Float[Tensor, "n_positive d_model"],
    negative: Float[Tensor, "n_negative d_model"],
    *,
    C: float | int = 1.0,
) -> Float[Tensor, " d_model"]:
    """Return the unit normal of an L1 logistic regression: a direction with few nonzero coordinates.

    It minimises ``‖v‖₁ + C Σ log(1 + exp(−y (v·z + b)))`` over the features ``z = (x − mean)/s``, where s is the pooled
    within-class standard deviation of each feature (1 for a feature that is constant within both classes). The
    direction is ``v/s``, scaled to unit length. ``torch.count_nonzero(direction)`` gives the number of nonzero
    coordinates. Unlike every other estimator here, this one depends on the basis in which the activations are written.

    Args:
        positive, negative: The activations of both classes.
        C: The inverse strength of the penalty; a smaller value leaves fewer coordinates. If C is too small, no
            coordinate is left and the direction is zero.

    Raises:
        LensSteerError: If C is not above 0, the fit does not converge, a class has fewer than two samples, or values
            are not finite.

    >>> x = torch.tensor([[3.0, 0.2, 0.1], [2.0, -0.2, 0.0], [2.5, 0.1, -0.1]])
    >>> torch.count_nonzero(sparse(x, -x)).item()
    1
    """
    regression.check_penalty(C)
    x, y, gap = _classes(positive, negative)
    if not bool(gap.any()):
        return gap
    squares = (x - x.mean(dim=0)).square().sum(dim=0) + (y - y.mean(dim=0)).square().sum(dim=0)
    scale = (squares / (len(x) + len(y) - 2)).sqrt()
    scale = torch.where(zero_rows(scale[:, None]), torch.ones_like(scale), scale)
    both = torch.cat([x, y])
    features = ((both - both.mean(dim=0)) / scale).numpy()
    how = {"solver": "liblinear", "intercept_scaling": INTERCEPT_SCALING, "tol": 1e-6, "max_iter": 20_000, **_l1()}
    model = regression.converged("sparse fit", features, _labels(x, y), C, random_state=0, **how)
    return _unit(torch.from_numpy(model.coef_[0]) / scale)


ESTIMATORS: dict[str, Estimator] = {
    "difference": difference, "fisher": fisher, "paired_pca": paired_pca, "logistic": logistic, "sparse": sparse,
}  # fmt: skip


def check_estimator(name: str) -> None:
    """Refuse a name that :data:`ESTIMATORS` does not have.

    Raises:
        LensSteerError: If the name is unknown.
    """
    if name not in ESTIMATORS:
        raise LensSteerError(f"direction={name!r}: use one of {', '.join(ESTIMATORS)}")


def check_classes(name: str, n_positive: int, n_negative: int) -> None:
    """Refuse, before anything is recorded, numbers of prompts on which an estimator cannot calibrate.

    ``difference`` accepts any numbers.

    Raises:
        LensSteerError: If the name is unknown, a class has fewer than two prompts, or the classes have different sizes
            for ``paired_pca``.
    """
    check_estimator(name)
    if name == "difference":
        return
    for side, n in (("positive", n_positive), ("negative", n_negative)):
        _check_count(side, n)
    if name == "paired_pca":
        _check_pairs(n_positive, n_negative)


def site_directions(
    name: str,
    positive: Float[Tensor, "n_positive n_sites d_model"],
    negative: Float[Tensor, "n_negative n_sites d_model"],
    *,
    progress: bool = True,
) -> Float[Tensor, "n_sites d_model"]:
    """Return the directions at every site by a named estimator.

    A direction is zero where the difference of means counts as zero, in comparison with the other sites
    (:func:`~lens_steer.geometry.directions.zero_rows`).

    Raises:
        LensSteerError: If the name is unknown, or the estimator refuses the samples.
    """
    check_estimator(name)
    found = candidate_directions(*class_means(positive, negative))
    if name == "difference":
        return found
    kept = (~zero_rows(found)).nonzero().flatten().tolist()
    for k in tqdm(kept, desc=name, unit="site", delay=1, disable=not progress, leave=False):
        found[k] = ESTIMATORS[name](positive[:, k], negative[:, k])
    return found


def _classes(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Check both classes and return them in float64, with the difference of their means."""
    for name, side in (("positive", positive), ("negative", negative)):
        _check_count(name, len(side))
        check_finite(name, side)
    means = class_means(positive[:, None], negative[:, None])
    return positive.double(), negative.double(), (means[0] - means[1])[0]


def _check_count(name: str, n: int) -> None:
    if n < 2:
        raise LensSteerError(
            f"{name} holds {n} prompts: an estimated direction needs at least two of each class, add some"
        )


def _check_pairs(n_positive: int, n_negative: int) -> None:
    if n_positive != n_negative:
        raise LensSteerError(
            f"direction='paired_pca' pairs prompts in their order, found {n_positive} positive and {n_negative} "
            "negative ones: use as many of each, or another estimator"
        )


def _unit(vector: Tensor) -> Tensor:
    return unit_rows(vector[None])[0]


def _labels(positive: Tensor, negative: Tensor) -> np.ndarray:
    return np.repeat([True, False], [len(positive), len(negative)])


def _ledoit_wolf(residuals: Tensor, variances: Tensor) -> float:
    """Return Ledoit and Wolf's intensity, from the residuals and the eigenvalues λ of S, which are already computed.

    The mean of the samples is known to be 0. The intensity is ``min(1, (Σ_k ‖r_k‖⁴/n − ‖S‖²)/n / (‖S‖² − tr²S/d))``
    with the Frobenius norm ``‖S‖² = Σ λ²``. scikit-learn's ``ledoit_wolf_shrinkage`` gives the same number from all d ×
    d products, in O(n d²); this function takes O(n d).
    """
    n, d_model = residuals.shape
    squared = float(variances.square().sum())
    sampling = (float(residuals.square().sum(dim=1).square().sum()) / n - squared) / n
    excess = squared - float(variances.sum()) ** 2 / d_model
    return 0.0 if sampling <= 0 else 1.0 if excess <= sampling else sampling / excess


def _l1() -> dict[str, Any]:
    """Return the arguments that ask the installed scikit-learn for an L1 penalty.

    ``penalty`` is removed in scikit-learn 1.10, in favour of ``l1_ratio``.
    """
    from sklearn.linear_model import LogisticRegression

    penalty = inspect.signature(LogisticRegression).parameters.get("penalty")
    return {"penalty": "l1"} if penalty is not None and penalty.default == "l2" else {"l1_ratio": 1.0}
