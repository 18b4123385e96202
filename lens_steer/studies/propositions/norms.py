"""Changes of length under an operator: measured, and in closed form for any two basis vectors, orthonormal or not.

With rows b1, b2 in B, ``G = B Bᵀ = I + E``, ``c = h Bᵀ``, ``r = ‖c B‖ = √(c G cᵀ)``, ``u = (cos θ, sin θ)`` and
``Δ = ‖h'‖² − ‖h‖²``::

    Δ_SAS = r² (1 + u G uᵀ) − 2‖c‖² − 2 r c E uᵀ
    Δ_SS  = q E qᵀ,  q = c R_θᵀ − c,  so  |Δ_SS| ≤ 4 sin²(θ/2) ‖E‖ ‖c‖²

Both changes are zero for every h and θ if and only if E = 0. All functions compute in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.operators.rotation import degrees

PlaneOperator = Callable[[Tensor, Tensor, float], Tensor]  # (vectors, basis, angle in degrees) → vectors


def squared_change(
    before: Float[Tensor, "*batch d_model"], after: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch"]:
    """Return Δ = ‖h'‖² − ‖h‖², computed as ``(h' − h)·(h' + h)`` to avoid cancellation.

    >>> squared_change(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 4.0]))
    tensor(-9., dtype=torch.float64)
    """
    a, b = before.double(), after.double()
    return ((b - a) * (b + a)).sum(dim=-1)


def relative_change(
    before: Float[Tensor, "*batch d_model"], after: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch"]:
    """Return ‖h'‖/‖h‖ − 1, which is zero for a zero vector that stays zero.

    >>> relative_change(torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0]))
    tensor(1., dtype=torch.float64)
    """
    ratio = squared_change(before, after) / before.double().square().sum(dim=-1).clamp_min(
        torch.finfo(torch.float64).tiny
    )
    return ratio / ((1 + ratio).clamp_min(0).sqrt() + 1)  # √(1+x) − 1 = x / (√(1+x) + 1), without cancellation


def standard_change(
    h: Float[Tensor, "*batch d_model"], basis: Float[Tensor, "2 d_model"], angle: float | int
) -> Float[Tensor, "*batch"]:
    """Return Δ_SAS in closed form, for any basis.

    >>> standard_change(torch.tensor([3.0, 1.0]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 90)  # −(c1 sin θ)²
    tensor(-9., dtype=torch.float64)
    """
    c, gram, u = _parts(h, basis, angle)
    error = gram - torch.eye(2, dtype=torch.float64, device=gram.device)
    r = ((c @ gram) * c).sum(dim=-1).clamp_min(0).sqrt()
    return r.square() * (1 + u @ gram @ u) - 2 * c.square().sum(dim=-1) - 2 * r * (c @ error @ u)


def selective_change(
    h: Float[Tensor, "*batch d_model"], basis: Float[Tensor, "2 d_model"], angle: float | int
) -> Float[Tensor, "*batch"]:
    """Return Δ_SS in closed form, for any basis.

    >>> selective_change(torch.tensor([3.0, 1.0]), torch.eye(2), 77)
    tensor(0., dtype=torch.float64)
    """
    c, gram, u = _parts(h, basis, angle)
    error = gram - torch.eye(2, dtype=torch.float64, device=gram.device)
    turned = torch.stack([u[0] * c[..., 0] - u[1] * c[..., 1], u[1] * c[..., 0] + u[0] * c[..., 1]], dim=-1) - c
    return ((turned @ error) * turned).sum(dim=-1)


def selective_bound(
    h: Float[Tensor, "*batch d_model"], basis: Float[Tensor, "2 d_model"], angle: float | int
) -> Float[Tensor, "*batch"]:
    """Return ``4 sin²(θ/2) ‖E‖ ρ``, the upper bound of ``|Δ_SS|/‖h‖²``.

    ``ρ = ‖c‖²/‖h‖²`` is the share of the squared length that lies in the plane, and ``‖E‖`` is the spectral norm of E.

    >>> selective_bound(torch.tensor([3.0, 4.0]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 180)
    tensor(1.4400, dtype=torch.float64)
    """
    c, gram, _ = _parts(h, basis, angle)
    error = torch.linalg.matrix_norm(gram - torch.eye(2, dtype=torch.float64, device=gram.device), ord=2)
    share = c.square().sum(dim=-1) / h.double().square().sum(dim=-1).clamp_min(torch.finfo(torch.float64).tiny)
    return 4 * torch.sin(torch.deg2rad(degrees(angle)) / 2).square().to(h.device) * error * share


def worst_vector(
    operator: PlaneOperator,
    basis: Float[Tensor, "2 d_model"],
    angle: float,
    *,
    starts: int = 16,
    steps: int = 150,
    seed: int = 0,
) -> tuple[Float[Tensor, " d_model"], float]:
    """Search for the unit vector whose squared length an operator changes most, and return it with its ``|Δ|``.

    The search is gradient ascent from random starts. Half of the starts lie in the plane, where the change can be
    largest. The result is a lower bound of the worst case, because a search may miss it.

    >>> from lens_steer.operators.rotation import selective_rotation
    >>> _, change = worst_vector(selective_rotation, torch.eye(4, dtype=torch.float64)[:2], 70.0, starts=4, steps=10)
    >>> change < 1e-14
    True
    """
    generator = torch.Generator().manual_seed(seed)
    b = basis.double().cpu()
    drawn = torch.randn(starts, b.shape[-1], generator=generator, dtype=torch.float64)
    # Every second start lies in the plane. Adam maximises the sum of |Δ| over all starts; the starts do not interact,
    # so each one follows its own gradient. Δ is taken of the unit vector, so the length of a start has no effect.
    drawn[::2] = torch.randn(len(drawn[::2]), 2, generator=generator, dtype=torch.float64) @ b
    h = drawn.requires_grad_()
    optimizer = torch.optim.Adam([h], lr=0.05)
    best, witness = -1.0, drawn[0].detach()
    for _ in range(steps):
        unit = h / h.norm(dim=-1, keepdim=True)
        change = squared_change(unit, operator(unit, b, angle)).abs()
        top = int(change.argmax())
        if float(change[top].detach()) > best:
            best, witness = float(change[top].detach()), unit[top].detach().clone()
        optimizer.zero_grad()
        (-change.sum()).backward()
        optimizer.step()
    return witness, best


def _parts(h: Tensor, basis: Tensor, angle: float | int) -> tuple[Tensor, Tensor, Tensor]:
    b = basis.double().to(h.device)
    radians = torch.deg2rad(degrees(angle))
    return h.double() @ b.mT, b @ b.mT, torch.stack([torch.cos(radians), torch.sin(radians)]).to(h.device)
