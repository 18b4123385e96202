"""Import of published Selective Steering calibrations.

A published folder holds ``directions.pt`` (candidates and selected direction, by module path), ``plane.pt`` (b1, b2 and
the mask of discriminative modules) and ``metadata.json``, and often ``config.json``. The archives are read with
``weights_only=True`` only, so a file that would run code on loading is refused. The published basis is bfloat16 and not
orthonormal. It is orthonormalised again, and the Gram error of the published basis is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.directions import unit_rows, zero_rows
from lens_steer.interop.imports.model_facts import guessed_architecture, n_blocks
from lens_steer.interop.imports.planes import plane_calibration
from lens_steer.interop.imports.source_files import existing, load_archive, read_json
from lens_steer.models import sites
from lens_steer.models.layout import KNOWN, known_layout

ARCHIVES = ("directions.pt", "plane.pt")
WHAT = f"a published calibration holds {', '.join(ARCHIVES)} and metadata.json"


def import_official(folder: str | Path) -> Calibration:
    """Read a published calibration folder.

    The candidates are scaled to unit length in float64. b1 and b2 are orthonormalised in that order and keep their
    published signs. The published mask gives the discriminative sites (``rule='imported'``). Class means were never
    published, so the calibration has none.

    Raises:
        LensSteerError: If a file is missing or corrupt, if tensors are absent or do not fit together, or if the
            architecture is unknown.
    """
    path = Path(folder)
    directions, plane = (load_archive(existing(path / name, WHAT)) for name in ARCHIVES)
    facts = read_json(path / "metadata.json", WHAT)
    config = read_json(path / "config.json", WHAT) if (path / "config.json").exists() else {}
    found = _find(directions, plane)
    names = list(found["candidates"])
    model = str(config.get("model", {}).get("name") or path.name)
    architecture = _architecture(names, model)
    layout = known_layout(architecture, n_blocks(names))
    parsed = {name: sites.parse_module(name, layout) for name in names}
    order = sorted(names, key=lambda n: parsed[n].order)
    stacked = torch.stack([found["candidates"][n].double() for n in order])
    selected = str(facts.get("selected_layer"))
    if selected not in parsed:
        raise LensSteerError(
            f"{str(path / 'metadata.json')!r}: selected_layer {selected!r} is none of the {len(names)} candidates"
        )
    mask = {n: bool(found["mask"].get(n, False)) for n in order}
    chosen = tuple(parsed[n].name for n in order if mask[n])
    return plane_calibration(
        found["b1"],
        found["b2"],
        candidates=unit_rows(stacked).float(),
        sites=tuple(parsed[n].name for n in order),
        selected_site=parsed[selected].name,
        discriminative_sites=chosen,
        model=model,
        architecture=architecture,
        n_layers=1 + max(site.block for site in parsed.values()),
        n_positive=int(facts.get("harmful_samples", 0)),
        n_negative=int(facts.get("harmless_samples", 0)),
        published_candidates=torch.stack([found["candidates"][n] for n in order]),
        source_format="selective-steering",
        details={"zero_candidates": int(zero_rows(stacked).sum()), "session_id": str(facts.get("session_id", ""))},
    )


def _find(directions: Any, plane: Any) -> dict[str, Any]:
    """Return the tensors of the two archives, finite vectors of one length."""
    try:
        found = {
            "candidates": dict(directions["candidates"]),
            "b1": plane["basis"][0],
            "b2": plane["basis"][1],
            "mask": dict(plane["extra_info"]["layer_steering_mask"]),
        }
    except (KeyError, TypeError, IndexError) as error:
        raise LensSteerError(
            f"the archives lack {error}: expected 'candidates' in directions.pt, 'basis' and "
            "extra_info.layer_steering_mask in plane.pt"
        ) from None
    tensors: Mapping[str, Any] = {**found["candidates"], "b1": found["b1"], "b2": found["b2"]}
    shapes = {tuple(t.shape) if isinstance(t, Tensor) else None for t in tensors.values()}
    if len(shapes) != 1 or len(next(iter(shapes)) or ()) != 1:
        raise LensSteerError(
            f"candidates and basis must be vectors of one length, found shapes {sorted(map(str, shapes))}"
        )
    bad = [name for name, t in tensors.items() if not torch.isfinite(t).all()]
    if bad:
        raise LensSteerError(f"{bad[0]!r} holds values that are not finite")
    return found


def _architecture(names: list[str], model: str) -> str:
    """Return the architecture of a published calibration.

    This is the architecture that the model's name states, if it has the norms of the file. Otherwise it is the first
    architecture that has them.
    """
    kinds = {re.sub(r".*\.", "", name) for name in names}
    four = "pre_feedforward_layernorm" in kinds
    try:
        said = guessed_architecture(model)
    except LensSteerError:
        said = ""
    if said and ("ln1_post" in KNOWN[said][0]) == four:
        return said
    return "gemma2" if four else "qwen2"
