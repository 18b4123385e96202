"""Effects of rounding on the norm: printed formulas in a given arithmetic, bases in a given dtype, published planes.

The project's own operators compute in float32 (in float64 for float64 vectors), whatever the hidden dtype. Here the
printed formulas are evaluated literally, in half precision too, as released code evaluates them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.planes import gram_error
from lens_steer.studies.claim import Claim, verdict
from lens_steer.studies.propositions.formula import AAS, ABLATION, ACTADD, SAS, SS, drawn_vectors, orthonormal
from lens_steer.studies.propositions.norms import PlaneOperator, relative_change, selective_bound

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PER_HOOK = 4e-3  # this project's estimate of the largest relative norm change by rounding in one hook: 0.4 %
KEPT = 1e-6  # tolerance of ‖h'‖/‖h‖ − 1 with a plane stored in float32
SAME_ORDER = 10.0  # two changes within this factor of each other count as of the same order
COARSE = tuple(float(a) for a in range(0, 360, 30))


def sas_as_printed(
    h: Float[Tensor, "n d_model"], basis: Float[Tensor, "2 d_model"], angle: float
) -> Float[Tensor, "n d_model"]:
    """Evaluate Eq. 2 term by term, ``h − Ph + ‖Ph‖ (cos θ b1 + sin θ b2)``, in the dtype of ``h``."""
    inside = (h @ basis.mT) @ basis
    u = _angle(angle, h)
    return h - inside + inside.norm(dim=-1, keepdim=True) * (u[0] * basis[0] + u[1] * basis[1])


def ss_as_printed(
    h: Float[Tensor, "n d_model"], basis: Float[Tensor, "2 d_model"], angle: float
) -> Float[Tensor, "n d_model"]:
    """Evaluate Eq. 6 term by term, ``h − Ph + B R_θ Bᵀ h``, in the dtype of ``h``."""
    c = h @ basis.mT
    u = _angle(angle, h)
    turned = torch.stack([u[0] * c[:, 0] - u[1] * c[:, 1], u[1] * c[:, 0] + u[0] * c[:, 1]], dim=-1)
    return h - c @ basis + turned @ basis


def ablation_as_printed(
    h: Float[Tensor, "n d_model"], basis: Float[Tensor, "2 d_model"], angle: float
) -> Float[Tensor, "n d_model"]:
    """Evaluate ``h − (b1·h) b1`` in the dtype of ``h``; the angle has no effect."""
    return h - (h @ basis[0])[:, None] * basis[0]


def aas_as_printed(
    h: Float[Tensor, "n d_model"], basis: Float[Tensor, "2 d_model"], angle: float
) -> Float[Tensor, "n d_model"]:
    """Evaluate Eq. 2 where ``h·b1 > 0``, in the dtype of ``h``; other vectors stay as they are."""
    return torch.where((h @ basis[0] > 0)[:, None], sas_as_printed(h, basis, angle), h)


def addition_as_printed(
    h: Float[Tensor, "n d_model"], basis: Float[Tensor, "2 d_model"], angle: float
) -> Float[Tensor, "n d_model"]:
    """Evaluate ``h + b1`` in the dtype of ``h``; the angle has no effect."""
    return h + basis[0]


LITERAL: dict[str, PlaneOperator] = {
    SAS: sas_as_printed, AAS: aas_as_printed, SS: ss_as_printed, ACTADD: addition_as_printed,
    ABLATION: ablation_as_printed,
}  # fmt: skip
BOUND = "bound on SS"


@dataclass(frozen=True)
class Cell:
    """Norm changes of one operator in one pair of dtypes at one angle.

    Attributes:
        operator: Name of the operator, or :data:`BOUND` for the bound on SS.
        basis_dtype: Dtype to which the basis was rounded once.
        arithmetic: Dtype of the vectors and of the computation.
        angle: Angle in degrees.
        largest: Largest ``|‖h'‖/‖h‖ − 1|`` over the vectors.
        mean: Mean ``|‖h'‖/‖h‖ − 1|`` over the vectors.
    """

    operator: str
    basis_dtype: str
    arithmetic: str
    angle: float
    largest: float
    mean: float


def grid(
    basis: Float[Tensor, "2 d_model"],
    h: Float[Tensor, "n d_model"],
    angles: Sequence[float] = COARSE,
    device: str = "cpu",
) -> list[Cell]:
    """Measure relative norm changes for every operator × dtype of the basis × dtype of the arithmetic × angle.

    The cells of :data:`BOUND` hold the change that SS cannot exceed in exact arithmetic.
    """
    cells = []
    for kept_name, kept in DTYPES.items():
        for angle in angles:
            share = selective_bound(h, basis.to(kept).double(), angle).clamp_max(1)
            # |Δ|/‖h‖² ≤ share implies |‖h'‖/‖h‖ − 1| ≤ 1 − √(1 − share), because for the
            # same |Δ| a vector that shrinks changes by more than a vector that grows.
            bound = 1 - (1 - share).sqrt()
            cells += [Cell(BOUND, kept_name, run, angle, float(bound.max()), float(bound.mean())) for run in DTYPES]
    for name, operator in LITERAL.items():
        for kept_name, kept in DTYPES.items():
            for run_name, run in DTYPES.items():
                b, x = basis.to(kept).to(device, run), h.to(device, run)
                for angle in angles:
                    change = relative_change(x, operator(x, b, angle)).abs()
                    cells.append(Cell(name, kept_name, run_name, angle, float(change.max()), float(change.mean())))
    return cells


def drawn(seed: int) -> tuple[Float[Tensor, "2 d_model"], Float[Tensor, "n d_model"]]:
    """Draw the basis and the vectors, of root-mean-square 1, on which the effects of rounding are measured.

    >>> basis, h = drawn(0)
    >>> basis.shape[-1], len(h)
    (512, 256)
    """
    basis = orthonormal(512, seed)
    h = drawn_vectors(basis, 256, seed + 1)
    return basis, h / h.norm(dim=-1, keepdim=True) * h.shape[-1] ** 0.5


def dtype_claims(cells: Sequence[Cell], n: int, where: str) -> list[Claim]:
    """Test how much rounding changes the norm under SAS and SS, and whether it separates the two."""
    largest = {
        name: {
            f"{b} basis, {a} arithmetic": max(
                c.largest for c in cells if (c.operator, c.basis_dtype, c.arithmetic) == (name, b, a)
            )
            for b in DTYPES
            for a in DTYPES
        }
        for name in (SAS, SS)
    }
    claims = [
        Claim(
            id=f"rounding-{name}",
            statement=f"rounding changes the norm under {name} by at most 0.4 % a hook",
            formula="‖h'‖/‖h‖ − 1 of the printed formula",
            level="dtype",
            domain=f"basis rounded once to float32, float16, bfloat16 × arithmetic in each, {where}",
            quantity="largest |‖h'‖/‖h‖ − 1| over the nine pairs",
            criterion=f"at most {PER_HOOK:g}",
            value=max(largest[name].values()),
            n=n,
            verdict=verdict(max(largest[name].values()) <= PER_HOOK),
            witness=largest[name],
        )
        for name in (SAS, SS)
    ]
    ratio = max(largest[SAS].values()) / max(largest[SS].values())
    claims.append(
        Claim(
            id="rounding-separates",
            statement="rounding breaks the norm for SAS and not for SS",
            formula="max change of SAS / max change of SS",
            level="dtype",
            domain=where,
            quantity="ratio of the largest changes over the nine pairs",
            criterion=f"above {SAME_ORDER:g}",
            value=ratio,
            n=n,
            verdict=verdict(ratio > SAME_ORDER),
        )
    )
    return claims


def published_claims(calibrations: Mapping[str, Calibration], *, vectors: int = 400, seed: int = 0) -> list[Claim]:
    """Test the published planes, as shipped and after re-orthonormalising, in float64.

    The value is the largest change of the norm over drawn vectors. A calibration without a published basis is left out.
    """
    claims = []
    for name, calibration in calibrations.items():
        if calibration.published_basis is None:
            continue
        shipped, mended = calibration.published_basis.double(), calibration.basis.double()
        h = drawn_vectors(orthonormal(calibration.d_model, seed), vectors, seed)
        # Real activations have much of their length in the plane, so half of the vectors get a large part along b1.
        h[: vectors // 2] += 5 * h[: vectors // 2].norm(dim=-1, keepdim=True) * mended[0]
        worst = {
            op: {
                label: max(float(relative_change(h, LITERAL[op](h, b, angle)).abs().max()) for angle in COARSE)
                for label, b in (("as shipped", shipped), ("re-orthonormalised", mended))
            }
            for op in (SAS, SS)
        }
        for op in (SAS, SS):
            before, after = worst[op].values()
            found = verdict(before <= KEPT) if before <= KEPT or after > KEPT else "HOLDS UNDER re-orthonormalising"
            claims.append(
                Claim(
                    id=f"published-plane-{op}-{name}",
                    statement=f"the plane published for {name} keeps the norm under {op}",
                    formula="‖h'‖/‖h‖ − 1",
                    level="published",
                    domain=f"float64 arithmetic, {len(COARSE)} angles, drawn h, half of them mostly in the plane; "
                    f"Gram error {gram_error(shipped):.1e} as shipped, {gram_error(mended):.1e} re-orthonormalised",
                    quantity="largest |‖h'‖/‖h‖ − 1| as shipped",
                    criterion=f"at most {KEPT:g}",
                    value=before,
                    n=vectors,
                    verdict=found,
                    witness=worst[op],
                )
            )
        claims.append(_at_identity(name, shipped, h))
    return claims


def _at_identity(name: str, shipped: Float[Tensor, "2 d_model"], h: Float[Tensor, "n d_model"]) -> Claim:
    """Test the one reading of Proposition 1 that the released code bears out: rounding at the identity angle.

    At 0° SS leaves an activation as it is, up to rounding, while SAS puts its part in the plane along b1, and a plane
    that was rounded once does not keep that part's length.
    """
    at = {
        f"{angle:g}°, {label}": {
            op: float(relative_change(h.to(dtype), LITERAL[op](h.to(dtype), shipped.to(dtype), angle)).abs().max())
            for op in (SAS, SS)
        }
        for angle in (0.0, 30.0, 180.0)
        for label, dtype in (("bfloat16", torch.bfloat16), ("float64", torch.float64))
    }
    rounded = at["0°, bfloat16"]
    return Claim(
        id=f"published-identity-{name}",
        statement=f"at 0°, with the plane published for {name} and in its arithmetic, SAS changes norms more than SS "
        "does (what of Proposition 1 the released code bears out)",
        formula="‖h'‖/‖h‖ − 1",
        level="published",
        domain="plane as shipped, bfloat16 arithmetic, 0°, drawn h, half of them mostly in the plane",
        quantity=f"largest change of SAS over that of SS ({rounded[SAS]:.1e} and {rounded[SS]:.1e}); what an error of "
        "this size does is in the claims on norm errors",
        criterion="above 1",
        value=rounded[SAS] / rounded[SS],
        n=len(h),
        verdict=verdict(rounded[SAS] > rounded[SS]),
        witness=at,
    )


def _angle(angle: float, like: Tensor) -> Tensor:
    radians = torch.deg2rad(torch.tensor(angle, dtype=torch.float64))
    return torch.stack([torch.cos(radians), torch.sin(radians)]).to(like.device, like.dtype)
