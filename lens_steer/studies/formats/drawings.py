"""The data of the figure and the tables of the study."""

from __future__ import annotations

from typing import Any

from lens_steer.figures.core import Drawing
from lens_steer.stats.means import middle
from lens_steer.studies.formats.claims import LEVEL
from lens_steer.studies.formats.study import Compared, Formats

VALUES = (
    "cosine", "cosine_other", "jaccard", "jaccard_other", "chance_other",
    "area", "area_there", "random", "random_there",
)  # fmt: skip


def drawings(found: Formats) -> dict[str, Drawing]:
    """Return the drawing of the study, by figure name."""
    return {"format_agreement": Drawing.of("format_agreement", format_rows(found))}


def format_rows(found: Formats) -> list[dict[str, Any]]:
    """Return one row a format, the model's own first: medians over the draws, and the ends of the middle 90 %."""
    return [_row(of) for of in (found.own, *found.others)]


def _row(of: Compared) -> dict[str, Any]:
    kind = "template" if of.format.template is not None else "system prompt" if of.format.system is not None else "own"
    row = {"format": of.format.name, "kind": kind, "same_ids": of.same_ids, "site": of.site, "n_sites": of.n_sites}
    for name in VALUES:
        ends = middle(getattr(of, name), level=LEVEL)
        row |= dict(zip((f"{name}_low", name, f"{name}_high"), ends, strict=True))
    return row
