"""Directional ablation and ActAdd as published, in a comparison: with the direction that Arditi et al.'s selection
chooses.

The same operators with the direction of the calibration, chosen by its mean cosine, are conditions of another name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lens_steer.data import ContrastSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import method_grids
from lens_steer.evaluation.direction_selection import STEPS, NoneKeptError, choose, select_direction
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.pieces import drop
from lens_steer.geometry.direction_files import load_direction, save_direction
from lens_steer.geometry.selected_direction import DirectionBounds, SelectedDirection, StreamDirection
from lens_steer.models.loading import info_of
from lens_steer.steer.method_table import find_method

ARDITI = "arditi"
CALIBRATED, UNBOUNDED = "calibrated", "no bounds"  # what follows the method's name in conditions that are not published
WITHOUT_BOUNDS = DirectionBounds(min_induce=-float("inf"), max_kl=float("inf"), max_depth=1.0)
FOLDER = "direction"


@dataclass(frozen=True)
class PublishedDirection:
    """The direction for the methods that take one, or the reason why there is none.

    Attributes:
        direction: The direction; None where no candidate keeps the bounds.
        unbounded: The direction that the selection chooses without bounds, where none keeps them; else None.
        reason: Why there is no direction; empty where there is one, or where none was asked for.
    """

    direction: StreamDirection | None = None
    unbounded: StreamDirection | None = None
    reason: str = ""

    def grids(self, methods: Sequence[str]) -> list[Grid]:
        """Return the grids of the methods that take a direction.

        >>> PublishedDirection().grids(["act-add", "selective"])
        []
        """
        taking = [m for m in methods if find_method(m).takes_direction]
        if self.direction is not None:
            return [g for m in taking for g in method_grids(self.direction, m)]
        if self.unbounded is None:
            return []
        return [replace(g, condition=named(m, UNBOUNDED)) for m in taking for g in method_grids(self.unbounded, m)]

    def left_out(self, methods: Sequence[str]) -> dict[str, str]:
        """Return the reason why a method cannot be run as published, by method.

        >>> PublishedDirection(reason="none of 60 keeps the bounds").left_out(["act-add", "selective"])
        {'act-add': 'none of 60 keeps the bounds'}
        """
        return {m: self.reason for m in methods if self.reason and find_method(m).takes_direction}

    def record(self) -> dict[str, Any]:
        """Return plain values, as in ``comparison.json``."""
        return {
            name: None if found is None else _told(found)
            for name, found in (("direction", self.direction), ("unbounded", self.unbounded))
        } | {"reason": self.reason}


def named(method: str, variant: str) -> str:
    """Return the name of a condition that is not the method as published.

    >>> named("act-add", CALIBRATED)
    'act-add (calibrated)'
    """
    return f"{method} ({variant})"


def check_direction(direction: Any) -> None:
    """Refuse anything but ``"arditi"``, a selected direction or None.

    Raises:
        LensSteerError: If it is something else.
    """
    if direction not in (None, ARDITI) and not isinstance(direction, StreamDirection):
        raise LensSteerError(
            f"direction={direction!r}: give {ARDITI!r} to select one, a direction from ls.select_direction or "
            "ls.load_direction, or None for no direction"
        )


def published_direction(
    model: Any,
    contrast: ContrastSet,
    out: str | Path,
    methods: Sequence[str],
    direction: StreamDirection | str | None = ARDITI,
    **how: Any,
) -> PublishedDirection:
    """Return the direction of a comparison: the given one, or the one that Arditi et al.'s selection chooses.

    A selected direction is kept in ``out/direction`` and read from there when the run is resumed. Where the selection
    is impossible (the model refuses none of the prompts), there is no direction, and the reason is told.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        contrast: The prompts: candidates come from fit, their scores from select.
        out: The folder of the comparison.
        methods: The methods of the comparison; without one that takes a direction, nothing is selected.
        direction: ``"arditi"``, a direction, or None for none.
        **how: Further arguments of :func:`lens_steer.select_direction`.
    """
    if direction is None or not any(find_method(m).takes_direction for m in methods):
        return PublishedDirection()
    if isinstance(direction, StreamDirection):
        return PublishedDirection(direction)
    folder = Path(out) / FOLDER
    found = _kept(folder, model, contrast)
    if found is None:
        try:
            found = select_direction(model, contrast, folder=folder, **how)
        except NoneKeptError:
            found = select_direction(model, contrast, folder=folder, bounds=WITHOUT_BOUNDS, **how)
        except LensSteerError as error:
            return PublishedDirection(reason=str(error))
        save_direction(found, folder)
        drop(folder, STEPS)
    try:
        choose(found.scores, DirectionBounds(), found.n_layers)
    except NoneKeptError as none:
        return PublishedDirection(unbounded=found, reason=str(none))
    return PublishedDirection(found)


def _kept(folder: Path, model: Any, contrast: ContrastSet) -> SelectedDirection | None:
    """Return the direction that a run before left in the folder, if it was of this model and these prompts."""
    if not (folder / "direction.json").exists():
        return None
    kept = load_direction(folder)
    given = [
        {h for part in (contrast.fit, contrast.select) for h in getattr(part, side).hashes}
        for side in ("positive", "negative")
    ]
    used = (set(kept.prompt_hashes_positive), set(kept.prompt_hashes_negative))
    same = all(some <= every for some, every in zip(used, given, strict=True))
    return kept if same and kept.model == info_of(model).name else None


def _told(found: StreamDirection) -> dict[str, Any]:
    scores = ("refusal_score", "baseline_refusal_score", "induce_score", "kl")
    return {
        "block": found.block,
        "position": found.position,
        **{name: getattr(found, name) for name in scores if hasattr(found, name)},
    }
