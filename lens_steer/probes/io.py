"""Probes on disk: a folder with ``probe.safetensors`` and ``probe.json``, that loads only onto the site and the model it was fitted on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lens_steer._io.atomic import whole_folder
from lens_steer.errors import LensSteerError
from lens_steer.models import sites
from lens_steer.models.fits import check_fits
from lens_steer.models.loading import info_of
from lens_steer.models.templates import ChatTemplate
from lens_steer.probes.probe import Probe

FORMAT_VERSION = 1
TENSORS, FACTS = "probe.safetensors", "probe.json"
# name in the file → attribute
_NUMBERS = {
    "threshold": "threshold", "mu_positive": "mean_positive", "mu_negative": "mean_negative", "sigma_positive": "std_positive",
    "sigma_negative": "std_negative",
}  # fmt: skip
_REST = (
    "site",
    "model",
    "architecture",
    "n_layers",
    "pooling",
    "C",
    "standardized",
    "split",
    "prompt_hash",
    "n_positive",
    "n_negative",
)
_HASHES = ("prompt_hashes_positive", "prompt_hashes_negative")
MAX_DISAGREEMENT = 1e-4  # between direction and threshold as written and as weight and bias give them


def save_probe(probe: Probe, folder: str | Path) -> None:
    """Write a probe, whole or not at all; ``delta_mu`` and ``n`` are written besides for whoever reads the file."""
    facts: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        **{name: getattr(probe, name) for name in _REST},
        **{name: getattr(probe, attribute) for name, attribute in _NUMBERS.items()},
        **{name: list(getattr(probe, name)) for name in _HASHES},
        "delta_mu": probe.separation,
        "n": probe.n_positive + probe.n_negative,
        "template": None if probe.template is None else probe.template.row(),
    }
    tensors = {
        "direction": probe.direction.contiguous(), "weight": probe.weight.contiguous(), "bias": torch.tensor(probe.bias, dtype=torch.float64),
    }  # fmt: skip
    with whole_folder(folder) as work:
        save_file(tensors, work / TENSORS)
        (work / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_probe(folder: str | Path, model: Any = None) -> Probe:
    """Read a probe and check it; with a model, also that it was fitted on it.

    Raises:
        LensSteerError: missing, corrupt or contradictory files, an unknown format version, another model.
    """
    path = Path(folder)
    for name in (TENSORS, FACTS):
        if not (path / name).exists():
            raise LensSteerError(
                f"probe {str(folder)!r} has no {name}: give a folder of one site, as 'lens-steer probe' writes them"
            )
    try:
        tensors, facts = load_file(path / TENSORS), json.loads((path / FACTS).read_text(encoding="utf-8"))
        if facts["format_version"] != FORMAT_VERSION:
            raise LensSteerError(
                f"probe {str(folder)!r} has format version {facts['format_version']}, this release reads {FORMAT_VERSION}: fit it again"
            )
        probe = Probe(
            direction=tensors["direction"], weight=tensors["weight"], bias=float(tensors["bias"]),
            **{attribute: float(facts[name]) for name, attribute in _NUMBERS.items()}, **{name: facts[name] for name in _REST},
            template=ChatTemplate.read(facts.get("template")), prompt_hashes_positive=_hashes(facts, "positive"), prompt_hashes_negative=_hashes(facts, "negative"),
        )  # fmt: skip
    except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
        raise LensSteerError(
            f"probe {str(folder)!r} is corrupt or truncated ({type(error).__name__}: {error}): fit it again"
        ) from None
    _check(probe, str(folder))
    if model is not None:
        check_probe(probe, model)
    return probe


def _hashes(facts: dict[str, Any], side: str) -> tuple[str, ...]:
    """Of a class's prompts; none in folders of before they were recorded."""
    return tuple(map(str, facts.get(f"prompt_hashes_{side}") or ()))


def _check(probe: Probe, folder: str) -> None:
    sites.parse(probe.site)
    if probe.direction.ndim != 1 or probe.direction.shape != probe.weight.shape:
        raise LensSteerError(
            f"probe {folder!r} does not fit together: direction {tuple(probe.direction.shape)}, weight {tuple(probe.weight.shape)}"
        )
    numbers = torch.tensor([probe.bias, *(getattr(probe, attribute) for attribute in _NUMBERS.values())], dtype=torch.float64)
    if not all(bool(torch.isfinite(t).all()) for t in (probe.direction, probe.weight, numbers)):
        raise LensSteerError(f"probe {folder!r} holds values that are not finite: fit it again")
    norm = float(probe.weight.double().norm())
    turned = float((probe.weight.double() / norm - probe.direction.double()).norm()) if norm else 1.0
    if turned > MAX_DISAGREEMENT:
        raise LensSteerError(f"probe {folder!r}: direction is not weight / ‖weight‖ (they differ by {turned:.1e}): fit it again")


def check_probe(probe: Probe, model: Any) -> None:
    """Refuse a probe that was fitted on another model: by width, depth, architecture, and the last part of its name (a folder may have moved).

    Raises:
        LensSteerError: naming what differs.
    """
    check_fits(probe, model)
    fitted, here = (Path(name).name for name in (probe.model, info_of(model).name))
    if fitted != here:
        raise LensSteerError(
            f"the probe at {probe.site} was fitted on {fitted!r} and the model is {here!r}: fit a probe on this model"
        )
