"""The geometry of a calibration as plain numbers, for ``geometry.json`` and the figures."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lens_steer._display import Shown
from lens_steer.errors import LensSteerError
from lens_steer.geometry.calibration import Calibration, PromptStatistics
from lens_steer.geometry.directions import select_direction, zero_rows
from lens_steer.geometry.discriminative import RULES
from lens_steer.geometry.planes import (
    candidate_share_in_plane,
    gram_error,
    gram_schmidt,
    plane_coordinates,
    principal_component,
)
from lens_steer.geometry.rules import cautions, discriminative_by_rule, sureness, with_separations
from lens_steer.models import sites
from lens_steer.stats.means import bootstrap_means


class GeometrySummary(Shown, dict[str, Any], view="geometry"):
    """The result of :func:`summarise`: plain values by name, ready for JSON."""

    def __repr__(self) -> str:
        found = self["discriminative"]
        return (
            f"GeometrySummary({self['model']}: selected {self['selection']['selected_site']}, {found['n_sites']} of "
            f"{self['n_sites']} sites discriminative)"
        )


def plain(values: Tensor) -> list[float | None]:
    """Return a tensor as a list of floats, with NaN as None."""
    return [None if math.isnan(v) else v for v in values.double().tolist()]


def summarise(calibration: Calibration) -> GeometrySummary:
    """Summarise selection, cosines, plane, candidates in the plane and discriminative sites.

    Intervals are included where per-prompt statistics exist. ``mean_cosine`` leaves zero candidates out of the mean,
    and ``mean_cosine_all_rows`` counts them as published code does. The principal component is reported over the
    nonzero candidates (``plane``) and over all rows (``plane_all_rows``). An imported calibration is summarised from
    the tensors as published, with its basis orthonormalised in float64.
    """
    candidates, basis = _as_published(calibration)
    selection = select_direction(candidates)
    zero = zero_rows(candidates)
    inside = plane_coordinates(candidates, basis)
    kinds = [sites.parse(name).kind for name in calibration.sites]
    found: dict[str, Any] = {
        "model": calibration.model,
        "architecture": calibration.architecture,
        "n_sites": len(calibration.sites),
        "n_blocks": calibration.n_layers,
        "d_model": calibration.d_model,
        "sites": list(calibration.sites),
        "zero_candidates": [name for name, z in zip(calibration.sites, zero, strict=True) if z],
        "selection": {
            "selected_site": calibration.selected_site,
            "selected_index": calibration.selected_index,
            "argmax_site": calibration.sites[selection.index],
            "reproduced": calibration.sites[selection.index] == calibration.selected_site,
            "mean_cosine": plain(selection.mean_cosine),
            "mean_cosine_all_rows": plain(selection.cosine.mean(dim=1)),
            "margin": selection.margin,
        },
        "cosine_matrix": selection.cosine.tolist(),
        "cosine": {
            "adjacent_sites": plain(selection.cosine.diagonal(1)),
            "adjacent_blocks_same_kind": _same_kind(selection.cosine, kinds),
            "off_diagonal": _off_diagonal(selection.cosine, zero),
        },
        "plane": _plane(basis, candidates[~zero]) | {"gram_error": gram_error(calibration.basis)},
        "plane_all_rows": _plane(basis, candidates),
        "candidates_in_plane": {
            "coordinates": inside.coordinates.tolist(),
            "angle": plain(inside.angle),
            "radius": plain(inside.radius),
            "fraction": plain(inside.fraction),
        },
        "discriminative": {
            "rule": calibration.rule,
            "bound": calibration.bound,
            "sites": list(calibration.discriminative_sites),
            "blocks": list(calibration.discriminative_blocks),
            "n_sites": len(calibration.discriminative_sites),
            "share_of_blocks": len(calibration.discriminative_blocks) / calibration.n_layers,
            "selected_inside": calibration.selected_site in calibration.discriminative_sites,
            **_membership(with_separations(calibration)),
        },
        "classes": classes(calibration.statistics, split="fit", seed=calibration.seed),
        "details": dict(calibration.details),
    }
    return GeometrySummary(found)


def _membership(calibration: Calibration) -> dict[str, Any]:
    """Return the measures of each site, the number of sites by every rule at its default bound, and the cautions.

    The measures are the bootstrap probability of membership, AUROC and Cohen's d.
    """
    by_site = {name: getattr(calibration, name) for name in ("membership", "auroc", "cohens_d")}
    found: dict[str, Any] = {name: None if values is None else plain(values) for name, values in by_site.items()}
    by_rule = discriminative_by_rule(calibration) if calibration.rule in RULES else {}
    return found | {
        "sureness": sureness(calibration),
        "n_sites_by_rule": {rule: len(d.sites) for rule, d in by_rule.items()},
        "cautions": list(cautions(calibration)),
    }


def _same_kind(cosine: Tensor, kinds: list[str]) -> dict[str, list[float | None]]:
    rows = {kind: [i for i, k in enumerate(kinds) if k == kind] for kind in dict.fromkeys(kinds)}
    return {kind: plain(cosine[index[:-1], index[1:]]) for kind, index in rows.items()}


def _off_diagonal(cosine: Tensor, zero: Tensor) -> dict[str, float] | None:
    kept = cosine[~zero][:, ~zero]
    off = kept[~torch.eye(len(kept), dtype=torch.bool)]
    return {"mean": float(off.mean()), "min": float(off.min()), "max": float(off.max())} if len(off) else None


def _as_published(calibration: Calibration) -> tuple[Tensor, Tensor]:
    if calibration.published_candidates is None or calibration.published_basis is None:
        return calibration.candidates.double(), calibration.basis.double()
    return calibration.published_candidates.double(), gram_schmidt(*calibration.published_basis)[0]


def _plane(basis: Tensor, candidates: Tensor) -> dict[str, Any]:
    b1, b2 = basis
    found: dict[str, Any] = {}
    for name, center in (("centred", True), ("uncentred", False)):
        found[f"share_in_plane_{name}"] = candidate_share_in_plane(candidates, basis, center=center)
        try:
            axis, shares = principal_component(candidates, center=center)
        except LensSteerError:
            continue
        rest = axis - (axis @ b1) * b1
        found |= {
            f"explained_variance_{name}": plain(shares[:10]),
            f"best_two_dimensions_{name}": float(shares[:2].sum()),
            f"abs_cosine_component_b1_{name}": float((axis @ b1).abs()),
            f"cosine_b2_{name}": float(rest @ b2 / rest.norm()),
        }
    return found


def classes(statistics: PromptStatistics | None, *, split: str, seed: int = 0) -> dict[str, Any] | None:
    """Return projections and norms by class, with bootstrap intervals over prompts; None without statistics."""
    if statistics is None:
        return None
    found: dict[str, Any] = {
        "split": split,
        "n_positive": len(statistics.norm_positive),
        "n_negative": len(statistics.norm_negative),
    }
    for quantity in ("projection", "norm"):
        for side in ("positive", "negative"):
            values = getattr(statistics, f"{quantity}_{side}").double().numpy()
            mean, low, high = bootstrap_means(values, seed=seed)
            found[f"{quantity}_{side}"] = {"mean": mean.tolist(), "low": low.tolist(), "high": high.tolist()}
    return found
