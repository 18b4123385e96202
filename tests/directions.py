"""Selections of a direction that are quick: few prompts, and a looser bound, since no direction of the organisms keeps
all of the published ones.
"""

from __future__ import annotations

from typing import Any

import lens_steer as ls
from lens_steer.geometry.selected_direction import DirectionBounds

LOOSE = DirectionBounds(max_kl=1.0)


def few(contrast: Any) -> Any:
    """Eight prompts of each class to fit on, four to select on."""
    return contrast.first(fit=8, select=4)


def select(model: Any, contrast: Any, **how: Any) -> ls.SelectedDirection:
    """A selection with a loose bound and without a bar."""
    return ls.select_direction(model, contrast, **{"bounds": LOOSE, "progress": False, **how})
