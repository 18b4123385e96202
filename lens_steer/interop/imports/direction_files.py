"""Imported directions on disk, as a folder with ``directions.safetensors`` and ``directions.json``.

The folder is written completely or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lens_steer._io.tensors import TensorFolder
from lens_steer.interop.imports.directions import DirectionSet, direction_set, on_model
from lens_steer.models.layout import layout_row, read_layout_row

FOLDER = TensorFolder(name="directions", missing="write them with 'lens-steer import …'", again="import it again")
_KINDS = {
    "model": str,
    "architecture": str | None,
    "n_layers": int | None,
    "source_format": str,
    "selected_site": str | None,
}


def save_directions(directions: DirectionSet, folder: str | Path) -> None:
    """Write directions to a folder (``directions.safetensors``, ``directions.json``), completely or not at all."""
    facts = {
        **{name: getattr(directions, name) for name in _KINDS},
        "sites": list(directions.sites),
        "dtype": directions.dtype,
        "details": dict(directions.details),
        **layout_row(directions),
    }
    FOLDER.write(folder, {"directions": directions.directions}, facts)


def load_directions(folder: str | Path, model: Any = None) -> DirectionSet:
    """Read directions from a folder and check them.

    If a model is given, the directions must fit it; see :func:`~lens_steer.interop.imports.directions.on_model`.

    Raises:
        LensSteerError: If a file is missing, corrupt or contradictory, if the format version is unknown, or if the
            directions belong to another model.
    """
    tensors, facts = FOLDER.read(folder)
    with FOLDER.decoding(folder):
        rows, names = tensors["directions"], list(facts["sites"])
        kinds = {**_KINDS, "details": dict}
        options = {name: facts[name] for name in kinds}
        wrong = next((name for name, kind in kinds.items() if not isinstance(options[name], kind)), None)
        if wrong is not None:
            raise TypeError(f"{wrong} is {options[wrong]!r}")
        options["own_layout"] = read_layout_row(facts)
    if rows.ndim != 2 or len(rows) != len(names) or len(set(names)) != len(names):
        raise FOLDER.refusal(folder, f"do not fit together: {len(names)} sites, directions {tuple(rows.shape)}")
    found = direction_set(dict(zip(names, rows, strict=True)), **options)
    return found if model is None else on_model(found, model)
