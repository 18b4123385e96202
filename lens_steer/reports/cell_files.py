"""The file of the rates by cell, which a sweep and a comparison write where their prompts have cells."""

from __future__ import annotations

from collections.abc import Iterable

from lens_steer._io import tables
from lens_steer.evaluation.selection import Setting

BY_CELL = "by_cell.csv"


def by_cell_file(found: Iterable[Setting]) -> list[tuple[str, str]]:
    """Return the name and the text of the file of rates by cell; an empty list where no prompt has a cell.

    The file has one row for each setting, quantity and cell, with ``rate``, ``low``, ``high`` and ``n``.

    >>> from lens_steer.stats.rates import wilson
    >>> theft = {"positive_right": {"theft": wilson(1, 2)}}
    >>> ((name, text),) = by_cell_file([Setting("no steering", "", None, "report", {}, by_cell=theft)])
    >>> name, text.splitlines()[0]
    ('by_cell.csv', 'condition,variant,value,split,quantity,cell,rate,low,high,n')
    """
    rows = [row for setting in found for row in setting.cell_rows()]
    return [(BY_CELL, tables.csv_records(rows))] if rows else []
