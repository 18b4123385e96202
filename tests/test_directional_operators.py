"""Addition, ablation, clamp, and the gated projection operators: what each keeps, where it lands, and what it
refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.geometry.planes import random_plane
from lens_steer.operators import addition, projection, rotation

SIZES = st.integers(2, 24)
SEEDS = st.integers(0, 2**31 - 1)
NUMBERS = st.floats(-5, 5, allow_nan=False)
LEADING = st.sampled_from([(), (3,), (2, 4)])


def draw(
    seed: int, d_model: int, leading: tuple[int, ...] = (3,), dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(*leading, d_model, generator=generator, dtype=torch.float64)
    return h.to(dtype), torch.randn(d_model, generator=generator, dtype=torch.float64) + 0.01


def complement(x: Tensor, direction: Tensor) -> Tensor:
    """What is left of vectors once their part along a direction is solved away by least squares."""
    coefficients = torch.linalg.lstsq(direction[:, None], x.reshape(-1, x.shape[-1]).T).solution
    return x - (direction[:, None] @ coefficients).T.reshape(x.shape)


@given(SEEDS, SIZES, LEADING, NUMBERS)
@settings(deadline=None, max_examples=60)
def test_addition_is_undone_by_its_opposite(
    seed: int, d_model: int, leading: tuple[int, ...], coefficient: float
) -> None:
    """Adding and subtracting gives the vector back; the squared length changes as the exact form says."""
    h, d = draw(seed, d_model, leading)
    moved = addition.add_direction(h, d, coefficient)
    assert torch.allclose(addition.add_direction(moved, d, -coefficient), h, atol=1e-12)
    change = moved.square().sum(-1) - h.square().sum(-1)
    assert torch.allclose(change, 2 * coefficient * (h * d).sum(-1) + coefficient**2 * d.square().sum(), atol=1e-9)


@given(SEEDS, SIZES, LEADING, NUMBERS)
@settings(deadline=None, max_examples=60)
def test_rescaled_addition_keeps_length_and_ray(
    seed: int, d_model: int, leading: tuple[int, ...], coefficient: float
) -> None:
    """The length is the vector's own, the ray that of the plain addition."""
    h, d = draw(seed, d_model, leading)
    moved, plain = addition.add_direction_keep_norm(h, d, coefficient), addition.add_direction(h, d, coefficient)
    assert torch.allclose(moved.norm(dim=-1), h.norm(dim=-1), atol=1e-12)
    assert torch.allclose(
        torch.nn.functional.cosine_similarity(moved, plain, dim=-1), torch.ones(leading, dtype=torch.float64), atol=1e-9
    )


@given(SEEDS, SIZES, LEADING, st.floats(0.1, 50))
@settings(deadline=None, max_examples=60)
def test_ablation(seed: int, d_model: int, leading: tuple[int, ...], scale: float) -> None:
    """Nothing is left along the direction, the complement stays, twice is once, and the direction's length does not
    matter.
    """
    h, d = draw(seed, d_model, leading)
    out = addition.ablate_direction(h, d)
    assert (out @ d).abs().max() < 1e-11
    assert torch.allclose(complement(out, d), complement(h, d), atol=1e-11)
    assert torch.allclose(addition.ablate_direction(out, d), out, atol=1e-12)
    assert torch.allclose(addition.ablate_direction(h, scale * d), out, atol=1e-11)
    assert torch.all(out.norm(dim=-1) <= h.norm(dim=-1) + 1e-12)


@given(SEEDS, SIZES, LEADING, NUMBERS)
@settings(deadline=None, max_examples=60)
def test_clamp_lands_on_its_target(seed: int, d_model: int, leading: tuple[int, ...], target: float) -> None:
    """Every projection becomes the target, and nothing else changes."""
    h, d = draw(seed, d_model, leading)
    out = addition.clamp_projection(h, d, target)
    assert torch.allclose(out @ (d / d.norm()), torch.full(leading, target, dtype=torch.float64), atol=1e-11)
    assert torch.allclose(complement(out, d), complement(h, d), atol=1e-11)


@given(SEEDS, SIZES, st.floats(-2, 2), st.floats(0, 4), st.sampled_from(["below", "above"]))
@settings(deadline=None, max_examples=80)
def test_target_projection(seed: int, d_model: int, threshold: float, beyond: float, gate: str) -> None:
    """Gated tokens land on the target, the others are byte-identical, the complement stays, and twice is once."""
    h, d = draw(seed, d_model, (40,))
    target = threshold + beyond if gate == "below" else threshold - beyond
    out = projection.target_projection(h, d, threshold=threshold, target=target, gate=gate)
    rho = h @ (d / d.norm())
    fires = rho < threshold if gate == "below" else rho > threshold
    assert torch.equal(out[~fires], h[~fires])
    assert torch.allclose(out[fires] @ (d / d.norm()), torch.full_like(rho[fires], target), atol=1e-11)
    assert torch.allclose(complement(out, d), complement(h, d), atol=1e-11)
    again = projection.target_projection(out, d, threshold=threshold, target=target, gate=gate)
    assert torch.allclose(again, out, atol=1e-11)


@given(SEEDS, SIZES, st.floats(-2, 2), st.sampled_from(["below", "above"]))
@settings(deadline=None, max_examples=60)
def test_mirror_projection(seed: int, d_model: int, threshold: float, gate: str) -> None:
    """α = 1 mirrors at the threshold, α = ½ lands on it; ungated tokens are byte-identical; for α ≥ ½ twice is once."""
    h, d = draw(seed, d_model, (40,))
    unit = d / d.norm()
    rho = h @ unit
    fires = rho < threshold if gate == "below" else rho > threshold
    mirrored = projection.mirror_projection(h, d, threshold=threshold, gate=gate)
    assert torch.equal(mirrored[~fires], h[~fires])
    assert torch.allclose((mirrored @ unit)[fires] - threshold, threshold - rho[fires], atol=1e-11)
    assert torch.equal(projection.mirror_projection(mirrored, d, threshold=threshold, gate=gate), mirrored)
    onto = projection.mirror_projection(h, d, threshold=threshold, coefficient=0.5, gate=gate)
    assert torch.allclose((onto @ unit)[fires], torch.full_like(rho[fires], threshold), atol=1e-11)
    assert torch.allclose(complement(mirrored, d), complement(h, d), atol=1e-11)


def test_mirror_cap_is_honoured_and_active() -> None:
    """The new projection never exceeds the cap, and far tokens reach it."""
    h = torch.tensor([[-10.0, 1.0], [-0.5, 1.0], [2.0, 1.0]], dtype=torch.float64)
    v = torch.tensor([1.0, 0.0], dtype=torch.float64)
    out = projection.mirror_projection(h, v, threshold=0.0, coefficient=4, cap=6.0)
    assert out[:, 0].tolist() == [6.0, 3.5, 2.0]


@given(SEEDS, st.integers(3, 24), st.sampled_from(["below", "above"]))
@settings(deadline=None, max_examples=40)
def test_along_moves_the_same_tokens_as_far(seed: int, d_model: int, gate: str) -> None:
    """Along another vector: the same tokens move, by as much, and nowhere but along it; along the direction itself
    nothing is different.
    """
    h, d = draw(seed, d_model, (40,))
    other = draw(seed + 1, d_model)[1]
    put = partial(projection.target_projection, threshold=0.2, target=0.7, gate=gate)
    mirror = partial(projection.mirror_projection, threshold=0.2, coefficient=1.5, cap=4.0, gate=gate)
    for operator in (put, mirror):
        plain = operator(h, d) - h
        moved = operator(h, d, along=other) - h
        assert torch.equal(plain.any(dim=-1), moved.any(dim=-1))
        assert torch.allclose(plain.norm(dim=-1), moved.norm(dim=-1), atol=1e-11)
        assert torch.allclose(complement(moved, other), torch.zeros_like(moved), atol=1e-10)
        assert torch.allclose(operator(h, d, along=3 * d) - h, plain, atol=1e-11)


def test_gate_is_strict() -> None:
    """A token exactly at the threshold is not moved."""
    v = torch.tensor([1.0, 0.0])
    for gate in projection.GATES:
        at = torch.tensor([[0.25, 1.0]])
        assert torch.equal(projection.target_projection(at, v, threshold=0.25, target=9.0, gate=gate), at)
        assert torch.equal(projection.mirror_projection(at, v, threshold=0.25, gate=gate), at)


@given(SEEDS, st.integers(3, 20), st.floats(-720, 720), st.floats(-180, 180))
@settings(deadline=None, max_examples=60)
def test_sas_is_the_composition_of_its_halves(seed: int, d_model: int, angle: float, mean: float) -> None:
    """Collapse to the mean phase, then rotate by the rest: the same as setting the angle. Both halves keep the
    length.
    """
    h, _ = draw(seed, d_model, (5,))
    basis = random_plane(d_model, seed % 1000).double()
    basis = torch.linalg.qr(basis.T).Q.T
    collapsed = rotation.collapse_phase(h, basis, mean)
    both = rotation.rotate_by_mean_phase(collapsed, basis, angle, mean)
    assert torch.allclose(both, rotation.standard_angular(h, basis, angle), atol=1e-10)
    for half in (collapsed, rotation.rotate_by_mean_phase(h, basis, angle, mean)):
        assert torch.allclose(half.norm(dim=-1), h.norm(dim=-1), atol=1e-12)


def test_the_gate_of_aas_can_be_either_axis() -> None:
    """A vector with b1·h > 0 > b2·h is steered by the first gate and not by the second."""
    h, basis = torch.tensor([1.0, -1.0]), torch.eye(2)
    assert not torch.equal(rotation.adaptive_angular(h, basis, 90.0), h)
    assert torch.equal(rotation.adaptive_angular(h, basis, 90.0, gate_axis=1), h)


OPERATORS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda h, d: addition.add_direction(h, d, 0.7),
    lambda h, d: addition.add_direction_keep_norm(h, d, 0.7),
    addition.ablate_direction,
    lambda h, d: addition.clamp_projection(h, d, 0.7),
    lambda h, d: projection.target_projection(h, d, threshold=0.1, target=1.0),
    lambda h, d: projection.mirror_projection(h, d, threshold=0.1, coefficient=1.5, cap=3.0),
]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(
    operator: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype
) -> None:
    """As the float32 operator, rounded once, in the hidden dtype."""
    h, d = draw(3, 16, (50,), dtype)
    out = operator(h, d)
    assert out.dtype == dtype
    assert torch.equal(out, operator(h.float(), d).to(dtype))


@pytest.mark.parametrize("operator", OPERATORS)
def test_gradients_flow(operator: Callable[[Tensor, Tensor], Tensor]) -> None:
    """To the activations, as finite differences say."""
    h, d = draw(5, 6, (4,))
    assert torch.autograd.gradcheck(lambda x: operator(x, d), (h.requires_grad_(),))


def test_one_coefficient_a_row() -> None:
    """A batch with its own coefficients equals one by one."""
    h, d = draw(7, 8, (3, 5))
    values = torch.tensor([0.0, 1.0, -2.0])
    for operator in (addition.add_direction, addition.add_direction_keep_norm, addition.clamp_projection):
        together = operator(h, d, values)
        assert torch.equal(together, torch.stack([operator(h[i], d, float(values[i])) for i in range(3)]))


@pytest.mark.parametrize("operator", OPERATORS)
def test_bad_directions(operator: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Another width is named."""
    h, _ = draw(0, 8)
    with pytest.raises(Exception, match="d_model"):
        operator(h, torch.ones(5, dtype=torch.float64))


def test_bad_values() -> None:
    """Zero directions, coefficients that are not finite, unknown gates."""
    h, d = draw(0, 8)
    with pytest.raises(LensSteerError, match="direction is zero"):
        addition.ablate_direction(h, torch.zeros(8, dtype=torch.float64))
    with pytest.raises(LensSteerError, match="coefficient=nan"):
        addition.add_direction(h, d, float("nan"))
    with pytest.raises(LensSteerError, match="gate='sideways'"):
        projection.mirror_projection(h, d, threshold=0.0, gate="sideways")
