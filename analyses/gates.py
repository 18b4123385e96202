"""The organisms' gates as a table (Markdown), from the measurements that are committed beside their weights."""

from __future__ import annotations

import json
from typing import Any

from analyses import tables
from lens_steer.models.location import ORGANISM_FOLDER, ORGANISMS


def measurements() -> dict[str, list[dict[str, Any]]]:
    """Gates by organism, as measured on the committed weights."""
    names = [name.removeprefix("organism/") for name in ORGANISMS if (ORGANISM_FOLDER / name.removeprefix("organism/")).exists()]
    return {name: json.loads((ORGANISM_FOLDER / name / "gates.json").read_text(encoding="utf-8")) for name in names}


def table() -> str:
    """One row a gate: its bound, and value with 95 % Wilson interval of each organism; a gate that is missed is marked."""
    found = measurements()
    first = next(iter(found.values()))
    lines = ["| gate | bound | n | " + " | ".join(found) + " |", "|---|---|---|" + "---|" * len(found)]
    for i, gate in enumerate(first):
        bound = "reported" if gate["bound"] is None else f"{'≥' if gate['at_least'] else '≤'} {100 * gate['bound']:.0f} %"
        cells = [_cell(rows[i]) for rows in found.values()]
        lines.append(f"| {gate['name']} | {bound} | {gate['n']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(gate: dict[str, Any]) -> str:
    text = f"{100 * gate['value']:.1f} [{100 * gate['low']:.1f}, {100 * gate['high']:.1f}]"
    return text if gate["passed"] else f"**missed:** {text}"


if __name__ == "__main__":
    tables.main("gates", table(), __doc__)
