"""The data of the figure and the tables of the study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lens_steer.figures.core import Drawing
from lens_steer.stats.means import middle
from lens_steer.studies.formats.claims import LEVEL
from lens_steer.studies.formats.study import Formats, PerDraw

OTHER_PROMPTS = "other prompts"


def drawings(found: Formats) -> dict[str, Drawing]:
    """Return the drawing of the study, by figure name."""
    return {"format_agreement": Drawing.of("format_agreement", format_rows(found))}


def format_rows(found: Formats) -> list[dict[str, Any]]:
    """Return one row a format, after one that compares the halves in the own format: medians over the draws, and the
    ends of the middle 90 %.

    In the first row, the areas are those in the own format.
    """
    own = found.own
    first = {"format": OTHER_PROMPTS, "kind": "prompts", "same_ids": None, "site": own.site, "n_sites": own.n_sites}
    values = {
        "cosine": found.prompts_cosine, "jaccard": found.prompts_jaccard, "chance": found.prompts_chance,
        "area": own.area, "area_there": own.area_there, "random": own.random,
    }  # fmt: skip
    rows = [first | _middles(values)]
    for of in found.others:
        kind = "template" if of.format.template is not None else "system prompt"
        row = {"format": of.format.name, "kind": kind, "same_ids": of.same_ids, "site": of.site, "n_sites": of.n_sites}
        rows.append(row | _middles({name: getattr(of, name) for name in values}))
    return rows


def _middles(values: Mapping[str, PerDraw]) -> dict[str, float | None]:
    found = {name: middle(of, level=LEVEL) for name, of in values.items()}
    return {
        f"{name}{end}": value
        for name, (low, median, high) in found.items()
        for end, value in (("", median), ("_low", low), ("_high", high))
    }
