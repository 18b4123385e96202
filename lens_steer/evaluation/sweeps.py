"""Sweeps: every prompt under every setting of a steering method, as rows from which everything else is computed.

All values of a part of a grid run in one batch, each row at its own value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lens_steer._defaults import REMOTE
from lens_steer._io.rowstore import Row, Rows, RowStore
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.cells import labelled
from lens_steer.evaluation.grids import Grid, plan_hash
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.evaluation.sweep_rows import (
    CLOSED_COLUMN,
    COLUMNS,
    ENGINE_COLUMN,
    TEXT_COLUMNS,
    measured_side,
)
from lens_steer.inference import batching
from lens_steer.inference.engines import check_idle
from lens_steer.inference.remote import records_of
from lens_steer.interop.serving.certificate import keep_records
from lens_steer.models.loading import info_of

VALUES_A_PART = 6  # the most values in one part


def run(
    protocol: Protocol,
    grids: Sequence[Grid],
    folder: str | Path,
    name: str,
    *,
    identity: dict[str, Any] | None = None,
    progress: bool = True,
) -> Rows:
    """Run every grid under the protocol and return the rows, which are kept in ``folder/NAME.csv``.

    An interrupted run continues where it stopped. Where prompts have cells or clusters, the rows that are returned tell
    them (:func:`lens_steer.evaluation.cells.labelled`).

    Args:
        protocol: The model, the prompts, and how they are measured.
        grids: The grids, with different names.
        folder, name: The folder and the name of the file.
        identity: Further values on which the grids depend, such as the calibration's hash.
        progress: Whether to show a bar.

    With a serving engine, rows also name the engine that wrote the answer, and its certificates are kept in
    the folder ``folder/NAME.engine``.

    Raises:
        LensSteerError: If two grids have one name, a plan is in force on the model, the folder holds another run, or a
            serving engine cannot carry out a grid's plan.
    """
    names = [g.name for g in grids]
    if len(set(names)) < len(names):
        raise LensSteerError(f"conditions {names} repeat a name: give each grid its own")
    check_idle(protocol.model)
    described = {g.name: {"values": list(g.values), "system": g.system, "plan": plan_hash(g)} for g in grids}
    columns, texts = COLUMNS, TEXT_COLUMNS
    if protocol.engine in REMOTE:
        for grid in grids:
            protocol.engine_of(grid)  # refuses what cannot run before anything is written
        columns, texts = (*COLUMNS, ENGINE_COLUMN), (*TEXT_COLUMNS, ENGINE_COLUMN)
    if protocol.max_thought_tokens is not None:
        columns = (*columns, CLOSED_COLUMN)
    store = RowStore(folder, name, columns, texts, {**protocol.identity, **(identity or {}), "grids": described})
    parts = parts_of(protocol, grids)
    computed = {key: partial(_certified, part, Path(folder) / f"{name}.engine") for key, part in parts.items()}
    rows = store.run(computed, work={key: part.n_prompts for key, part in parts.items()}, progress=progress)
    return labelled(rows, protocol.sides)


def parts_of(protocol: Protocol, grids: Sequence[Grid]) -> dict[str, Part]:
    """Return the parts of a run, by name.

    Each part is measured and kept as one, so an interrupt loses at most one part. A part is one value where the prompts
    of a side fill a batch of the engine. Otherwise it has as many values as fill a batch (at most 6), so that nothing
    runs slower than it could.
    """
    room = batching.rows_a_batch(
        info_of(protocol.model).tokenizer, max(protocol.sides.values(), key=len), protocol.max_new_tokens
    )
    step = min(VALUES_A_PART, max(1, room // max(map(len, protocol.sides.values()))))
    return {
        f"{g:03}-{start:03}-{min(step, len(grid.values) - start)}": Part(
            protocol, grid, grid.values[start : start + step]
        )
        for g, grid in enumerate(grids)
        for start in range(0, len(grid.values), step)
    }


@dataclass(frozen=True)
class Part:
    """Some values of one grid, which are measured when the part is called."""

    protocol: Protocol
    grid: Grid
    values: tuple[float | None, ...]

    @property
    def n_prompts(self) -> int:
        """Return the number of prompts that the part runs."""
        return len(self.values) * sum(map(len, self.protocol.sides.values()))

    def __call__(self) -> list[Row]:
        rows = [
            row
            for side, prompts in self.protocol.sides.items()
            for row in measured_side(self.protocol, self.grid, self.values, side, prompts)
        ]
        order = {v: i for i, v in enumerate(self.values)}
        return sorted(rows, key=lambda row: order[row["value"]])  # stable: keeps the order of sides and prompts


def _certified(part: Part, folder: Path) -> list[Row]:
    """Measure a part, and keep the certificates of a serving engine beside its rows."""
    rows = part()
    keep_records(folder, records_of(part.protocol.model, part.protocol.engine))
    return rows
