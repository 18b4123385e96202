"""Projection-aware operators: a gate on the projection of each token decides whether it is moved (arXiv 2604.08169).

With the unit direction v̂ and ``ρ = h·v̂``, a token is moved where ``ρ < m`` (strictly), or with ``gate="above"`` where
``ρ > m``::

    StTP   ρ' = s                        to a target
    StMP   ρ' = ρ + 2α (m − ρ)           mirrored at the threshold for α = 1, moved to it for α = ½

The orthogonal complement never changes, and a token at which the gate does not fire is returned unchanged. With
``along`` the same tokens move by the same steps along another unit vector; this is a control.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.operators.addition import Coefficient, across, unit_direction, values
from lens_steer.operators.exact import prepared
from lens_steer.operators.parameters import GATE

GATES = tuple(map(str, GATE.choices))


def target_projection(
    h: Float[Tensor, "*batch d_model"],
    direction: Float[Tensor, " d_model"],
    *,
    threshold: float | int,
    target: Coefficient,
    gate: str = "below",
    along: Float[Tensor, " d_model"] | None = None,
) -> Float[Tensor, "*batch d_model"]:
    """Apply StTP: set the projection of gated tokens to the target s, ``h' = h + (s − ρ) v̂``.

    It is idempotent if s is not on the gated side. Source: Eq. 4.

    >>> target_projection(torch.tensor([[-1.0, 5.0], [1.0, 5.0]]), torch.tensor([1.0, 0.0]), threshold=0.0, target=2.0)
    tensor([[2., 5.],
            [1., 5.]])
    """
    unit = unit_direction(prepared(direction, h))
    return put_gated(h, unit, values("target", target, unit), threshold=threshold, gate=gate, along=_written(along, h))


def mirror_projection(
    h: Float[Tensor, "*batch d_model"],
    direction: Float[Tensor, " d_model"],
    *,
    threshold: float | int,
    coefficient: Coefficient = 1.0,
    cap: float | int | None = None,
    gate: str = "below",
    along: Float[Tensor, " d_model"] | None = None,
) -> Float[Tensor, "*batch d_model"]:
    """Apply StMP: move gated tokens across the threshold, ``h' = h + 2α (m − ρ) v̂``.

    It is idempotent for α ≥ ½. ``cap`` bounds the new projection from above (the released operators use μ⁺ + 40σ⁺, for
    both gates); None: no bound. Source: Eq. 5.

    >>> mirror_projection(torch.tensor([[-1.0, 5.0], [1.0, 5.0]]), torch.tensor([1.0, 0.0]), threshold=0.0)
    tensor([[1., 5.],
            [1., 5.]])
    """
    unit = unit_direction(prepared(direction, h))
    alpha, written = values("coefficient", coefficient, unit), _written(along, h)
    return mirror_gated(h, unit, alpha, threshold=threshold, cap=cap, gate=gate, along=written)


def past_threshold(
    h: Float[Tensor, "*batch d_model"],
    direction: Float[Tensor, " d_model"],
    *,
    threshold: float | int,
    gate: str = "below",
) -> Bool[Tensor, "*batch"]:
    """Return the gate of StTP and StMP: True where ``ρ < m``, or with ``gate="above"`` where ``ρ > m``, both strictly.

    >>> past_threshold(torch.tensor([[-1.0, 5.0], [1.0, 5.0]]), torch.tensor([1.0, 0.0]), threshold=0.0)
    tensor([ True, False])
    """
    unit = unit_direction(prepared(direction, h))
    return beyond(h.to(unit.dtype) @ unit, threshold, gate)


def beyond(rho: Float[Tensor, "*batch"], threshold: float | int, gate: str) -> Bool[Tensor, "*batch"]:
    """Return where a gate fires, from the projections: below the threshold, or above it, strictly.

    >>> beyond(torch.tensor([-1.0, 0.0, 1.0]), 0.0, "above")
    tensor([False, False,  True])
    """
    return (rho < threshold) if check_gate(gate) == "below" else (rho > threshold)


def check_gate(gate: str) -> str:
    """Return the name of a gate.

    Raises:
        LensSteerError: If the name is unknown.

    >>> check_gate("above")
    'above'
    """
    if gate not in GATES:
        raise LensSteerError(f"gate={gate!r}: use one of {', '.join(GATES)}")
    return gate


def put_gated(
    h: Float[Tensor, "*batch d_model"],
    unit: Float[Tensor, " d_model"],
    target: Float[Tensor, "*rows"],
    *,
    threshold: float | int,
    gate: str,
    along: Float[Tensor, " d_model"] | None = None,
) -> Float[Tensor, "*batch d_model"]:
    """Apply :func:`target_projection` with a precomputed unit direction, in its dtype; this is what a hook runs."""
    x = h.to(unit.dtype)
    rho = x @ unit
    return _moved(h, x, unit if along is None else along, _by_row(target, rho) - rho, beyond(rho, threshold, gate))


def mirror_gated(
    h: Float[Tensor, "*batch d_model"],
    unit: Float[Tensor, " d_model"],
    coefficient: Float[Tensor, "*rows"],
    *,
    threshold: float | int,
    cap: float | int | None,
    gate: str,
    along: Float[Tensor, " d_model"] | None = None,
) -> Float[Tensor, "*batch d_model"]:
    """Apply :func:`mirror_projection` with a precomputed unit direction, in its dtype; this is what a hook runs."""
    x = h.to(unit.dtype)
    rho = x @ unit
    step = 2 * _by_row(coefficient, rho) * (threshold - rho)
    if cap is not None:
        step = torch.minimum(step, cap - rho)
    return _moved(h, x, unit if along is None else along, step, beyond(rho, threshold, gate))


def _moved(h: Tensor, x: Tensor, unit: Tensor, step: Tensor, fires: Tensor) -> Tensor:
    return torch.where(fires[..., None], torch.addcmul(x, step[..., None], unit).to(h.dtype), h)


def _written(along: Tensor | None, h: Tensor) -> Tensor | None:
    return None if along is None else unit_direction(prepared(along, h))


def _by_row(numbers: Tensor, rho: Tensor) -> Tensor:
    return across(numbers[..., None], rho.ndim + 1)[..., 0] if numbers.ndim else numbers
