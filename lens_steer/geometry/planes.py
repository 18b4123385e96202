"""The steering plane: an orthonormal pair (b1, b2), b1 the selected direction, b2 from a principal component.

Selective Steering, Eqs. 35 and 36. The paper does not say whether the candidates are centred before the principal
component is taken. The released code centres them, and the two choices give different planes. Both are available here;
centring is the default.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.geometry.directions import unit_rows, zero_rows

MIN_REMAINDER = 1e-3  # the smallest length of a unit principal component without its part along b1
MAX_GRAM_ERROR = 1e-6


@dataclass(frozen=True)
class Plane:
    """An orthonormal basis of the steering plane, with how it was determined.

    Attributes:
        basis: The rows b1 and b2, float32, orthonormal to 1e-6.
        remainder: ‖PC − (PC·b1) b1‖ of the unit principal component, which tells how well b2 is determined.
        explained: The principal component's share of the candidates' variance.
        sign_rule: The rule that fixed the sign of b2.
    """

    basis: Float[Tensor, "2 d_model"]
    remainder: float
    explained: float
    sign_rule: str


@dataclass(frozen=True)
class PlaneCoordinates:
    """The coordinates of vectors in a plane.

    Attributes:
        coordinates: The projections x·b1 and x·b2.
        radius: The length of the in-plane part.
        angle: ``atan2(x·b2, x·b1)`` in degrees, (−180, 180]; NaN where the radius is 0.
        fraction: The in-plane share of the squared length; NaN for a zero vector.
    """

    coordinates: Float[Tensor, "n 2"]
    radius: Float[Tensor, " n"]
    angle: Float[Tensor, " n"]
    fraction: Float[Tensor, " n"]


def principal_component(
    vectors: Float[Tensor, "n d_model"], *, center: bool = True, component: int = 0
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " k"]]:
    """Return a principal component and the variance shares of all components.

    The component has unit length, and its entry of largest magnitude is positive.

    Args:
        vectors: The rows.
        center: Whether to centre the rows first. False takes the right singular vectors of the rows as they are.
        component: The index of the component, from 0.

    Raises:
        LensSteerError: If there are fewer rows, or fewer distinct ones, than this component needs.
    """
    x = vectors.double()
    x = x - x.mean(dim=0) if center else x
    _, singular, right = torch.linalg.svd(x, full_matrices=False)
    energy = singular**2
    total = float(energy.sum())
    if component >= len(energy) or float(energy[component]) <= 1e-12 * max(total, 1e-300):
        raise LensSteerError(
            f"the candidates have no principal component number {component + 1}: {len(vectors)} of them, or all "
            "alike; record more sites"
        )
    axis = right[component]
    axis = axis * torch.sign(axis[axis.abs().argmax()])
    return axis, energy / total


def gram_schmidt(
    b1: Float[Tensor, " d_model"], b2: Float[Tensor, " d_model"]
) -> tuple[Float[Tensor, "2 d_model"], float]:
    """Return the orthonormal pair of Gram–Schmidt in float64, and ‖b2 − (b2·b1) b1‖/‖b2‖ for a unit b1.

    Raises:
        LensSteerError: If a vector is zero or not finite, or b2 is (nearly) parallel to b1.
    """
    pair = torch.stack([b1, b2]).double()
    if not torch.isfinite(pair).all() or bool((pair.norm(dim=1) == 0).any()):
        raise LensSteerError("the plane's vectors must be finite and not zero")
    first, second = pair / pair.norm(dim=1, keepdim=True)
    rest = second - (second @ first) * first
    remainder = float(rest.norm())
    if remainder < MIN_REMAINDER:
        raise LensSteerError(
            f"the plane is degenerate: b2 is parallel to b1 up to {remainder:.1e} (at least {MIN_REMAINDER:g} is "
            "needed); use another principal component (component=1) or give b2 yourself"
        )
    # A second pass removes the part along b1 that rounding has left.
    rest = rest / remainder
    rest = rest - (rest @ first) * first
    return torch.stack([first, rest / rest.norm()]), remainder


def orthonormalise(
    b1: Float[Tensor, " d_model"], b2: Float[Tensor, " d_model"]
) -> tuple[Float[Tensor, "2 d_model"], float, float]:
    """Return the pair of :func:`gram_schmidt` in float32, with two measures of the pair as given.

    Returns:
        The basis, max|G − I| of the pair as given (G is its Gram matrix), and the share of b2's length that is left
        without its part along b1.
    """
    basis, remainder = gram_schmidt(b1, b2)
    return basis.float(), gram_error(torch.stack([b1, b2])), remainder


def gram_error(basis: Float[Tensor, "2 d_model"]) -> float:
    """Return max|B Bᵀ − I| of the basis rows B, in float64."""
    b = basis.double()
    return float((b @ b.T - torch.eye(2, dtype=torch.float64)).abs().max())


def build_plane(
    candidates: Float[Tensor, "n_sites d_model"],
    selected: int,
    *,
    center: bool = True,
    component: int = 0,
    positive_mean: Float[Tensor, " d_model"] | None = None,
) -> Plane:
    """Build the steering plane of a set of candidates.

    ``b1 = d̂`` and ``b2 ∝ PC − (PC·b1) b1``, in float64 and orthonormalised a second time. Zero candidates are dropped.

    The sign of b2 is chosen so that the positive class's mean projects on it with a value ≥ 0. Without that mean, or if
    its projection is exactly 0, the first nonzero entry of b2 is positive.

    Args:
        candidates: The candidate directions.
        selected: The row of the selected candidate.
        center, component: See :func:`principal_component`.
        positive_mean: The positive class's mean, averaged over the discriminative sites; None where there is none.

    Raises:
        LensSteerError: If fewer than two candidates are nonzero, or the plane is degenerate.
    """
    kept = candidates[~zero_rows(candidates)]
    if len(kept) < 2:
        raise LensSteerError(
            f"a plane needs at least two candidate directions that are not zero, found {len(kept)}: record more sites"
        )
    axis, shares = principal_component(kept, center=center, component=component)
    basis, _, remainder = orthonormalise(unit_rows(candidates[selected : selected + 1])[0], axis)
    projection = 0.0 if positive_mean is None else float(positive_mean.double() @ basis[1].double())
    if projection != 0.0:
        flip, rule = projection < 0, "mean positive projection on b2 over the discriminative sites >= 0"
    else:
        first = basis[1][basis[1] != 0][0]
        flip, rule = bool(first < 0), "first non-zero entry of b2 > 0"
    if flip:
        basis = torch.stack([basis[0], -basis[1]])
    return Plane(basis, remainder, float(shares[component]), rule)


def random_plane(d_model: int, seed: int) -> Float[Tensor, "2 d_model"]:
    """Draw a uniformly random orthonormal pair, the control for every result about a plane.

    >>> gram_error(random_plane(16, seed=0)) < 1e-6
    True
    """
    generator = torch.Generator().manual_seed(seed)
    pair = torch.randn(2, d_model, generator=generator, dtype=torch.float64)
    return orthonormalise(pair[0], pair[1])[0]


def turned_at_random(vectors: Float[Tensor, "n d_model"], seed: int) -> Float[Tensor, "n d_model"]:
    """Rotate all vectors together at random.

    The results are random directions with the same lengths and the same cosines between each other, float32.

    >>> drawn = turned_at_random(torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]]), seed=0)
    >>> round(float(drawn[0].norm()), 5), round(float(drawn[0] @ drawn[1]), 5)
    (1.0, 0.6)
    """
    given = vectors.double()
    _, mixing = torch.linalg.qr(given.mT)  # given = mixingᵀ · orthonormal rows; random rows keep lengths and cosines
    drawn = torch.randn(given.shape[1], len(mixing), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (mixing.mT @ torch.linalg.qr(drawn)[0].mT).float()


def plane_coordinates(vectors: Float[Tensor, "n d_model"], basis: Float[Tensor, "2 d_model"]) -> PlaneCoordinates:
    """Return coordinates, radius, angle and in-plane share of vectors, in float64.

    The basis must be orthonormal.

    >>> plane_coordinates(torch.tensor([[0.0, 2.0, 0.0]]), torch.eye(3)[:2]).angle.tolist()
    [90.0]
    """
    x, b = vectors.double(), basis.double()
    c = x @ b.T
    radius = c.norm(dim=1)
    nothing = torch.full_like(radius, torch.nan)
    angle = torch.where(radius > 0, torch.rad2deg(torch.atan2(c[:, 1], c[:, 0])), nothing)
    squared = x.square().sum(dim=1)
    fraction = torch.where(squared > 0, radius.square() / squared, nothing)
    return PlaneCoordinates(c, radius, angle, fraction)


def candidate_share_in_plane(
    candidates: Float[Tensor, "n_sites d_model"], basis: Float[Tensor, "2 d_model"], *, center: bool
) -> float:
    """Return the in-plane share of the candidates' summed squares, after subtracting their mean row if ``center``."""
    x = candidates.double()
    x = x - x.mean(dim=0) if center else x
    return float((x @ basis.double().T).square().sum() / x.square().sum())


def principal_angles(plane: Float[Tensor, "2 d_model"], others: Float[Tensor, "n 2 d_model"]) -> Float[Tensor, "n 2"]:
    """Return the two principal angles between a plane and each other plane, in degrees, the smaller one first.

    The angles of a plane with NaN entries are NaN. With A the plane and B the other, ``cos θ_i`` are the singular
    values of ``A Bᵀ`` and ``sin θ_i`` those of ``B − B Aᵀ A``. Both enter ``atan2``, so that neither small nor nearly
    right angles lose digits. Every basis must be orthonormal. Source: Björck and Golub (1973), Mathematics of
    Computation 27.

    >>> tilted = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]]])
    >>> [round(a, 3) for a in principal_angles(torch.eye(3)[:2], tilted)[0].tolist()]
    [0.0, 53.13]
    """
    a, found = plane.double(), torch.full((len(others), 2), torch.nan, dtype=torch.float64)
    kept = ~others.isnan().any(dim=2).any(dim=1)
    b = others[kept].double()
    inside = b @ a.T
    cosines, sines = torch.linalg.svdvals(inside), torch.linalg.svdvals(b - inside @ a)
    found[kept] = torch.rad2deg(torch.atan2(sines.flip(1), cosines))
    return found
