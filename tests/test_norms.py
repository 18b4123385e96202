"""Changes of length: measured against closed forms, on vectors and bases drawn here, and the search for the worst
vector.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lens_steer.operators import rotation
from lens_steer.studies.propositions import norms

SEEDS = st.integers(0, 2**31 - 1)


def draw(seed: int, d_model: int, n: int = 12) -> tuple[Tensor, Tensor]:
    """Vectors, and two vectors that are neither orthogonal nor of unit length."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(n, d_model, generator=generator, dtype=torch.float64)
    basis = torch.randn(2, d_model, generator=generator, dtype=torch.float64)
    return h, basis / basis.norm(dim=-1, keepdim=True) * (
        0.5 + torch.rand(2, 1, generator=generator, dtype=torch.float64)
    )


@given(SEEDS, st.integers(2, 20), st.floats(-720, 720))
@settings(deadline=None, max_examples=100)
def test_closed_forms_equal_the_measured_change(seed: int, d_model: int, angle: float) -> None:
    """For any two vectors as a basis, to 1e-10: by writing the printed formulas out with full matrices."""
    h, b = draw(seed, d_model)
    t = math.radians(angle)
    u = torch.tensor([math.cos(t), math.sin(t)], dtype=torch.float64)
    turn = torch.tensor([[u[0], -u[1]], [u[1], u[0]]], dtype=torch.float64)
    p = b.T @ b
    identity = torch.eye(d_model, dtype=torch.float64)
    set_ = h - h @ p.T + (h @ p.T).norm(dim=-1, keepdim=True) * (u @ b)
    turned = h @ (identity - p + b.T @ turn @ b).T
    before = h.square().sum(-1)
    assert torch.allclose(norms.standard_change(h, b, angle), set_.square().sum(-1) - before, atol=1e-10)
    assert torch.allclose(norms.selective_change(h, b, angle), turned.square().sum(-1) - before, atol=1e-10)
    assert bool(((turned.square().sum(-1) / before - 1).abs() <= norms.selective_bound(h, b, angle) + 1e-10).all())


@given(SEEDS, st.floats(1e-6, 1e6), st.floats(-0.5, 2))
@settings(deadline=None, max_examples=60)
def test_relative_change(seed: int, scale: float, stretch: float) -> None:
    """Of a vector stretched by a factor: that factor less one, whatever its length."""
    h = draw(seed, 7)[0] * scale
    assert torch.allclose(
        norms.relative_change(h, (1 + stretch) * h), torch.full((12,), stretch, dtype=torch.float64), atol=1e-12
    )


def test_small_changes_are_not_lost() -> None:
    """A part in 10^14 is seen, and a zero vector that stays zero has not changed."""
    h = torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = norms.relative_change(h, h * (1 + 2.0**-46))
    assert torch.allclose(seen, torch.full((5,), 2.0**-46, dtype=torch.float64), rtol=1e-2, atol=0)
    assert norms.relative_change(torch.zeros(3), torch.zeros(3)) == 0


def test_the_bound_is_met_by_some_vector() -> None:
    """The bound on SS is tight: the eigenvector of E, turned, meets it."""
    basis = torch.tensor([[1.0, 0.0], [0.0, 1.2]], dtype=torch.float64)
    c = torch.stack([torch.cos(torch.arange(0, 7, 0.01)), torch.sin(torch.arange(0, 7, 0.01))], dim=-1).double()
    h = c @ torch.linalg.inv(basis).T
    ratio = norms.selective_change(h, basis, 180).abs() / (norms.selective_bound(h, basis, 180) * h.square().sum(-1))
    assert float(ratio.max()) == pytest.approx(1, abs=1e-3)


def test_the_search_finds_what_is_there() -> None:
    """Ablation takes all of a vector along b1: the search comes near −‖h‖²; an operator that keeps norms gives it
    nothing.
    """
    basis = torch.eye(6, dtype=torch.float64)[:2]
    vector, change = norms.worst_vector(lambda h, b, a: h - (h @ b[0])[..., None] * b[0], basis, 0.0)
    assert change > 0.99
    assert abs(float(vector[0])) > 0.99
    assert norms.worst_vector(rotation.standard_angular, basis, 77.0)[1] < 1e-14
