"""The three rotations against their identities and against an independent dense form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.operators.rotation import adaptive_angular, selective_rotation, standard_angular

SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.integers(2, 40)
ANGLES = st.floats(-720, 720, allow_nan=False)
LEADING = st.sampled_from([(), (1,), (5,), (2, 3)])
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def draw(seed: int, d_model: int, leading: tuple[int, ...] = (5,)) -> tuple[Tensor, Tensor]:
    """Vectors and an exactly orthonormal float64 basis."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(d_model, 2, generator=generator, dtype=torch.float64)).Q.T
    return torch.randn(*leading, d_model, generator=generator, dtype=torch.float64), basis


def dense(h: Tensor, basis: Tensor, angle: float) -> Tensor:
    """(I − P + B R Bᵀ) h with the full d×d matrix, written out."""
    t = math.radians(angle)
    r = torch.tensor([[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]], dtype=torch.float64)
    matrix = torch.eye(h.shape[-1], dtype=torch.float64) - basis.T @ basis + basis.T @ r @ basis
    return h @ matrix.T


def phase(h: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    c = h @ basis.T
    return torch.atan2(c[..., 1], c[..., 0]), c.norm(dim=-1)


@given(SEEDS, SIZES, ANGLES, LEADING)
@settings(deadline=None, max_examples=80)
def test_norms_are_kept(seed: int, d_model: int, angle: float, leading: tuple[int, ...]) -> None:
    """To 1e-12 in float64, by all three: Proposition 1 of Selective Steering does not hold for an orthonormal basis."""
    h, basis = draw(seed, d_model, leading)
    for operator in (standard_angular, adaptive_angular, selective_rotation):
        assert torch.allclose(operator(h, basis, angle).norm(dim=-1), h.norm(dim=-1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("angle", [0, 360, -360, 1080.0])
def test_identity_angles_are_the_identity_to_the_bit(dtype: torch.dtype, angle: float) -> None:
    """Relative angle 0, and every multiple of 360, in every dtype."""
    h, basis = draw(1, 33, (200,))
    assert torch.equal(selective_rotation(h.to(dtype), basis, angle), h.to(dtype))


def test_standard_angular_at_zero_is_not_the_identity() -> None:
    """An absolute angle of 0 moves every vector whose phase is not 0."""
    h, basis = draw(2, 9, (50,))
    assert (standard_angular(h, basis, 0) - h).norm(dim=-1).min() > 0


@given(SEEDS, SIZES, ANGLES, LEADING)
@settings(deadline=None, max_examples=60)
def test_equals_the_dense_matrix(seed: int, d_model: int, angle: float, leading: tuple[int, ...]) -> None:
    """Without a d×d matrix, the same as with one."""
    h, basis = draw(seed, d_model, leading)
    assert torch.allclose(selective_rotation(h, basis, angle), dense(h, basis, angle), atol=1e-11)


@given(SEEDS, SIZES, ANGLES, ANGLES)
@settings(deadline=None, max_examples=60)
def test_composition(seed: int, d_model: int, a: float, b: float) -> None:
    """SS angles add; SAS forgets what came before it."""
    h, basis = draw(seed, d_model)
    twice = selective_rotation(selective_rotation(h, basis, a), basis, b)
    assert torch.allclose(twice, selective_rotation(h, basis, a + b), atol=1e-10)
    assert torch.allclose(
        standard_angular(standard_angular(h, basis, a), basis, b), standard_angular(h, basis, b), atol=1e-10
    )


@given(SEEDS, SIZES, ANGLES)
@settings(deadline=None, max_examples=60)
def test_sas_is_ss_by_the_rest_of_the_angle(seed: int, d_model: int, angle: float) -> None:
    """SAS_θ(h) = SS_{θ − φ(h)}(h), each vector with its own angle."""
    h, basis = draw(seed, d_model, (7,))
    own = angle - torch.rad2deg(phase(h, basis)[0])
    assert torch.allclose(standard_angular(h, basis, angle), selective_rotation(h, basis, own), atol=1e-10)


@given(SEEDS, st.integers(3, 40), ANGLES)
@settings(deadline=None, max_examples=60)
def test_complement_inner_products_and_displacement(seed: int, d_model: int, angle: float) -> None:
    """The part outside the plane stays; SS keeps inner products, SAS changes them by r_a r_b (1 − cos(φ_a − φ_b));
    displacements.
    """
    h, basis = draw(seed, d_model, (6,))
    (phi, r), t = phase(h, basis), math.radians(angle)
    rotated, set_ = selective_rotation(h, basis, angle), standard_angular(h, basis, angle)
    for out in (rotated, set_):
        assert torch.allclose(out - out @ basis.T @ basis, h - h @ basis.T @ basis, atol=1e-11)
    assert torch.allclose(rotated @ rotated.T, h @ h.T, atol=1e-10)
    gained = r[:, None] * r[None] * (1 - torch.cos(phi[:, None] - phi[None]))
    assert torch.allclose(set_ @ set_.T - h @ h.T, gained, atol=1e-10)
    assert torch.allclose((rotated - h).norm(dim=-1), 2 * r * abs(math.sin(t / 2)), atol=1e-10)
    assert torch.allclose((set_ - h).norm(dim=-1), 2 * r * torch.sin((t - phi) / 2).abs(), atol=1e-10)


def test_the_gate_is_strict() -> None:
    """Above the threshold as SAS; at it and below byte-identical."""
    basis = torch.eye(3)[:2]
    h = torch.tensor([[0.5, 1.0, 2.0], [0.4999, 1.0, 2.0], [0.5001, 1.0, 2.0]])
    out = adaptive_angular(h, basis, 200.0, threshold=0.5)
    assert torch.equal(out[:2], h[:2])
    assert torch.equal(out[2], standard_angular(h, basis, 200.0)[2])
    assert not torch.equal(out[2], h[2])


@pytest.mark.parametrize("operator", [standard_angular, adaptive_angular, selective_rotation])
def test_outside_the_plane_nothing_moves(operator: Any) -> None:
    """A vector orthogonal to the plane, the zero vector too, comes back as it is, without NaN."""
    h = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    assert torch.equal(operator(h, torch.eye(3)[:2], 77.0), h)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("operator", [standard_angular, adaptive_angular, selective_rotation])
def test_half_precision_is_computed_in_float32(operator: Any, dtype: torch.dtype) -> None:
    """As float32 throughout, rounded once at the end."""
    h, basis = draw(3, 64, (100,))
    out = operator(h.to(dtype), basis.float(), 130.0)
    assert out.dtype == dtype
    assert torch.equal(out, operator(h.to(dtype).float(), basis.float(), 130.0).to(dtype))


@pytest.mark.parametrize("operator", [standard_angular, adaptive_angular, selective_rotation])
def test_one_angle_a_row(operator: Any) -> None:
    """A batch whose rows carry their own angle equals the rows one by one."""
    h, basis = draw(4, 12, (4, 3))
    angles = torch.tensor([0.0, 90.0, 200.0, -33.0], dtype=torch.float64)
    together = operator(h, basis, angles)
    assert torch.allclose(
        together, torch.stack([operator(h[i], basis, float(angles[i])) for i in range(4)]), atol=1e-14
    )


@pytest.mark.parametrize("operator", [standard_angular, selective_rotation])
def test_gradients_flow(operator: Any) -> None:
    """To activations and basis, as finite differences say."""
    h, basis = draw(5, 6)
    assert torch.autograd.gradcheck(
        lambda x, b: operator(x, b, 70.0), (h.requires_grad_(), basis.clone().requires_grad_())
    )


def test_bad_input() -> None:
    """Angles that are not finite are named."""
    h, basis = draw(6, 8)
    for angle in (float("nan"), float("inf")):
        with pytest.raises(LensSteerError, match=f"angle={angle} is not a finite number"):
            selective_rotation(h, basis, angle)
