"""View of an estimate."""

from __future__ import annotations

from dataclasses import asdict

from lens_steer.notebook.views.pieces import Page, Table, page_of, table_of
from lens_steer.stats.estimates import Estimate


@table_of.register
def _(estimate: Estimate) -> Table:
    """Return one row: ``value``, ``low``, ``high``, ``n``."""
    return Table.of([asdict(estimate)])


@page_of.register
def _(estimate: Estimate) -> Page:
    return Page(f"{estimate}", {"interval": "95 %"})
