"""Linear probes: a logistic regression at a site, and its boundary in activation space (arXiv 2604.08169).

The probe is ``p(positive | h) = 1 / (1 + exp(−(w·h + b)))``. Its boundary is where ``v̂·h = m``, with ``v̂ = w/‖w‖``
and ``m = −b/‖w‖``. A :class:`Probe` is a :class:`~lens_steer.geometry.boundary.Boundary`, so every method that takes a
boundary takes a probe.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.geometry import logistic
from lens_steer.geometry.boundary import Boundary, class_statistics
from lens_steer.inference.record import Activations
from lens_steer.models.fits import reference

log = logging.getLogger(__name__)

PENALTIES = tuple(10.0**k for k in range(-4, 3))  # the values among which C is chosen
FOLDS = 5
# The name of each number of a boundary in files and tables, and its attribute.
NUMBERS = {
    "threshold": "threshold", "mu_positive": "mean_positive", "mu_negative": "mean_negative",
    "sigma_positive": "std_positive", "sigma_negative": "std_negative",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Probe(Boundary, view="probes"):
    """A logistic-regression probe at one site, with statistics of the projections of its samples.

    Attributes:
        weight, bias: The weight w and the bias b, on the raw activations.
        C: The inverse strength of the L2 penalty.
        standardized: Whether the penalty was on the weight of the standardised features.
        pooling: The meaning of one sample: ``last`` (last prompt token), ``response`` (mean over a response's tokens),
            ``token`` (one token of a response).
        n_positive, n_negative: The numbers of samples of each class.
        split: The split on which it was fitted.
        prompt_hash: The hash of the prompts.
    """

    weight: Float[Tensor, " d_model"]
    bias: float
    C: float
    standardized: bool
    pooling: str
    n_positive: int
    n_negative: int
    split: str
    prompt_hash: str

    @property
    def between(self) -> bool:
        """Return whether the boundary lies between the class means.

        Where it does not, StTP and StMP may move tokens the wrong way.
        """
        return self.mean_negative < self.threshold < self.mean_positive

    @property
    def cohens_d(self) -> float:
        """Return ``Δμ / √((σ⁺² + σ⁻²)/2)``; infinite where neither class has a spread."""
        spread = float(np.sqrt((self.std_positive**2 + self.std_negative**2) / 2))
        return self.separation / spread if spread > 0 else float("inf")

    def project(self, h: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """Return the projection ``ρ = v̂·h``, in float32."""
        return h.float() @ self.direction.to(h.device)

    def probability(self, h: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """Return the probability that an activation is of the positive class."""
        return torch.sigmoid(h.float() @ self.weight.to(h.device) + self.bias)

    def __repr__(self) -> str:
        return (
            f"Probe({super().__repr__()[9:-1]}, C {self.C:g}, {self.pooling}, n {self.n_positive} + {self.n_negative})"
        )


def fit_probe(
    activations: Activations,
    site: str,
    *,
    C: float | int | None = 1.0,
    standardize: bool = False,
    split: str = "fit",
    seed: int = 0,
) -> Probe:
    """Fit the probe at one site: an L2-penalised logistic regression, by default on the raw activations.

    The minimum is unique, so it does not depend on the solver (the paper names L-BFGS; see
    :mod:`lens_steer.geometry.logistic`). A warning is logged if the boundary does not lie between the class means.

    Args:
        activations: The activations of the fit split; response-averaged in the paper
            (``record(…, pooling="response")``).
        site: A recorded site.
        C: The inverse strength of the penalty, 1 in the paper. None chooses among :data:`PENALTIES` by cross-validated
            log loss; groups are never split across folds.
        standardize: Whether to put the penalty on the weight of features divided by their standard deviation.
        split: The name of the split, which is kept with the probe.
        seed: The seed of the folds.

    Raises:
        LensSteerError: If the site was not recorded, a class has fewer than two samples, activations are not finite or
            all the same, C is not above 0, or the fitted weight is zero.

    Source: arXiv 2604.08169, section 3 and algorithm A.1 (L2, C = 1, label 1 = aligned, ``m = −b/‖w‖``; σ with n − 1:
    the paper does not say).

    >>> import lens_steer as ls
    >>> model, contrast = ls.load_model("organism/qwen2"), ls.load_contrast("organism/honesty")
    >>> acts = ls.record(model, contrast, ["blocks.6.hook_resid_post"], pooling="response", progress=False)
    >>> probe = fit_probe(acts, "blocks.6.hook_resid_post")
    >>> probe.between, probe.n_positive
    (True, 84)
    """
    positive, negative = activations.at(site)
    x, labels = stacked(positive, negative)
    samples = logistic.prepare(x, standardize=standardize)
    if C is None:
        C = choose_penalty(x, labels, groups_of(activations), standardize=standardize, seed=seed)
    weight, bias = logistic.fit(samples, labels, C=float(C))
    norm = float(np.linalg.norm(weight))
    if norm == 0:
        raise LensSteerError(
            f"the probe at {site} has no direction (w = 0): the classes do not differ there; choose another site"
        )
    unit = torch.from_numpy(weight / norm)
    probe = Probe(
        site,
        unit.float(),
        -bias / norm,
        *class_statistics(positive.double() @ unit, negative.double() @ unit),
        torch.from_numpy(weight).float(),
        bias,
        float(C),
        standardize,
        activations.pooling,
        len(positive),
        len(negative),
        split,
        activations.prompt_hash,
        **reference(activations),
        prompt_hashes_positive=activations.hashes_positive,
        prompt_hashes_negative=activations.hashes_negative,
    )
    if not probe.between:
        log.warning(
            "the boundary at %s (m = %.4g) does not lie between the class means (%.4g and %.4g): StTP and StMP "
            "may move tokens the wrong way",
            site,
            probe.threshold,
            probe.mean_negative,
            probe.mean_positive,
        )
    return probe


def stacked(
    positive: Float[Tensor, "n_positive d_model"], negative: Float[Tensor, "n_negative d_model"]
) -> tuple[Float[np.ndarray, "n d_model"], Bool[np.ndarray, " n"]]:
    """Return both classes as samples and labels, the positive ones first.

    Raises:
        LensSteerError: If a class has fewer than two samples.
    """
    if min(len(positive), len(negative)) < 2:
        raise LensSteerError(
            f"a probe needs at least two samples of each class: there are {len(positive)} and {len(negative)}"
        )
    x = torch.cat([positive, negative]).double().numpy()
    return x, np.arange(len(x)) < len(positive)


def groups_of(activations: Activations) -> tuple[str, ...]:
    """Return the group of each sample, the positive ones first.

    Where groups are not known, each sample is its own group.
    """
    known = (*activations.groups_positive, *activations.groups_negative)
    return known or tuple(map(str, range(len(activations.positive) + len(activations.negative))))


def choose_penalty(
    x: Float[np.ndarray, "n d_model"],
    labels: Bool[np.ndarray, " n"],
    groups: Sequence[str],
    *,
    standardize: bool = False,
    seed: int = 0,
) -> float:
    """Return the C of :data:`PENALTIES` with the smallest log loss on held-out folds.

    Of several with the same loss, it is the strongest penalty.

    Raises:
        LensSteerError: If a class has fewer than two groups.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    fewest = min(len({g for g, own in zip(groups, labels, strict=True) if own == side}) for side in (True, False))
    if fewest < 2:
        raise LensSteerError("C=None needs at least two scenarios of each class to hold some out: give C")
    folds = StratifiedGroupKFold(min(FOLDS, fewest), shuffle=True, random_state=seed)
    loss = np.zeros(len(PENALTIES))
    for fitted, held in folds.split(x, labels, np.asarray(groups)):
        samples = logistic.prepare(x[fitted], standardize=standardize)
        for i, penalty in enumerate(PENALTIES):
            weight, bias = logistic.fit(samples, labels[fitted], C=penalty)
            margin = (x[held] @ weight + bias) * np.where(labels[held], 1.0, -1.0)
            loss[i] += np.logaddexp(0.0, -margin).sum()
    return PENALTIES[int(np.argmin(loss))]
