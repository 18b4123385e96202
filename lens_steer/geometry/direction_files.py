"""Selected directions on disk: ``direction.safetensors``, ``direction.json`` and the scores of all candidates.

The folder is written completely or not at all. ``scores.csv`` has one row for each candidate.
"""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from lens_steer._io.atomic import whole_folder
from lens_steer._io.tables import csv_records
from lens_steer._io.tensors import TensorFolder, all_finite
from lens_steer.geometry.selected_direction import CandidateScore, DirectionBounds, SelectedDirection
from lens_steer.models.layout import layout_row, read_layout_row
from lens_steer.models.templates import ChatTemplate

FOLDER = TensorFolder(
    name="direction", missing="write one with 'lens-steer direction'", again="select the direction again"
)
SCORES = "scores.csv"
COLUMNS = ("position", "block", "refusal_score", "induce_score", "kl", "kept")
_FACTS = (
    "model", "architecture", "n_layers", "backend", "weight_processing", "block", "position", "refusal_score",
    "induce_score", "kl", "baseline_refusal_score", "baseline_induce_score", "n_positive", "n_negative",
    "n_select_positive", "n_select_negative", "n_given", "prompt_hash", "seed", "versions", "details",
)  # fmt: skip
_LISTS = ("refusal_tokens", "openings", "prompt_hashes_positive", "prompt_hashes_negative")


def save_direction(direction: SelectedDirection, folder: str | Path) -> None:
    """Write a selected direction to a folder; existing files are replaced only once everything is written.

    The files are ``direction.safetensors``, ``direction.json`` and ``scores.csv``.

    Raises:
        LensSteerError: If the folder cannot be written.
    """
    facts: dict[str, Any] = {
        **{name: getattr(direction, name) for name in _FACTS},
        "site": direction.site,
        **{name: list(getattr(direction, name)) for name in _LISTS},
        "bounds": {name: v if math.isfinite(v) else None for name, v in asdict(direction.bounds).items()},
        "template": None if direction.template is None else direction.template.row(),
        **layout_row(direction),
    }
    with whole_folder(folder) as work:
        FOLDER.write(work, {"direction": direction.direction}, facts)
        rows = score_rows(direction)
        (work / SCORES).write_text(csv_records(rows, COLUMNS), encoding="utf-8", newline="")


def score_rows(direction: SelectedDirection) -> list[dict[str, Any]]:
    """Return one row for each candidate, with the columns of ``scores.csv``."""
    return [{**asdict(score), "kept": direction.bounds.keep(score, direction.n_layers)} for score in direction.scores]


def load_direction(folder: str | Path) -> SelectedDirection:
    """Read a selected direction from a folder and check it.

    Raises:
        LensSteerError: If a file is missing, truncated or corrupt, if the format version is unknown, or if the files
            contradict each other.
    """
    tensors, facts = FOLDER.read(folder)
    if not (Path(folder) / SCORES).exists():
        raise FOLDER.refusal(folder, f"has no {SCORES}")
    direction = tensors.get("direction", torch.empty(0))
    if direction.ndim != 1 or not all_finite([direction]) or not bool(direction.any()):
        raise FOLDER.refusal(
            folder,
            f": a direction of shape {tuple(direction.shape)}, where a vector that is finite and not zero is needed",
        )
    with FOLDER.decoding(folder):
        with (Path(folder) / SCORES).open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        scores = tuple(
            CandidateScore(
                int(r["position"]), int(r["block"]), *(float(r[n]) for n in ("refusal_score", "induce_score", "kl"))
            )
            for r in rows
        )
        known: dict[str, Any] = {name: facts[name] for name in _FACTS}
        known |= {name: tuple(facts[name]) for name in _LISTS}
        found = SelectedDirection(
            direction=direction,
            scores=scores,
            bounds=_bounds(facts["bounds"]),
            template=ChatTemplate.read(facts.get("template")),
            own_layout=read_layout_row(facts),
            **known,
        )
    chosen = CandidateScore(found.position, found.block, found.refusal_score, found.induce_score, found.kl)
    if chosen not in scores or not 0 <= found.block < found.n_layers:
        raise FOLDER.refusal(
            folder, f": {SCORES} has no candidate at position {found.position} and block {found.block} of these scores"
        )
    return found


def holds_direction(folder: str | Path) -> bool:
    """Return True if a folder holds a selected direction and no calibration.

    >>> holds_direction("figures/calibration")
    False
    """
    return (Path(folder) / FOLDER.facts_file).exists() and not (Path(folder) / "calibration.json").exists()


def _bounds(row: dict[str, float | int | None]) -> DirectionBounds:
    """Return the bounds as they were; null stands for no bound."""
    none = {"min_induce": -math.inf, "max_kl": math.inf}
    names = {f.name for f in fields(DirectionBounds)}
    return DirectionBounds(**{n: none[n] if v is None else v for n, v in row.items() if n in names})
