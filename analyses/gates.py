"""The organisms' gates as a table (Markdown), from the measurements that are committed beside their weights."""

from __future__ import annotations

import json
from typing import Any

from analyses import tables
from lens_steer._io.tables import markdown
from lens_steer.models.location import ORGANISM_FOLDER, ORGANISMS
from lens_steer.stats.estimates import percent


def measurements() -> dict[str, list[dict[str, Any]]]:
    """Gates by organism, as measured on the committed weights."""
    names = [
        name.removeprefix("organism/")
        for name in ORGANISMS
        if (ORGANISM_FOLDER / name.removeprefix("organism/")).exists()
    ]
    return {name: json.loads((ORGANISM_FOLDER / name / "gates.json").read_text(encoding="utf-8")) for name in names}


def table() -> str:
    """One row a gate: its bound, and value with 95 % Wilson interval of each organism; a gate that is missed is
    marked.
    """
    found = measurements()
    first = next(iter(found.values()))
    rows = []
    for i, gate in enumerate(first):
        bound = (
            "reported" if gate["bound"] is None else f"{'≥' if gate['at_least'] else '≤'} {percent(gate['bound'])} %"
        )
        rows.append((gate["name"], bound, str(gate["n"]), *(_cell(gates[i]) for gates in found.values())))
    return markdown(("gate", "bound", "n", *found), rows)


def _cell(gate: dict[str, Any]) -> str:
    text = percent(gate["value"], gate["low"], gate["high"], form=".1f")
    return text if gate["passed"] else f"**missed:** {text}"


if __name__ == "__main__":
    tables.main("gates", table(), __doc__)
