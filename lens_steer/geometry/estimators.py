"""Ways to estimate the direction that tells two classes apart at one site; the difference of their means is only one of
them.

An estimator takes the activations of the positive and of the negative class at a site and gives a unit vector in
float64 on which the positive class's mean lies higher; where both means are equal it gives zeros. :data:`ESTIMATORS`
has them by name. Options are set with ``functools.partial``, and an entry added to :data:`ESTIMATORS` can be named
wherever a name is asked for.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from lens_steer.errors import LensSteerError
from lens_steer.geometry import logistic as regression
from lens_steer.geometry.directions import candidate_directions, class_means, unit_rows, zero_rows

Estimator = Callable[[Tensor, Tensor], Tensor]

MIN_SHRINKAGE = 1e-9  # keeps the shrunk covariance invertible where the intensity is 0
INTERCEPT_SCALING = 1000  # liblinear penalises the intercept too, less by this factor


def difference(
    positive: Float[Tensor, "n_positive d_model"], negative: Float[Tensor, "n_negative d_model"]
) -> Float[Tensor, " d_model"]:
    """Unit difference of class means, ``(μ⁺ − μ⁻)/‖μ⁺ − μ⁻‖``: what every calibration uses unless asked otherwise.

    The "mass-mean" probe of Marks and Tegmark (arXiv 2310.06824) has this direction. Source: Selective Steering (arXiv
    2601.19375), Eq. 4.

    Raises:
        LensSteerError: fewer than two samples of a class, or values that are not finite.

    >>> difference(torch.tensor([[2.0, 1.0], [4.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])).tolist()
    [1.0, 0.0]
    """
    return _unit(_classes(positive, negative)[2])


def fisher(
    positive: Float[Tensor, "n_positive d_model"], negative: Float[Tensor, "n_negative d_model"]
) -> Float[Tensor, " d_model"]:
    """Fisher's direction with a shrunk covariance, ``Σ⁻¹(μ⁺ − μ⁻)`` scaled to unit length.

    ``Σ = (1 − δ) S + δ (tr S / d) I`` with ``S = RᵀR / n`` of the residuals R, each class centred on its own mean. The
    intensity δ is Ledoit and Wolf's, computed from the squared lengths of the residuals and their singular values. Σ is
    the identity plus a matrix of rank at most n, so it is inverted on the residuals' right singular vectors and outside
    them apart: O(n² d) for n < d, and no d × d matrix.

    Raises:
        LensSteerError: fewer than two samples of a class, or values that are not finite.

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
    """First principal component of the differences of paired prompts, ``x_i⁺ − x_i⁻`` in the order given.

    The differences are neither centred nor scaled: the direction is their first right singular vector, along which
    their mean square is largest. Its sign makes the mean difference project with a value ≥ 0; at exactly 0 the entry of
    largest magnitude is positive. Where pairs share a nuisance it cancels; where prompts are paired at random it does
    not.

    Raises:
        LensSteerError: classes of different size, fewer than two samples of a class, or values that are not finite.

    Source: Representation Engineering (arXiv 2310.01405) pairs prompts and takes a first component; its released code
    draws the order inside each pair at random and centres the differences, of which neither is done here.

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
    """Unit normal of an L2 logistic regression on raw features, with an intercept that is not penalised.

    Minimises ``½‖w‖² + C Σ log(1 + exp(−y (w·x + b)))`` in the span of the samples, where the minimum lies. At the
    minimum the positive mean projects higher on w, and w is 0 only where both means are equal.

    Args:
        C: inverse strength of the penalty.

    Raises:
        LensSteerError: C not above 0, a fit that does not converge, fewer than two samples of a class, or values that
            are not finite.

    Source: arXiv 2604.08169 steers along this normal, fit with C = 1 by L-BFGS. The minimum, and so the normal, does
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
    """Unit normal of an L1 logistic regression: a direction with few coordinates that are not zero.

    Minimises ``‖v‖₁ + C Σ log(1 + exp(−y (v·z + b)))`` over features ``z = (x − mean)/s`` divided by their pooled
    within-class standard deviation s (one that is constant within both classes is divided by 1); the direction is
    ``v/s``, scaled to unit length. How many coordinates are left is ``torch.count_nonzero(direction)``. Which basis the
    activations are written in matters, unlike for every other estimator here.

    Args:
        C: inverse strength of the penalty; smaller leaves fewer coordinates. Below a bound none is left and the
            direction is zero.

    Raises:
        LensSteerError: C not above 0, a fit that does not converge, fewer than two samples of a class, or values that
            are not finite.

    >>> x = torch.tensor([[3.0, 0.2, 0.1], [2.0, -0.2, 0.0], [2.5, 0.1, -0.1]])
    >>> torch.count_nonzero(sparse(x, -x)).item()
    1
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if not C > 0:
        raise LensSteerError(f"C={C}: the inverse strength of the penalty is above 0")
    x, y, gap = _classes(positive, negative)
    if not bool(gap.any()):
        return gap
    squares = (x - x.mean(dim=0)).square().sum(dim=0) + (y - y.mean(dim=0)).square().sum(dim=0)
    scale = (squares / (len(x) + len(y) - 2)).sqrt()
    scale = torch.where(zero_rows(scale[:, None]), torch.ones_like(scale), scale)
    both = torch.cat([x, y])
    model = LogisticRegression(
        C=float(C),
        solver="liblinear",
        intercept_scaling=INTERCEPT_SCALING,
        tol=1e-6,
        max_iter=20_000,
        random_state=0,
        **_l1(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(((both - both.mean(dim=0)) / scale).numpy(), _labels(x, y))
        except ConvergenceWarning as warning:
            raise LensSteerError(f"the sparse fit at C={C} does not converge ({warning}): take a smaller C") from None
    return _unit(torch.from_numpy(model.coef_[0]) / scale)


ESTIMATORS: dict[str, Estimator] = {
    "difference": difference, "fisher": fisher, "paired_pca": paired_pca, "logistic": logistic, "sparse": sparse,
}  # fmt: skip


def check_estimator(name: str) -> None:
    """Raises :class:`LensSteerError` for a name that :data:`ESTIMATORS` does not have."""
    if name not in ESTIMATORS:
        raise LensSteerError(f"direction={name!r}: use one of {', '.join(ESTIMATORS)}")


def check_classes(name: str, n_positive: int, n_negative: int) -> None:
    """Refuse, before anything is recorded, prompts that a named estimator cannot calibrate on; ``difference`` takes
    any.

    Raises:
        LensSteerError: an unknown name, fewer than two prompts of a class, or classes of different size for
            ``paired_pca``.
    """
    check_estimator(name)
    if name == "difference":
        return
    for side, n in (("positive", n_positive), ("negative", n_negative)):
        _check_count(side, n)
    if name == "paired_pca":
        _check_pairs(n_positive, n_negative)


def estimate(
    name: str, positive: Float[Tensor, "n_positive d_model"], negative: Float[Tensor, "n_negative d_model"]
) -> Float[Tensor, " d_model"]:
    """The direction at one site by a named estimator.

    Raises:
        LensSteerError: an unknown name, and what the estimator raises.

    >>> estimate("fisher", torch.tensor([[2.0], [4.0]]), torch.tensor([[0.0], [1.0]])).tolist()
    [1.0]
    """
    check_estimator(name)
    return ESTIMATORS[name](positive, negative)


def site_directions(
    name: str,
    positive: Float[Tensor, "n_positive n_sites d_model"],
    negative: Float[Tensor, "n_negative n_sites d_model"],
    *,
    progress: bool = True,
) -> Float[Tensor, "n_sites d_model"]:
    """The directions at every site by a named estimator, zero where the difference of means counts as zero beside the
    other sites'.

    Raises:
        LensSteerError: an unknown name, and what the estimator raises.
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
    """Both classes in float64 and the difference of their means, once they are fit to be used."""
    for name, side in (("positive", positive), ("negative", negative)):
        _check_count(name, len(side))
        if not bool(torch.isfinite(side).all()):
            raise LensSteerError(f"{name} holds values that are not finite: record again in float32 or bfloat16")
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
            "negative ones: "
            "use as many of each, or another estimator"
        )


def _unit(vector: Tensor) -> Tensor:
    return unit_rows(vector[None])[0]


def _labels(positive: Tensor, negative: Tensor) -> np.ndarray:
    return np.repeat([True, False], [len(positive), len(negative)])


def _ledoit_wolf(residuals: Tensor, variances: Tensor) -> float:
    """Ledoit and Wolf's intensity for samples whose mean is known to be 0, from what is at hand.

    ``min(1, (Σ_k ‖r_k‖⁴/n − ‖S‖²)/n / (‖S‖² − tr²S/d))`` with the Frobenius norm ``‖S‖² = Σ λ²``, λ the eigenvalues of
    S. scikit-learn's ``ledoit_wolf_shrinkage`` gives the same number from all d × d products, O(n d²); this one takes
    O(n d).
    """
    n, d_model = residuals.shape
    squared = float(variances.square().sum())
    sampling = (float(residuals.square().sum(dim=1).square().sum()) / n - squared) / n
    excess = squared - float(variances.sum()) ** 2 / d_model
    return 0.0 if sampling <= 0 else 1.0 if excess <= sampling else sampling / excess


def _l1() -> dict[str, Any]:
    """How this release of scikit-learn is asked for an L1 penalty; ``penalty`` goes away in 1.10."""
    from sklearn.linear_model import LogisticRegression

    penalty = inspect.signature(LogisticRegression).parameters.get("penalty")
    return {"penalty": "l1"} if penalty is not None and penalty.default == "l2" else {"l1_ratio": 1.0}
