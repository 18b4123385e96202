"""Norm claims about the printed formulas: orthonormal bases, bases with a Gram error, and any operators.

Level ``formula`` tests whether an operator keeps the length of every vector for any two orthonormal basis vectors. It
uses float64, an exactly orthonormal basis, drawn vectors and vectors found by a search. Level ``basis`` uses bases with
a given Gram error and compares the change of length with its closed form. The operators are arguments, so that a test
can pass a broken one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.operators import addition, rotation
from lens_steer.stats.rates import wilson
from lens_steer.studies.claim import Claim, verdict
from lens_steer.studies.propositions.norms import (
    PlaneOperator,
    relative_change,
    selective_bound,
    selective_change,
    squared_change,
    standard_change,
    worst_vector,
)

SAS, AAS, SS, ACTADD, ABLATION = "SAS", "AAS", "SS", "ActAdd", "directional ablation"
PLANE_OPERATORS: dict[str, PlaneOperator] = {
    SAS: rotation.standard_angular,
    AAS: rotation.adaptive_angular,
    SS: rotation.selective_rotation,
    ACTADD: lambda h, basis, angle: addition.add_direction(h, basis[0], 1.0),
    ABLATION: lambda h, basis, angle: addition.ablate_direction(h, basis[0]),
}
ANGLES = tuple(float(a) for a in range(10, 360, 10))  # degrees
SEARCHED = (10.0, 90.0, 180.0, 270.0)  # degrees at which the worst vector is searched for
TOLERANCE = 1e-12  # tolerance of ‖h'‖/‖h‖ − 1 in float64, about 5,000 rounding errors
CLOSED_FORM_TOLERANCE = 1e-10  # tolerance of Δ/‖h‖² between measurement and closed form
GRAM_ERRORS = (1e-6, 1e-4, 1e-2, 0.1, 0.3)  # spectral norms ‖E‖ of the Gram error that are tested
SAME_ORDER = 10.0  # two changes within this factor of each other count as of the same order
VECTORS, WIDTHS = 2000, (64, 1536)


def orthonormal(d_model: int, seed: int) -> Float[Tensor, "2 d_model"]:
    """Draw two exactly orthonormal vectors in float64.

    >>> b = orthonormal(8, 0)
    >>> bool((b @ b.T - torch.eye(2, dtype=torch.float64)).abs().max() < 1e-15)
    True
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d_model, 2, generator=generator, dtype=torch.float64)).Q.T.contiguous()


def with_gram_error(basis: Float[Tensor, "2 d_model"], error: float, seed: int) -> Float[Tensor, "2 d_model"]:
    """Return a basis of the same plane with the Gram matrix I + E.

    E is a random symmetric matrix of spectral norm ``error``, which has to be below 1.

    >>> b = with_gram_error(orthonormal(8, 0), 0.25, seed=1)
    >>> round(torch.linalg.matrix_norm(b @ b.T - torch.eye(2, dtype=torch.float64), ord=2).item(), 9)
    0.25
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    symmetric = drawn + drawn.T
    e = error * symmetric / torch.linalg.matrix_norm(symmetric, ord=2)
    # With the Cholesky factor L of I + E, the rows of L B have the Gram matrix L (B Bᵀ) Lᵀ = I + E, and they span the
    # same plane. ‖E‖ < 1 keeps I + E positive definite.
    return torch.linalg.cholesky(torch.eye(2, dtype=torch.float64) + e) @ basis


def drawn_vectors(basis: Float[Tensor, "2 d_model"], n: int, seed: int) -> Float[Tensor, "n d_model"]:
    """Draw random vectors whose lengths spread over six orders of magnitude.

    A quarter of them lies in the plane, and another quarter has most of its length in the plane.
    """
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(n, basis.shape[-1], generator=generator, dtype=torch.float64)
    inside = torch.randn(n, 2, generator=generator, dtype=torch.float64) @ basis
    h[: n // 4] = inside[: n // 4]
    h[n // 4 : n // 2] += 30 * inside[n // 4 : n // 2]
    return h * 10 ** (6 * torch.rand(n, 1, generator=generator, dtype=torch.float64) - 3)


def norm_claims(
    operators: Mapping[str, PlaneOperator] = PLANE_OPERATORS, *, vectors: int = VECTORS, seed: int = 0
) -> list[Claim]:
    """Test for each operator whether it keeps every length, with an orthonormal basis in float64."""
    claims = []
    for name, operator in operators.items():
        worst, changed, tested, witness = 0.0, 0, 0, {}
        for d_model in WIDTHS:
            basis = orthonormal(d_model, seed)
            h = drawn_vectors(basis, vectors, seed + 1)
            over_angles = torch.stack([relative_change(h, operator(h, basis, angle)).abs() for angle in ANGLES])
            highest = over_angles.max(dim=0).values
            changed, tested = changed + int((highest > TOLERANCE).sum()), tested + len(h)
            for angle in SEARCHED:
                sought, _ = worst_vector(operator, basis, angle, seed=seed)
                change = float(relative_change(sought, operator(sought, basis, angle)).abs())
                if change > worst:
                    worst, witness = change, _witness(sought, basis, operator, angle)
            row = int(highest.argmax())
            if float(highest[row]) > worst:
                angle = ANGLES[int(over_angles[:, row].argmax())]
                worst, witness = float(highest[row]), _witness(h[row], basis, operator, angle)
        rate = wilson(changed, tested)
        claims.append(
            Claim(
                id=f"norm-formula-{name}",
                statement=f"{name} keeps the norm of every activation",
                formula="‖h'‖/‖h‖ − 1",
                level="formula",
                domain=f"float64, exactly orthonormal basis, d_model {' and '.join(map(str, WIDTHS))}, "
                f"{len(ANGLES)} angles; drawn h, and h found by gradient ascent",
                quantity="largest |‖h'‖/‖h‖ − 1|",
                criterion=f"at most {TOLERANCE:g}",
                value=worst,
                n=tested,
                verdict=verdict(worst <= TOLERANCE),
                witness={**witness, "share_changed": [rate.value, rate.low, rate.high]},
            )
        )
    return claims


def proposition_claims(
    operators: Mapping[str, PlaneOperator] = PLANE_OPERATORS, *, vectors: int = VECTORS, seed: int = 0
) -> list[Claim]:
    """Test both propositions as printed, the step of the proof of the first, and the norm claims of every operator.

    The step is the one on which the printed proof of Proposition 1 rests.
    """
    measured = norm_claims(operators, vectors=vectors, seed=seed)
    by_name = dict(zip(operators, measured, strict=True))
    sas, ss = by_name[SAS], by_name[SS]
    domain = "float64, any two orthonormal vectors, " + sas.domain.split(", ", 2)[2]
    changes = "some h changes by more than the tolerance at some angle"
    first = replace(
        sas,
        id="proposition-1",
        domain=domain,
        criterion=changes,
        verdict=verdict(float(sas.value or 0) > TOLERANCE),
        statement=(
            "Proposition 1: the rotation of Angular Steering (Eq. 2), which sets an angle, does not preserve "
            "activation norms (Selective Steering, section 3.1 and appendix B.1)"
        ),
    )
    second = replace(
        ss,
        id="proposition-2",
        domain=domain,
        statement=(
            "Proposition 2: the rotation of Selective Steering (Eq. 6), which turns by an angle, preserves activation "
            "norms (section 3.3 and appendix B.2)"
        ),
    )
    return [first, _proof_step(operators[SAS], vectors, seed), second, *measured]


def _proof_step(operator: PlaneOperator, vectors: int, seed: int) -> Claim:
    """Test the step from "h' differs from h" to "their norms differ", at the angle 0 of the printed proof."""
    basis = orthonormal(WIDTHS[0], seed)
    h = drawn_vectors(basis, vectors, seed + 1)
    out = operator(h, basis, 0.0)
    moved = (out - h).norm(dim=-1) > 1e-6 * h.norm(dim=-1)
    rate = wilson(int((relative_change(h, out).abs()[moved] > TOLERANCE).sum()), int(moved.sum()))
    return Claim(
        id="proposition-1-proof",
        statement="the step of the printed proof of Proposition 1: where Eq. 2 at θ = 0 moves an activation, "
        "its norm has changed (Eq. 18)",
        formula="h' ≠ h and ‖h'‖ = ‖h‖",
        level="formula",
        domain="float64, exactly orthonormal basis, drawn h, θ = 0",
        quantity=f"share of the moved vectors whose norm changes by more than {TOLERANCE:g}",
        criterion="every one",
        value=rate.value,
        n=rate.n,
        verdict=verdict(rate.value == 1.0),
        interval=(rate.low, rate.high),
        witness=_witness(h[int(moved.nonzero()[0])], basis, operator, 0.0) if rate.n else {},
    )


def basis_claims(
    operators: Mapping[str, PlaneOperator] = PLANE_OPERATORS, *, vectors: int = 500, seed: int = 0
) -> list[Claim]:
    """Test the exact change of the norm with a basis that is not orthonormal.

    The claims compare the measured change with its closed form, the change under SS with its bound, and the changes
    under SAS and SS with each other.
    """
    deviation, beyond, sizes, n = {SAS: 0.0, SS: 0.0}, -1.0, {SAS: [], SS: []}, 0
    for error in GRAM_ERRORS:
        largest = {SAS: 0.0, SS: 0.0}
        for draw in range(4):
            basis = with_gram_error(orthonormal(64, seed + draw), error, seed + draw)
            h = drawn_vectors(basis, vectors, seed + 10 + draw)
            squared = h.square().sum(dim=-1)
            n += len(h)
            for angle in ANGLES:
                for name, closed in ((SAS, standard_change), (SS, selective_change)):
                    measured = squared_change(h, operators[name](h, basis, angle)) / squared
                    deviation[name] = max(
                        deviation[name], float((measured - closed(h, basis, angle) / squared).abs().max())
                    )
                    largest[name] = max(largest[name], float(measured.abs().max()))
                    if name == SS:
                        beyond = max(beyond, float((measured.abs() - selective_bound(h, basis, angle)).max()))
        for name in (SAS, SS):
            sizes[name].append(largest[name])
    domain = (
        f"float64, d_model 64, ‖E‖ = {', '.join(f'{e:g}' for e in GRAM_ERRORS)}, four bases each, {len(ANGLES)} "
        "angles, drawn h"
    )
    claims = [
        Claim(
            id=f"closed-form-{name}",
            statement=f"the change of {name} with any basis is its closed form",
            formula=text,
            level="basis",
            domain=domain,
            quantity="largest |measured − closed form| of Δ/‖h‖²",
            criterion=f"at most {CLOSED_FORM_TOLERANCE:g}",
            value=deviation[name],
            n=n,
            verdict=verdict(deviation[name] <= CLOSED_FORM_TOLERANCE),
        )
        for name, text in ((SAS, "Δ = r²(1 + uGuᵀ) − 2‖c‖² − 2r cEuᵀ"), (SS, "Δ = qEqᵀ, q = cRᵀ − c"))
    ]
    claims.append(
        Claim(
            id="bound-SS",
            statement="SS changes the squared norm by at most 4 sin²(θ/2) ‖E‖ ρ",
            formula="|Δ|/‖h‖² − 4 sin²(θ/2) ‖E‖ ‖c‖²/‖h‖²",
            level="basis",
            domain=domain,
            quantity="largest excess over the bound",
            criterion=f"at most {CLOSED_FORM_TOLERANCE:g}",
            value=beyond,
            n=n,
            verdict=verdict(beyond <= CLOSED_FORM_TOLERANCE),
        )
    )
    ratios = [a / b for a, b in zip(sizes[SAS], sizes[SS], strict=True)]
    claims.append(
        Claim(
            id="gram-error-separates",
            statement="a basis that is not orthonormal breaks the norm for SAS and not for SS",
            formula="max |Δ_SAS| / max |Δ_SS|",
            level="basis",
            domain=domain,
            quantity="ratio of the largest changes, the largest over ‖E‖",
            criterion=f"above {SAME_ORDER:g} at every ‖E‖",
            value=max(ratios),
            n=n,
            verdict=verdict(min(ratios) > SAME_ORDER),
            witness={"gram_error": list(GRAM_ERRORS), "largest_SAS": sizes[SAS], "largest_SS": sizes[SS]},
        )
    )
    return claims


def _witness(h: Tensor, basis: Tensor, operator: PlaneOperator, angle: float) -> dict[str, object]:
    """Return a case in the fewest numbers: coordinates in the plane, length outside it, length before and after."""
    c = h @ basis.mT
    outside = float((h - c @ basis).norm())
    return {
        "angle": angle,
        "in_plane": [float(x) for x in c],
        "outside": outside,
        "norm_before": float(h.norm()),
        "norm_after": float(operator(h, basis, angle).norm()),
    }
