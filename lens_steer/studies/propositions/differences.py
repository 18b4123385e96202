"""Properties that separate the operators beyond norms.

The properties are identity angles, composition, isometry, displacement, linearity, continuity, alignment with b1, and
the separation of two classes by phase.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.stats.rates import wilson
from lens_steer.studies.claim import Claim, verdict
from lens_steer.studies.propositions.formula import AAS, PLANE_OPERATORS, SAS, SS, drawn_vectors, orthonormal
from lens_steer.studies.propositions.norms import PlaneOperator

EXACT = 1e-10  # tolerance in float64, relative to the lengths involved
MOVED = 1e-6  # ‖h' − h‖/‖h‖ above which a vector counts as moved
COLLAPSED = 0.5  # share of the class separation below which the separation counts as lost
NOMINAL = 200.0  # degrees; the angle of the tables in the paper
D_MODEL, VECTORS = 64, 2000
Vectors = Float[Tensor, "n d_model"]


def difference_claims(operators: Mapping[str, PlaneOperator] = PLANE_OPERATORS, *, seed: int = 0) -> list[Claim]:
    """Test every claim on synthetic vectors with an orthonormal basis, in float64."""
    basis = orthonormal(D_MODEL, seed)
    h = drawn_vectors(basis, VECTORS, seed + 1)
    h = h / h.norm(dim=-1, keepdim=True)
    checks: tuple[Callable[[Mapping[str, PlaneOperator], Vectors, Tensor], list[Claim]], ...] = (
        _identity,
        _composition,
        _isometry,
        _displacement,
        _linearity,
        _continuity,
        _alignment,
    )
    return [claim for check in checks for claim in check(operators, h, basis)] + separation_claims(
        *two_classes(basis, seed), basis, operators, "two classes at c = (±6, 1) with unit spread, float64", "formula"
    )


def two_classes(basis: Float[Tensor, "2 d_model"], seed: int, n: int = 500) -> tuple[Vectors, Vectors]:
    """Draw two Gaussian classes with in-plane means (±6, 1) and unit spread in every direction."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(2, n, basis.shape[-1], generator=generator, dtype=torch.float64)
    centres = torch.tensor([[6.0, 1.0], [-6.0, 1.0]], dtype=torch.float64) @ basis
    return drawn[0] + centres[0], drawn[1] + centres[1]


def separation_claims(
    positive: Vectors,
    negative: Vectors,
    basis: Float[Tensor, "2 d_model"],
    operators: Mapping[str, PlaneOperator],
    where: str,
    level: str,
) -> list[Claim]:
    """Test whether SS and SAS keep two classes apart.

    The value is the distance of the class means in the plane after the operator, divided by the distance before it.
    """
    before = _gap(positive, negative, basis)
    claims = []
    for name in (SS, SAS):
        operator = operators[name]
        kept = _gap(operator(positive, basis, NOMINAL), operator(negative, basis, NOMINAL), basis) / before
        claims.append(
            Claim(
                id=f"classes-apart-{name}-{level}",
                statement=f"{name} keeps the two classes apart in the plane",
                formula="‖(μ⁺' − μ⁻') Bᵀ‖ / ‖(μ⁺ − μ⁻) Bᵀ‖",
                level=level,
                domain=f"{where}, {NOMINAL:g}°",
                quantity="separation of the class means after over before",
                criterion=f"at least {COLLAPSED:g}",
                value=kept,
                n=len(positive) + len(negative),
                verdict=verdict(kept >= COLLAPSED),
                witness={"before": before, "after": kept * before},
            )
        )
    return claims


def _gap(positive: Tensor, negative: Tensor, basis: Tensor) -> float:
    return float(((positive.mean(dim=0) - negative.mean(dim=0)) @ basis.mT).norm())


def _identity(operators: Mapping[str, PlaneOperator], h: Vectors, basis: Tensor) -> list[Claim]:
    claims = []
    for name in (SS, SAS):
        moved = torch.stack([(operators[name](h, basis, a) - h).norm(dim=-1) > MOVED for a in (0.0, 360.0)]).any(dim=0)
        rate = wilson(int(moved.sum()), len(h))
        witness = (
            {} if not bool(moved.any()) else {"in_plane": [float(x) for x in h[int(moved.nonzero()[0])] @ basis.mT]}
        )
        claims.append(
            Claim(
                id=f"identity-{name}",
                statement=f"{name} at 0° and 360° is the identity"
                + (
                    " (the printed proof of Proposition 1 rests on its not being so: appendix B.1)"
                    if name == SAS
                    else ""
                ),
                formula="‖h' − h‖",
                level="formula",
                domain="float64, unit vectors, orthonormal basis",
                quantity=f"share of vectors that move by more than {MOVED:g}",
                criterion="none moves",
                value=rate.value,
                n=rate.n,
                verdict=verdict(not bool(moved.any())),
                interval=(rate.low, rate.high),
                witness=witness,
            )
        )
    return claims


def _composition(operators: Mapping[str, PlaneOperator], h: Vectors, basis: Tensor) -> list[Claim]:
    pairs = ((30.0, 70.0), (200.0, 200.0), (-45.0, 310.0))
    claims = []
    for name in (SS, SAS):
        f = operators[name]
        adds = max(float((f(f(h, basis, a), basis, b) - f(h, basis, a + b)).norm(dim=-1).max()) for a, b in pairs)
        forgets = max(float((f(f(h, basis, a), basis, b) - f(h, basis, b)).norm(dim=-1).max()) for a, b in pairs)
        for kind, said, value in (
            ("adds", f"angles of {name} add up: {name}_b ∘ {name}_a = {name}_(a+b)", adds),
            ("idempotent", f"{name} forgets what came before it: {name}_b ∘ {name}_a = {name}_b", forgets),
        ):
            claims.append(
                Claim(
                    id=f"composition-{kind}-{name}",
                    statement=said,
                    formula="‖f_b(f_a(h)) − …‖",
                    level="formula",
                    domain=f"float64, unit vectors, (a, b) in {pairs}",
                    quantity="largest difference",
                    criterion=f"at most {EXACT:g}",
                    value=value,
                    n=len(h),
                    verdict=verdict(value <= EXACT),
                )
            )
    return claims


def _isometry(operators: Mapping[str, PlaneOperator], h: Vectors, basis: Tensor) -> list[Claim]:
    x = h[:400]
    c = x @ basis.mT
    r, phi = c.norm(dim=-1), torch.atan2(c[:, 1], c[:, 0])
    # SAS puts the in-plane parts of all vectors on one ray, so the in-plane inner product of a pair becomes r_a r_b. It
    # was r_a r_b cos(φ_a − φ_b) before, and the part outside the plane does not change. ``gained`` is the difference.
    gained = r[:, None] * r[None] * (1 - torch.cos(phi[:, None] - phi[None]))
    claims = []
    for name in (SS, SAS):
        change = (out := operators[name](x, basis, NOMINAL)) @ out.T - x @ x.T
        largest = int(change.abs().argmax())
        pair = (largest // len(x), largest % len(x))
        claims.append(
            Claim(
                id=f"isometry-{name}",
                statement=f"{name} keeps all inner products, hence all distances",
                formula="⟨h_a', h_b'⟩ − ⟨h_a, h_b⟩",
                level="formula",
                domain=f"float64, unit vectors, {NOMINAL:g}°",
                quantity="largest |change|",
                criterion=f"at most {EXACT:g}",
                value=float(change.abs().max()),
                n=len(x) ** 2,
                verdict=verdict(float(change.abs().max()) <= EXACT),
                witness={
                    "phases_in_degrees": [float(torch.rad2deg(phi[i])) for i in pair],
                    "radii": [float(r[i]) for i in pair],
                },
            )
        )
        if name == SAS:
            off = float((change - gained).abs().max())
            claims.append(
                Claim(
                    id="isometry-closed-form-SAS",
                    statement="SAS changes each inner product by r_a r_b (1 − cos(φ_a − φ_b))",
                    formula="the same minus its closed form",
                    level="formula",
                    domain=f"float64, unit vectors, {NOMINAL:g}°",
                    quantity="largest |difference|",
                    criterion=f"at most {EXACT:g}",
                    value=off,
                    n=len(x) ** 2,
                    verdict=verdict(off <= EXACT),
                )
            )
    return claims


def _displacement(operators: Mapping[str, PlaneOperator], h: Vectors, basis: Tensor) -> list[Claim]:
    c = h @ basis.mT
    r, phi = c.norm(dim=-1), torch.atan2(c[:, 1], c[:, 0])
    claims = []
    for name, formula in ((SS, "2r |sin(θ/2)|"), (SAS, "2r |sin((θ − φ)/2)|")):
        off = 0.0
        for angle in (30.0, 90.0, NOMINAL, 310.0):
            # SS turns every vector by θ. SAS turns it by θ − φ, from its own phase φ to the absolute angle θ.
            t = math.radians(angle) - (phi if name == SAS else torch.zeros_like(phi))
            off = max(
                off,
                float(
                    ((operators[name](h, basis, angle) - h).norm(dim=-1) - 2 * r * torch.sin(t / 2).abs()).abs().max()
                ),
            )
        claims.append(
            Claim(
                id=f"displacement-{name}",
                statement=f"{name} moves a vector by {formula}",
                formula="‖h' − h‖",
                level="formula",
                domain="float64, unit vectors, four angles",
                quantity="largest |difference| from the closed form",
                criterion=f"at most {EXACT:g}",
                value=off,
                n=len(h),
                verdict=verdict(off <= EXACT),
            )
        )
    return claims


def _linearity(operators: Mapping[str, PlaneOperator], h: Vectors, basis: Tensor) -> list[Claim]:
    a, b = h[: len(h) // 2], h[len(h) // 2 :]
    claims = []
    for name in (SS, SAS, AAS):
        f = operators[name]
        off = float(
            (f(2 * a - 3 * b, basis, NOMINAL) - 2 * f(a, basis, NOMINAL) + 3 * f(b, basis, NOMINAL)).norm(dim=-1).max()
        )
        claims.append(
            Claim(
                id=f"linear-{name}",
                statement=f"{name} is linear, so it can be folded into the weights that read its site",
                formula="f(2a − 3b) − 2f(a) + 3f(b)",
                level="formula",
                domain=f"float64, unit vectors, {NOMINAL:g}°",
                quantity="largest length",
                criterion=f"at most {EXACT:g}",
                value=off,
                n=len(a),
                verdict=verdict(off <= EXACT),
            )
        )
    return claims


def _continuity(operators: Mapping[str, PlaneOperator], h: Vectors, basis: Tensor) -> list[Claim]:
    """Measure the jump of AAS at its threshold, from just above to just below.

    In closed form the jump is ``2r |sin((θ ∓ 90°)/2)|``, because φ is ±90° at the threshold.
    """
    r = torch.linspace(0.1, 2, 20, dtype=torch.float64)
    jumps, wanted = [], []
    for side in (1.0, -1.0):
        above = 1e-9 * basis[0] + side * r[:, None] * basis[1]
        below = -1e-9 * basis[0] + side * r[:, None] * basis[1]
        jumps.append((operators[AAS](above, basis, NOMINAL) - operators[AAS](below, basis, NOMINAL)).norm(dim=-1))
        wanted.append(2 * r * abs(math.sin(math.radians(NOMINAL - side * 90) / 2)))
    jump, closed = torch.cat(jumps), torch.cat(wanted)
    off = float((jump - closed).abs().max())
    return [
        Claim(
            id="continuous-AAS",
            statement="AAS is continuous at its threshold",
            formula="‖AAS(h + ε b1) − AAS(h − ε b1)‖ at h·b1 = 0",
            level="formula",
            domain=f"float64, ε = 1e-9, radii 0.1 … 2 on both sides, {NOMINAL:g}°",
            quantity="largest jump for a radius of at most 2",
            criterion="at most 1e-06",
            value=float(jump.max()),
            n=len(jump),
            verdict=verdict(float(jump.max()) <= 1e-6),
            witness={"closed_form": "2r |sin((θ ∓ 90°)/2)|", "off_by": off},
        )
    ]


def _alignment(operators: Mapping[str, PlaneOperator], h: Vectors, basis: Tensor) -> list[Claim]:
    """Test the remark of the paper that a larger angle aligns more with b1.

    The projection on b1 is c1' = r cos(φ + θ), which is not monotone in θ.
    """
    angles = [float(a) for a in range(0, 181, 5)]
    along = torch.stack([operators[SS](h, basis, a) @ basis[0] for a in angles])
    inside = (h @ basis.mT).norm(dim=-1) > MOVED
    steps = along[1:] - along[:-1]
    falls = (steps < -1e-12).any(dim=0) & inside
    rate = wilson(int(falls.sum()), int(inside.sum()))
    row = int((falls & ((h @ basis.mT)[:, 0] > 0)).nonzero()[0]) if bool(falls.any()) else 0
    return [
        Claim(
            id="monotone-alignment",
            statement="turning by a larger angle aligns an activation more with b1 (Selective Steering, appendix B.4)",
            formula="h'·b1 = r cos(φ + θ)",
            level="formula",
            domain="float64, unit vectors, SS from 0° to 180° in steps of 5°",
            quantity="share of vectors whose projection falls somewhere on the way",
            criterion="none falls",
            value=rate.value,
            n=rate.n,
            verdict=verdict(not bool(falls.any())),
            interval=(rate.low, rate.high),
            witness={
                "in_plane": [float(x) for x in h[row] @ basis.mT],
                "at_0": float(along[0, row]),
                "at_180": float(along[-1, row]),
            },
        )
    ]
