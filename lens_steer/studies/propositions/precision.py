"""What rounding does: the formulas run literally in a given arithmetic with a basis kept in a given dtype; and the
planes that were published.

The project's own operators compute in float32 whatever they are given. Here the printed formulas run in half precision
too, as released code runs them.
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
from lens_steer.studies.propositions.norms import Operator, relative_change, selective_bound

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PER_HOOK = 4e-3  # methods' own estimate of what rounding costs a hook at most: 0.4 %
KEPT = 1e-6  # of ‖h'‖/‖h‖ − 1 with a plane kept in float32
SAME_ORDER = 10.0  # changes within this factor are of the same order
COARSE = tuple(float(a) for a in range(0, 360, 30))


def sas_as_printed(
    h: Float[Tensor, "n d_model"], basis: Float[Tensor, "2 d_model"], angle: float
) -> Float[Tensor, "n d_model"]:
    """Eq. 2 term by term, ``h − Ph + ‖Ph‖ (cos θ b1 + sin θ b2)``, in the dtype of ``h``."""
    inside = (h @ basis.mT) @ basis
    u = _angle(angle, h)
    return h - inside + inside.norm(dim=-1, keepdim=True) * (u[0] * basis[0] + u[1] * basis[1])


def ss_as_printed(
    h: Float[Tensor, "n d_model"], basis: Float[Tensor, "2 d_model"], angle: float
) -> Float[Tensor, "n d_model"]:
    """Eq. 6 term by term, ``h − Ph + B R_θ Bᵀ h``, in the dtype of ``h``."""
    c = h @ basis.mT
    u = _angle(angle, h)
    turned = torch.stack([u[0] * c[:, 0] - u[1] * c[:, 1], u[1] * c[:, 0] + u[0] * c[:, 1]], dim=-1)
    return h - c @ basis + turned @ basis


def ablation_as_printed(
    h: Float[Tensor, "n d_model"], basis: Float[Tensor, "2 d_model"], angle: float
) -> Float[Tensor, "n d_model"]:
    """``h − (b1·h) b1`` in the dtype of ``h``."""
    return h - (h @ basis[0])[:, None] * basis[0]


def aas_as_printed(
    h: Float[Tensor, "n d_model"], basis: Float[Tensor, "2 d_model"], angle: float
) -> Float[Tensor, "n d_model"]:
    """Eq. 2 where ``h·b1 > 0``, in the dtype of ``h``."""
    return torch.where((h @ basis[0] > 0)[:, None], sas_as_printed(h, basis, angle), h)


def addition_as_printed(
    h: Float[Tensor, "n d_model"], basis: Float[Tensor, "2 d_model"], angle: float
) -> Float[Tensor, "n d_model"]:
    """``h + b1`` in the dtype of ``h``."""
    return h + basis[0]


LITERAL: dict[str, Operator] = {
    SAS: sas_as_printed, AAS: aas_as_printed, SS: ss_as_printed, ACTADD: addition_as_printed,
    ABLATION: ablation_as_printed,
}  # fmt: skip
BOUND = "bound on SS"


@dataclass(frozen=True)
class Cell:
    """Norm changes of one operator in one pair of dtypes at one angle."""

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
    """Relative norm changes for every operator × dtype of the basis × dtype of the arithmetic × angle, and what SS
    cannot exceed in exact arithmetic.
    """
    cells = []
    for kept_name, kept in DTYPES.items():
        for angle in angles:
            share = selective_bound(h, basis.to(kept).double(), angle).clamp_max(1)
            bound = (
                1 - (1 - share).sqrt()
            )  # |Δ|/‖h‖² ≤ share, so |‖h'‖/‖h‖ − 1| ≤ this, the shrinking side being the larger
            cells += [Cell(BOUND, kept_name, run, angle, float(bound.max()), float(bound.mean())) for run in DTYPES]
    for name, operator in LITERAL.items():
        for kept_name, kept in DTYPES.items():
            for run_name, run in DTYPES.items():
                b, x = basis.to(kept).to(device, run), h.to(device, run)
                for angle in angles:
                    change = relative_change(x, operator(x, b, angle)).abs()
                    cells.append(Cell(name, kept_name, run_name, angle, float(change.max()), float(change.mean())))
    return cells


def dtype_claims(cells: Sequence[Cell], n: int, where: str) -> list[Claim]:
    """How much rounding costs each rotation, and whether it tells the two apart."""
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
            f"rounding-{name}",
            f"rounding changes the norm under {name} by at most 0.4 % a hook",
            "‖h'‖/‖h‖ − 1 of the printed formula",
            "dtype",
            f"basis rounded once to float32, float16, bfloat16 × arithmetic in each, {where}",
            "largest |‖h'‖/‖h‖ − 1| over the nine pairs",
            f"at most {PER_HOOK:g}",
            max(largest[name].values()),
            n,
            verdict(max(largest[name].values()) <= PER_HOOK),
            witness=largest[name],
        )
        for name in (SAS, SS)
    ]
    ratio = max(largest[SAS].values()) / max(largest[SS].values())
    claims.append(
        Claim(
            "rounding-separates",
            "rounding breaks the norm for SAS and not for SS",
            "max change of SAS / max change of SS",
            "dtype",
            where,
            "ratio of the largest changes over the nine pairs",
            f"above {SAME_ORDER:g}",
            ratio,
            n,
            verdict(ratio > SAME_ORDER),
        )
    )
    return claims


def published_claims(calibrations: Mapping[str, Calibration], *, vectors: int = 400, seed: int = 0) -> list[Claim]:
    """The planes as they were shipped, and after re-orthonormalising: worst change of the norm over drawn vectors, in
    float64.
    """
    claims = []
    for name, calibration in calibrations.items():
        if calibration.published_basis is None:
            continue
        shipped, mended = calibration.published_basis.double(), calibration.basis.double()
        h = drawn_vectors(orthonormal(calibration.d_model, seed), vectors, seed)
        h[: vectors // 2] += (
            5 * h[: vectors // 2].norm(dim=-1, keepdim=True) * mended[0]
        )  # as real activations, with length in the plane
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
                    f"published-plane-{op}-{name}",
                    f"the plane published for {name} keeps the norm under {op}",
                    "‖h'‖/‖h‖ − 1",
                    "published",
                    f"float64 arithmetic, {len(COARSE)} angles, drawn h, half of them mostly in the plane; Gram "
                    f"error {gram_error(shipped):.1e} as "
                    f"shipped, {gram_error(mended):.1e} re-orthonormalised",
                    "largest |‖h'‖/‖h‖ − 1| as shipped",
                    f"at most {KEPT:g}",
                    before,
                    vectors,
                    found,
                    witness=worst[op],
                )
            )
    return claims


def _angle(angle: float, like: Tensor) -> Tensor:
    radians = torch.deg2rad(torch.tensor(angle, dtype=torch.float64))
    return torch.stack([torch.cos(radians), torch.sin(radians)]).to(like.device, like.dtype)
