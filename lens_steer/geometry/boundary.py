"""A boundary along one direction: the threshold between the two classes, their distance, and their spreads.

The projection-aware methods (arXiv 2604.08169) need it. Here the direction is the calibration's selected difference of
means, and the threshold is the midpoint of the two class means, where the nearest-mean classifier decides. The paper's
own boundary is that of a logistic-regression probe.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from jaxtyping import Float, Float64
from torch import Tensor

from lens_steer._display import Shown
from lens_steer.errors import LensSteerError
from lens_steer.geometry.calibration import Calibration
from lens_steer.models.fits import ModelRef, reference


@dataclass(frozen=True, eq=False)
class Boundary(ModelRef, Shown, view="geometry"):
    """The threshold of a gate and the statistics of both classes, in units of the projection ``ρ = h·v̂``.

    Attributes:
        site: The site at which the direction was read and at which plans write.
        direction: The direction v̂, of unit length.
        threshold: The threshold m.
        mean_positive, std_positive: The mean μ⁺ and the standard deviation σ⁺ (with n − 1) of the positive class's
            projections.
        mean_negative, std_negative: The mean μ⁻ and the standard deviation σ⁻ (with n − 1) of the negative class's
            projections.
        prompt_hashes_positive, prompt_hashes_negative: The hashes (:attr:`~lens_steer.data.Prompt.hash`) of the prompts
            from which it was made; empty where they are not known.
    """

    site: str
    direction: Float[Tensor, " d_model"]
    threshold: float
    mean_positive: float
    std_positive: float
    mean_negative: float
    std_negative: float
    prompt_hashes_positive: tuple[str, ...] = field(default=(), kw_only=True)
    prompt_hashes_negative: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def d_model(self) -> int:
        return len(self.direction)

    @property
    def separation(self) -> float:
        """Return the separation of the class means, Δμ = μ⁺ − μ⁻."""
        return self.mean_positive - self.mean_negative

    def __repr__(self) -> str:
        return (
            f"Boundary({self.site} of {self.model}: m {self.threshold:.4g}, μ⁺ {self.mean_positive:.4g} ± "
            f"{self.std_positive:.2g}, μ⁻ {self.mean_negative:.4g} ± {self.std_negative:.2g})"
        )


def class_statistics(
    positive: Float64[Tensor, " n_positive"], negative: Float64[Tensor, " n_negative"]
) -> tuple[float, float, float, float]:
    """Return mean and standard deviation (n − 1) of the positive class's projections, then of the negative's.

    >>> import torch
    >>> class_statistics(torch.tensor([1.0, 3.0]).double(), torch.tensor([0.0, 0.0]).double())
    (2.0, 1.4142135623730951, 0.0, 0.0)
    """
    return float(positive.mean()), float(positive.std()), float(negative.mean()), float(negative.std())


def boundary(calibration: Calibration, site: str | None = None) -> Boundary:
    """Return the boundary on the calibration's selected direction at one site.

    The threshold is ``m = (μ⁺ + μ⁻)/2`` over the prompts of the fit split.

    Args:
        calibration: A calibration recorded by this project; an imported one has no projections.
        site: The site; None takes the selected site.

    Raises:
        LensSteerError: If the calibration has no projections, the site is unknown, or a class has fewer than two
            prompts.

    >>> from lens_steer import load_calibration
    >>> boundary(load_calibration("figures/calibration")).separation > 0
    True
    """
    name = calibration.selected_site if site is None else site
    found = calibration.statistics
    if found is None:
        raise LensSteerError(
            f"the calibration of {calibration.model!r} has no projections of its prompts (imported, or made from "
            "moments): calibrate on this model with record(…, keep='all'), "
            "or read the boundaries in a second pass with lens_steer.geometry.streamed.boundaries"
        )
    if name not in calibration.sites:
        raise LensSteerError(f"site={name!r} was not recorded: recorded are {', '.join(calibration.sites[:3])}, …")
    column = calibration.sites.index(name)
    positive, negative = (p[:, column].double() for p in (found.projection_positive, found.projection_negative))
    if min(len(positive), len(negative)) < 2:
        raise LensSteerError("a spread needs at least two prompts of each class: calibrate on more prompts")
    return replace(
        midway(calibration, name, class_statistics(positive, negative)),
        prompt_hashes_positive=calibration.prompt_hashes_positive,
        prompt_hashes_negative=calibration.prompt_hashes_negative,
    )


def midway(calibration: Calibration, site: str, statistics: tuple[float, float, float, float]) -> Boundary:
    """Return the boundary at a site halfway between the class means, from :func:`class_statistics`.

    >>> from lens_steer import load_calibration
    >>> calibration = load_calibration("figures/calibration")
    >>> midway(calibration, calibration.selected_site, (3.0, 1.0, -1.0, 1.0)).threshold
    1.0
    """
    threshold = (statistics[0] + statistics[2]) / 2
    return Boundary(site, calibration.basis[0].clone(), threshold, *statistics, **reference(calibration))
