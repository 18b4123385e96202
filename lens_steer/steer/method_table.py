"""What each steering method is, in one line and in one row: the command line's help and the table of the pages. No imports, so both are quick."""

from __future__ import annotations

METHOD_LINES = {
    "selective": "SS: rotate by a relative --angle at the discriminative sites",
    "standard": "SAS: set an absolute --angle at the discriminative sites, lengths kept",
    "adaptive": "AAS: SAS for tokens with h·b1 (--gate-axis 1: h·b2) above --threshold",
    "mean-phase": "X1: the rotating half of SAS, by --angle minus each site's mean phase",
    "phase-collapse": "X2: the collapsing half of SAS, every token to the site's mean phase",
    "act-add": "ActAdd: add --coefficient times the raw difference of class means at the selected site",
    "act-add-keep-norm": "ActAdd, each sum scaled back to the token's own length",
    "ablation": "remove the selected direction at the selected site",
    "ablation-everywhere": "remove it from every block's input and what every attention and MLP adds",
    "compliance": "STEER-COMPLIANCE's form: add --coefficient times each discriminative site's unit candidate",
    "clamp": "STEER-JSON's form: set the projection at the selected site to --target (the positive mean)",
    "swfc": "SwFC: add --coefficient class separations along the selected direction",
    "sttp": "StTP: tokens past the boundary (--gate) get the projection mean + --coefficient standard deviations",
    "stmp": "StMP: tokens past the boundary (--gate) are mirrored at it, or carried further by --coefficient",
}

# formula; what is kept; parameters (defaults); source
METHOD_ROWS = {
    "selective": ("h + (R_θ c − c) B", "norm, inner products, complement of the plane", "θ relative", "2601.19375, Eqs. 6, 10"),
    "standard": ("h + (r u_θ − c) B", "norm, complement", "θ absolute", "2510.26243; 2601.19375, Eq. 2"),
    "adaptive": ("SAS where h·b1 > τ", "norm, complement, ungated tokens", "θ absolute; τ = 0; axis = b1", "2510.26243"),
    "mean-phase": ("SS by θ − φ̄ (X1)", "norm, inner products, complement", "θ absolute; φ̄ of both classes", "here"),
    "phase-collapse": ("SAS at φ̄ (X2)", "norm, complement", "φ̄ of both classes", "here"),
    "act-add": ("h + α d", "what is orthogonal to d", "α = 1; d = μ⁺ − μ⁻, raw", "2406.11717, 2.4"),
    "act-add-keep-norm": ("(h + α d) ‖h‖ / ‖h + α d‖", "norm", "α = 1", "here"),
    "ablation": ("h − (d̂·h) d̂", "what is orthogonal to d", "—", "2406.11717, 2.4"),
    "ablation-everywhere": (
        "the same at every block input, attention and MLP output",
        "what is orthogonal to d",
        "—",
        "2406.11717, 2.4",
    ),
    "compliance": ("h + α v̂, v̂ of each site", "what is orthogonal to v̂", "α = 1.3", "2602.04896"),
    "clamp": ("h + (z̄ − û·h) û", "what is orthogonal to û", "z̄ = positive mean", "2602.04896, Eq. 4"),
    "swfc": ("h + α Δμ v̂", "what is orthogonal to v̂", "α = 1", "2604.08169, Eq. 3"),
    "sttp": (
        "ρ < m: h + (s − ρ) v̂, s = μ⁺ + α σ⁺",
        "what is orthogonal to v̂, ungated tokens",
        "α = 0; gate below",
        "2604.08169, Eq. 4",
    ),
    "stmp": (
        "ρ < m: h + 2α (m − ρ) v̂",
        "what is orthogonal to v̂, ungated tokens",
        "α = 1; cap μ⁺ + 40 σ⁺; gate below",
        "2604.08169, Eq. 5",
    ),
}


def markdown_table() -> str:
    """The operator table of the README and of the guide.

    >>> markdown_table().splitlines()[0]
    "| `--method` | h' | keeps | parameters | source |"
    """
    rows = [f"| `{name}` | {' | '.join(METHOD_ROWS[name])} |" for name in METHOD_LINES]
    return "\n".join(["| `--method` | h' | keeps | parameters | source |", "|---|---|---|---|---|", *rows]) + "\n"
