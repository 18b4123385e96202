"""All operators through one door: bound equals public, effects, closed forms of the change of length, rows, devices of
bad input.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.operators import rotation
from lens_steer.operators.catalogue import OPERATORS, bind, compare, effect

SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.integers(3, 24)
LEADING = st.sampled_from([(1,), (3,), (2, 4)])
NUMBERS = st.floats(-4, 4, allow_nan=False)
ANGLES = st.floats(-720, 720, allow_nan=False)


def draw(
    seed: int, d_model: int, leading: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(d_model, 2, generator=generator, dtype=torch.float64)).Q.T
    h = torch.randn(*leading, d_model, generator=generator, dtype=torch.float64).to(dtype)
    return h, basis, torch.randn(d_model, generator=generator, dtype=torch.float64)


def parameters(basis: Tensor, direction: Tensor, number: float, angle: float) -> dict[str, dict[str, Any]]:
    """Parameters for every operator, by their names; those with a value of their own beside it."""
    values = {
        "basis": basis, "angle": angle, "mean_phase": 33.0 - angle, "gate_axis": 1, "direction": direction,
        "coefficient": number, "target": number, "threshold": 0.1, "cap": 3.0, "scale": 1.3,
    }  # fmt: skip
    own = {"target": {"gate": "above"}, "adaptive": {"threshold": 0.2}}
    return {
        name: {key: values[key] for key in (*o.needs, *o.takes) if key in values} | own.get(name, {})
        for name, o in OPERATORS.items()
    }


@given(
    SEEDS,
    SIZES,
    LEADING,
    NUMBERS,
    ANGLES,
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
@settings(deadline=None, max_examples=30)
def test_bound_equals_public(
    seed: int, d_model: int, leading: tuple[int, ...], number: float, angle: float, dtype: torch.dtype
) -> None:
    """What a hook runs is the public function, to the bit, in every dtype and shape; float32 in between for half
    precision.
    """
    h, basis, direction = draw(seed, d_model, leading, dtype)
    for name, given_ in parameters(basis, direction, number, angle).items():
        bound = bind(name, given_, h)
        assert torch.equal(bound(h), OPERATORS[name].function(h, **given_)), name
        assert bound(h).dtype == dtype
        assert torch.equal(
            bound(h), bound(h.to(torch.float64 if dtype == torch.float64 else torch.float32)).to(dtype)
        ), name


@given(SEEDS, SIZES, LEADING, NUMBERS, ANGLES)
@settings(deadline=None, max_examples=30)
def test_effects(seed: int, d_model: int, leading: tuple[int, ...], number: float, angle: float) -> None:
    """displacement² = radial² + angular²; ungated tokens did not move; rotations have no radial part; the angular part
    is the chord.
    """
    h, basis, direction = draw(seed, d_model, leading)
    for name, given_ in parameters(basis, direction, number, angle).items():
        moved, did = effect(name, h, given_)
        assert torch.allclose(did.displacement, (moved - h).square().sum(-1).sqrt(), atol=1e-12)
        assert torch.allclose(did.displacement.square(), did.radial.square() + did.angular.square(), atol=1e-9), name
        assert torch.equal(moved[~did.fired], h[~did.fired])
        if ("basis" in given_ and name != "selective_scaled") or name == "add_keep_norm":
            assert did.radial.abs().max() < 1e-11
        if OPERATORS[name].gate is None:
            assert did.gate_fire_rate == 1.0
    fired = effect("target", h, parameters(basis, direction, number, angle)["target"])[1].fired
    assert torch.equal(fired, h @ (direction / direction.norm()) > 0.1)


def test_the_effect_of_stretching_and_of_turning() -> None:
    """A pure stretch is all radial, a quarter turn of a unit vector all angular, √2 long."""
    here = torch.ones(1, dtype=torch.bool)
    stretched = compare(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0]]), here)
    assert (stretched.radial.item(), stretched.angular.item()) == (5.0, 0.0)
    turned = compare(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), here)
    assert (turned.radial.item(), turned.angular.item()) == (0.0, pytest.approx(math.sqrt(2)))
    assert "gate fired on 100.0 %" in repr(turned)


@given(SEEDS, SIZES, NUMBERS)
@settings(deadline=None, max_examples=60)
def test_changes_of_length_have_their_closed_forms(seed: int, d_model: int, number: float) -> None:
    """‖h'‖² − ‖h‖² of ablation, clamp, StTP and StMP."""
    h, _, direction = draw(seed, d_model, (20,))
    rho = h @ (direction / direction.norm())

    def change(name: str, **given_: Any) -> Tensor:
        return bind(name, {"direction": direction, **given_}, h)(h).square().sum(-1) - h.square().sum(-1)

    fires = rho < 0.1
    assert torch.allclose(change("ablate"), -rho.square(), atol=1e-10)
    assert torch.allclose(change("clamp", target=number), number**2 - rho.square(), atol=1e-10)
    assert torch.allclose(
        change("target", threshold=0.1, target=number), torch.where(fires, number**2 - rho.square(), 0.0), atol=1e-10
    )
    assert torch.allclose(change("mirror", threshold=0.1), torch.where(fires, 4 * 0.1 * (0.1 - rho), 0.0), atol=1e-10)


@given(SEEDS, SIZES, ANGLES, st.floats(0, 0.5))
@settings(deadline=None, max_examples=80)
def test_a_basis_that_is_not_orthonormal(seed: int, d_model: int, angle: float, error: float) -> None:
    """The exact changes of length with G = BBᵀ = I + E: SS (Rc−c)ᵀE(Rc−c); SAS r²(1+uᵀGu) − 2‖c‖² − 2r cᵀEu with r =
    ‖Ph‖.
    """
    h, basis, direction = draw(seed, d_model, (8,))
    b = basis + error * torch.stack([direction, direction.flip(0)]) / direction.norm()
    gram = b @ b.T
    e = gram - torch.eye(2, dtype=torch.float64)
    c = h @ b.T
    t = math.radians(angle)
    u = torch.tensor([math.cos(t), math.sin(t)], dtype=torch.float64)
    turned = c @ torch.tensor([[u[0], u[1]], [-u[1], u[0]]], dtype=torch.float64) - c
    before = h.square().sum(-1)
    ss = rotation.selective_rotation(h, b, angle).square().sum(-1) - before
    assert torch.allclose(ss, ((turned @ e) * turned).sum(-1), atol=1e-9)
    r = (c @ b).norm(dim=-1)
    sas = rotation.standard_angular(h, b, angle).square().sum(-1) - before
    assert torch.allclose(sas, r**2 * (1 + u @ gram @ u) - 2 * c.square().sum(-1) - 2 * r * (c @ e @ u), atol=1e-9)


def test_a_basis_without_a_second_vector() -> None:
    """b2 = 0: both change the squared length by −(c1 sin θ)²; SS at 0 by nothing."""
    h, b = (
        torch.tensor([[3.0, 1.0], [-2.0, 0.5]], dtype=torch.float64),
        torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64),
    )
    for operator in (rotation.selective_rotation, rotation.standard_angular):
        change = operator(h, b, 40.0).square().sum(-1) - h.square().sum(-1)
        assert torch.allclose(change, -(h[:, 0] * math.sin(math.radians(40))).square(), atol=1e-12)


@pytest.mark.parametrize("name", [n for n, o in OPERATORS.items() if o.by_row])
def test_one_value_a_row(name: str) -> None:
    """A batch whose rows carry their own angle, coefficient or target equals the rows one by one."""
    h, basis, direction = draw(4, 12, (4, 3))
    given_ = parameters(basis, direction, 0.5, 70.0)[name]
    by_row = torch.tensor([0.0, 1.5, -33.0, 200.0], dtype=torch.float64)
    key = str(OPERATORS[name].by_row)
    together = bind(name, {**given_, key: by_row}, h)(h)
    alone = [bind(name, {**given_, key: float(v)}, h)(h[i]) for i, v in enumerate(by_row)]
    assert torch.allclose(together, torch.stack(alone), atol=1e-12)
    flat = bind(name, {**given_, key: by_row}, h)(h[:, 0])
    assert torch.allclose(flat, together[:, 0], atol=1e-12)


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_gradients_flow(name: str) -> None:
    """To the activations and to the vectors, as finite differences say."""
    h, basis, direction = draw(6, 5, (3,))
    given_ = parameters(basis, direction, 0.5, 70.0)[name]
    key = OPERATORS[name].vectors[0]

    def run(x: Tensor, vectors: Tensor) -> Tensor:
        return bind(name, {**given_, key: vectors}, x)(x)

    assert torch.autograd.gradcheck(run, (h.requires_grad_(), given_[key].clone().requires_grad_()))


def test_the_gradient_at_the_centre_of_the_plane_is_finite() -> None:
    """A vector orthogonal to the plane has no phase; the basis' gradient is finite all the same."""
    basis = torch.eye(2, 4, dtype=torch.float64).requires_grad_()
    h = torch.tensor([[0.0, 0.0, 1.0, 2.0], [1.0, 2.0, 0.0, 0.0]], dtype=torch.float64)
    rotation.standard_angular(h, basis, 70.0).sum().backward()
    assert basis.grad is not None
    assert torch.isfinite(basis.grad).all()


def test_complement_is_untouched_to_the_byte() -> None:
    """With the plane or the direction along axes, the other coordinates come back equal."""
    h = torch.randn(7, 9)
    axes = torch.eye(9)
    for name, given_ in parameters(axes[:2], axes[0], 0.7, 70.0).items():
        if name not in ("add_keep_norm", "selective_scaled"):  # both change the length of the whole
            assert torch.equal(bind(name, given_, h)(h)[:, 2:], h[:, 2:]), name


def test_bad_parameters() -> None:
    """Unknown operators, missing and unknown parameters, another width."""
    h, basis, direction = draw(0, 8, (2,))
    for name, given_, message in (
        ("spin", {}, "operator='spin': use one of selective"),
        ("selective", {"basis": basis}, "angle is missing"),
        ("ablate", {"direction": direction, "target": 1.0}, "target=1.0 is not one of them"),
        ("add", {"direction": direction[:3], "coefficient": 1.0}, "direction has d_model 3, the activations have 8"),
        ("standard", {"basis": basis[:, :3], "angle": 1.0}, "basis has d_model 3, the activations have 8"),
        ("adaptive", {"basis": basis, "angle": 1.0, "gate_axis": 5}, "gate_axis=5"),
        ("mirror", {"direction": direction, "threshold": 0.0, "gate": "left"}, "gate='left'"),
        ("clamp", {"direction": 0 * direction, "target": 1.0}, "direction is zero"),
        ("clamp", {"direction": direction, "target": math.inf}, "target=inf is not a finite number in float64"),
        ("add", {"direction": direction, "coefficient": math.nan}, "coefficient=nan is not a finite number in float64"),
    ):
        with pytest.raises(LensSteerError, match=message):
            bind(name, given_, h)(h)
