"""The folder of a selected direction: the direction, the scores of all candidates, and their figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lens_steer._io.atomic import check_writable, whole_folder
from lens_steer.data import ContrastSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.direction_selection import STEPS, select_direction
from lens_steer.evaluation.pieces import drop
from lens_steer.evaluation.provenance import provenance
from lens_steer.figures import direction_scores, saving
from lens_steer.geometry.direction_files import save_direction
from lens_steer.geometry.selected_direction import SelectedDirection

FIGURE = "direction_scores"


def select_and_write(
    model: Any, contrast: ContrastSet, out: str | Path, *, command: str = "", seed: int = 0, **how: Any
) -> SelectedDirection:
    """Select a direction and write it to a folder.

    The function writes ``direction.safetensors``, ``direction.json``, ``scores.csv`` and the figure
    ``direction_scores``. What an interrupted call has finished stays in ``.parts``, and the same call goes on from
    there. The scores also stay there if no candidate keeps the bounds, so a call with other bounds takes little time.

    Args:
        model, contrast, seed: See :func:`lens_steer.evaluation.direction_selection.select_direction`.
        out: The folder to write to.
        command: The command line that is recorded beside the figure.
        **how: Further arguments of the selection.

    Raises:
        LensSteerError: If the folder cannot be written or holds a calibration, or if the selection raises it.
    """
    check_out(out)
    found = select_direction(model, contrast, seed=seed, folder=out, **how)
    meta = provenance(model, command=command, seed=seed, prompt_hashes=contrast.hashes, prompts=contrast.record())
    with whole_folder(out) as work:
        save_direction(found, work)
        saving.save(direction_scores.direction_scores_drawing(found), FIGURE, work, meta)
    drop(out, STEPS)
    return found


def check_out(out: str | Path) -> None:
    """Refuse a folder that cannot take a selected direction, before any long computation.

    Raises:
        LensSteerError: If the folder cannot be written, or if it holds a calibration.
    """
    check_writable(out)
    if (Path(out) / "calibration.json").exists():
        raise LensSteerError(
            f"output folder {str(out)!r} holds a calibration, and a plan could be made from either: give another folder"
        )
