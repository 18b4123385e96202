"""Probes on disk: a folder with ``probe.safetensors`` and ``probe.json``.

A probe can be used only at the site and on the model on which it was fitted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lens_steer._io.tensors import TensorFolder, all_finite
from lens_steer.errors import LensSteerError
from lens_steer.models import sites
from lens_steer.models.fits import check_fits
from lens_steer.models.layout import layout_row, read_layout_row
from lens_steer.models.loading import info_of
from lens_steer.models.templates import ChatTemplate
from lens_steer.probes.probe import NUMBERS, Probe

FOLDER = TensorFolder(
    name="probe", missing="give a folder of one site, as 'lens-steer probe' writes them", again="fit it again"
)
_REST = (
    "site", "model", "architecture", "n_layers", "pooling", "C", "standardized", "split", "prompt_hash", "n_positive",
    "n_negative",
)  # fmt: skip
_HASHES = ("prompt_hashes_positive", "prompt_hashes_negative")  # absent in folders written before hashes were recorded
MAX_DISAGREEMENT = 1e-4  # the largest distance between the stored direction and weight / ‖weight‖


def save_probe(probe: Probe, folder: str | Path) -> None:
    """Write a probe, completely or not at all; ``delta_mu`` and ``n`` are written too, for readers of the file."""
    facts: dict[str, Any] = {
        **{name: getattr(probe, name) for name in _REST},
        **{name: getattr(probe, attribute) for name, attribute in NUMBERS.items()},
        **{name: list(getattr(probe, name)) for name in _HASHES},
        "delta_mu": probe.separation,
        "n": probe.n_positive + probe.n_negative,
        "template": None if probe.template is None else probe.template.row(),
        **layout_row(probe),
    }
    bias = torch.tensor(probe.bias, dtype=torch.float64)
    FOLDER.write(folder, {"direction": probe.direction, "weight": probe.weight, "bias": bias}, facts)


def load_probe(folder: str | Path, model: Any = None) -> Probe:
    """Read a probe and check it; with a model, check also that it was fitted on this model.

    Raises:
        LensSteerError: If a file is missing, corrupt or contradictory, the format version is unknown, or the model is
            another one.
    """
    tensors, facts = FOLDER.read(folder)
    with FOLDER.decoding(folder):
        hashes: dict[str, Any] = {name: tuple(map(str, facts.get(name) or ())) for name in _HASHES}
        numbers: dict[str, Any] = {attribute: float(facts[name]) for name, attribute in NUMBERS.items()}
        probe = Probe(
            direction=tensors["direction"],
            weight=tensors["weight"],
            bias=float(tensors["bias"]),
            **numbers,
            **{name: facts[name] for name in _REST},
            **hashes,
            template=ChatTemplate.read(facts.get("template")),
            own_layout=read_layout_row(facts),
        )
    _check(probe, str(folder))
    if model is not None:
        check_probe(probe, model)
    return probe


def _check(probe: Probe, folder: str) -> None:
    sites.parse(probe.site)
    if probe.direction.ndim != 1 or probe.direction.shape != probe.weight.shape:
        raise LensSteerError(
            f"probe {folder!r} does not fit together: direction {tuple(probe.direction.shape)}, weight "
            f"{tuple(probe.weight.shape)}"
        )
    numbers = torch.tensor([probe.bias, *(getattr(probe, a) for a in NUMBERS.values())], dtype=torch.float64)
    if not all_finite((probe.direction, probe.weight, numbers)):
        raise FOLDER.refusal(folder, "holds values that are not finite")
    norm = float(probe.weight.double().norm())
    turned = float((probe.weight.double() / norm - probe.direction.double()).norm()) if norm else 1.0
    if turned > MAX_DISAGREEMENT:
        raise FOLDER.refusal(folder, f": direction is not weight / ‖weight‖ (they differ by {turned:.1e})")


def check_probe(probe: Probe, model: Any) -> None:
    """Refuse a probe that was fitted on another model.

    Width, depth, architecture and the last part of the model's name must agree (a folder may have moved).

    Raises:
        LensSteerError: If one of them differs; the message names it.
    """
    check_fits(probe, model)
    fitted, here = (Path(name).name for name in (probe.model, info_of(model).name))
    if fitted != here:
        raise LensSteerError(
            f"the probe at {probe.site} was fitted on {fitted!r} and the model is {here!r}: fit a probe on this model"
        )
