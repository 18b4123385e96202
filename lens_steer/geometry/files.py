"""Calibrations on disk: a folder with ``calibration.safetensors`` and ``calibration.json``.

It is written completely or not at all.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lens_steer._io.tensors import TensorFolder, all_finite
from lens_steer.errors import LensSteerError
from lens_steer.geometry.calibration import Calibration, PromptStatistics
from lens_steer.geometry.direction_files import holds_direction
from lens_steer.geometry.planes import MAX_GRAM_ERROR, gram_error
from lens_steer.models import sites
from lens_steer.models.layout import layout_row, read_layout_row
from lens_steer.models.templates import ChatTemplate

FOLDER = TensorFolder(
    name="calibration", missing="write one with 'lens-steer calibrate' or 'lens-steer import'", again="calibrate again"
)
_STATISTICS = ("projection_positive", "projection_negative", "norm_positive", "norm_negative")
_OPTIONAL = (
    "mean_positive", "mean_negative", "published_candidates", "published_basis", "stream_mean_positive",
    "stream_mean_negative",
)  # fmt: skip
# Absent in older folders, and in imported calibrations.
_BY_SITE = ("mean_projection_positive", "mean_projection_negative", "membership", "auroc", "cohens_d")
_FACTS = (
    "model", "architecture", "n_layers", "backend", "weight_processing", "selected_site", "rule", "n_positive",
    "n_negative", "prompt_hash", "seed",
)  # fmt: skip
_NAMES = ("sites", "discriminative_sites", "discriminative_blocks")
_HASHES = ("prompt_hashes_positive", "prompt_hashes_negative")  # absent in folders written before hashes were recorded


def save_calibration(calibration: Calibration, folder: str | Path) -> None:
    """Write a calibration to a folder; existing files are replaced only once everything is written."""
    tensors: dict[str, Tensor] = {"candidates": calibration.candidates, "basis": calibration.basis}
    for name in _OPTIONAL:
        if (value := getattr(calibration, name)) is not None:
            tensors[name] = value
    if calibration.statistics is not None:
        tensors |= {name: getattr(calibration.statistics, name) for name in _STATISTICS}

    def listed(values: Tensor | None) -> list[float | None] | None:
        return None if values is None else [float(v) if math.isfinite(v) else None for v in values]

    facts: dict[str, Any] = {
        **{name: getattr(calibration, name) for name in _FACTS},
        **{name: list(getattr(calibration, name)) for name in _NAMES},
        **{name: listed(getattr(calibration, name)) for name in _BY_SITE},
        **{name: list(getattr(calibration, name)) for name in _HASHES if getattr(calibration, name)},
        "bound": calibration.bound,
        "stream_sites": list(calibration.stream_sites),
        "versions": dict(calibration.versions),
        "template": None if calibration.template is None else calibration.template.row(),
        **layout_row(calibration),
        "details": {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in calibration.details.items()
        },
    }
    FOLDER.write(folder, tensors, facts)


def load_calibration(folder: str | Path) -> Calibration:
    """Read a calibration from a folder and check it.

    Raises:
        LensSteerError: If a file is missing, truncated or corrupt, the format version is unknown, shapes or sites do
            not fit together, the basis is not orthonormal, or a value is not finite; or if the folder holds a selected
            direction.
    """
    if holds_direction(folder):
        raise LensSteerError(
            f"{str(folder)!r} holds a selected direction, which only some methods steer by, and no calibration: give a "
            "folder of 'lens-steer calibrate', or load it with load_direction"
        )
    tensors, facts = FOLDER.read(folder)
    absent = [key for key in (*_FACTS, *_NAMES, "versions", "details") if key not in facts]
    absent += [key for key in ("candidates", "basis") if key not in tensors]
    if absent:
        raise FOLDER.refusal(folder, f"lacks {', '.join(absent)}")
    _check_tensors(tensors, facts, str(folder))

    def vector(name: str) -> Tensor | None:
        if (listed := facts.get(name)) is None:
            return None
        return torch.tensor([math.nan if v is None else v for v in listed], dtype=torch.float32)

    statistics = {name: tensors[name] for name in _STATISTICS if name in tensors}
    return Calibration(
        candidates=tensors["candidates"],
        basis=tensors["basis"],
        **{name: tuple(facts[name]) for name in _NAMES},
        bound=facts.get("bound"),
        stream_sites=tuple(facts.get("stream_sites", ())),
        statistics=PromptStatistics(**statistics) if len(statistics) == len(_STATISTICS) else None,
        **{name: tuple(facts.get(name) or ()) for name in _HASHES},
        versions=facts["versions"],
        details=facts["details"],
        template=ChatTemplate.read(facts.get("template")),
        own_layout=read_layout_row(facts),
        **{name: vector(name) for name in _BY_SITE},
        **{name: tensors.get(name) for name in _OPTIONAL},
        **{name: facts[name] for name in _FACTS},
    )


def _check_tensors(tensors: dict[str, Tensor], facts: dict[str, Any], folder: str) -> None:
    sites_, candidates, basis = facts["sites"], tensors["candidates"], tensors["basis"]
    for name in sites_:
        sites.parse(name)
    unknown = {facts["selected_site"], *facts["discriminative_sites"]} - set(sites_)
    if unknown:
        raise LensSteerError(f"calibration {folder!r} names sites that it has no row for: {', '.join(sorted(unknown))}")
    if candidates.ndim != 2 or basis.shape != (2, candidates.shape[-1]) or len(candidates) != len(sites_):
        raise LensSteerError(
            f"calibration {folder!r} does not fit together: {len(sites_)} sites, candidates "
            f"{tuple(candidates.shape)}, basis {tuple(basis.shape)}"
        )
    for name, tensor in tensors.items():
        if not all_finite([tensor]):
            raise FOLDER.refusal(folder, f": {name} holds values that are not finite")
    if (error := gram_error(basis)) > MAX_GRAM_ERROR:
        raise FOLDER.refusal(folder, f": the basis is not orthonormal (max|G − I| = {error:.1e})")
