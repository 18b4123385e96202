"""Imported directions on disk: a folder with ``directions.safetensors`` and ``directions.json``, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lens_steer._io.atomic import whole_folder
from lens_steer.errors import LensSteerError
from lens_steer.interop.imports.directions import DirectionSet, direction_set, on_model

FORMAT_VERSION = 1
TENSORS, FACTS = "directions.safetensors", "directions.json"
_KINDS = {"model": str, "architecture": str | None, "n_layers": int | None, "source_format": str, "selected_site": str | None}


def save_directions(directions: DirectionSet, folder: str | Path) -> None:
    """Write a set to a folder (``directions.safetensors``, ``directions.json``), whole or not at all."""
    facts = {
        "format_version": FORMAT_VERSION,
        **{name: getattr(directions, name) for name in _KINDS},
        "sites": list(directions.sites),
        "dtype": directions.dtype,
        "details": dict(directions.details),
    }
    with whole_folder(folder) as work:
        save_file({"directions": directions.directions.contiguous()}, work / TENSORS)
        (work / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_directions(folder: str | Path, model: Any = None) -> DirectionSet:
    """Read a set and check it; with a model, also that it fits, see :func:`on_model`.

    Raises:
        LensSteerError: missing, corrupt or contradictory files, an unknown format version, another model.
    """
    path, again = Path(folder), "import it again"
    for name in (TENSORS, FACTS):
        if not (path / name).exists():
            raise LensSteerError(f"directions {str(folder)!r} have no {name}: write them with 'lens-steer import …'")
    try:
        rows, facts = load_file(path / TENSORS)["directions"], json.loads((path / FACTS).read_text(encoding="utf-8"))
        version, names = facts["format_version"], list(facts["sites"])
        options = {name: facts[name] for name in (*_KINDS, "details")}
        wrong = [name for name, kind in _KINDS.items() if not isinstance(options[name], kind)]
        if wrong or not isinstance(options["details"], dict):
            raise TypeError(f"{(*wrong, 'details')[0]} is {options[(*wrong, 'details')[0]]!r}")
    except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
        raise LensSteerError(
            f"directions {str(folder)!r} are corrupt or truncated ({type(error).__name__}: {error}): {again}"
        ) from None
    if version != FORMAT_VERSION:
        raise LensSteerError(
            f"directions {str(folder)!r} have format version {version}, this release reads {FORMAT_VERSION}: {again}"
        )
    if rows.ndim != 2 or len(rows) != len(names) or len(set(names)) != len(names):
        raise LensSteerError(
            f"directions {str(folder)!r} do not fit together: {len(names)} sites, directions {tuple(rows.shape)}: {again}"
        )
    found = direction_set(dict(zip(names, rows, strict=True)), **options)
    return found if model is None else on_model(found, model)
