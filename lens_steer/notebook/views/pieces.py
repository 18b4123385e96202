"""The table and the page of a result, apart from their markup, and the registries of both by type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped

from lens_steer.errors import installed
from lens_steer.notebook.views import html

if TYPE_CHECKING:
    from pandas import DataFrame

# the unit of a column whose name does not contain it
UNITS = {
    "kl": "nats", "kl_reverse": "nats", "entropy": "nats", "entropy_steered": "nats", "surprise": "nats",
    "surprise_steered": "nats", "refusal_score": "nats", "surprise_ref": "nats", "surprise_self": "nats",
    "angle": "degrees", "mean_phase": "degrees", "first_angle": "degrees", "second_angle": "degrees",
}  # fmt: skip
ENDS = ("_low", "_high", "_n")


@dataclass(frozen=True, eq=False)
class Table:
    """Named columns of equal length.

    A table becomes a pandas frame only on request, since pandas turns whole numbers beside missing ones into floats.

    Attributes:
        columns: The columns by name.
        labels: The columns that identify a row; they become the index.
        block: Further columns numbered from 0, one vector for each row; None where there are none.
        numbered: The name of the block's column number.
    """

    columns: Mapping[str, Sequence[Any] | Shaped[np.ndarray, " rows"]]
    labels: tuple[str, ...] = ()
    block: Shaped[np.ndarray, "rows width"] | None = None
    numbered: str = "dimension"

    @staticmethod
    def of(rows: Sequence[Mapping[str, Any]], *labels: str) -> Table:
        """Make a table from rows.

        A column that a row lacks is None there. Units are appended to the columns' names. Without rows, the labels are
        the only columns.
        """
        names = list(dict.fromkeys(name for row in rows for name in row)) or labels
        return Table(
            {with_unit(name): [row.get(name) for row in rows] for name in names}, tuple(with_unit(n) for n in labels)
        )

    def rows(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Return the first rows, without the block; None returns all."""
        return [
            dict(zip(self.columns, values, strict=True))
            for values in zip(*(c[:limit] for c in self.columns.values()), strict=True)
        ]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def frame(self) -> DataFrame:
        """Return the table as a pandas frame.

        Raises:
            LensSteerError: If pandas is not installed.
        """
        pandas = installed("pandas", "to_pandas() needs pandas, which is not installed here: pip install pandas")
        index = None
        if len(self.labels) == 1:
            index = pandas.Index(self.columns[self.labels[0]], name=self.labels[0])
        elif self.labels:  # levels keep the order of the rows, so that pandas finds a label without a sorted index
            found = [pandas.factorize(pandas.Series(self.columns[name])) for name in self.labels]
            index = pandas.MultiIndex(
                [values for _, values in found], [codes for codes, _ in found], names=list(self.labels)
            )
        if self.block is not None:
            return pandas.DataFrame(
                self.block, index=index, columns=pandas.RangeIndex(self.block.shape[1], name=self.numbered)
            )
        return pandas.DataFrame(
            {name: list(c) for name, c in self.columns.items() if name not in self.labels}, index=index
        )


@dataclass(frozen=True)
class Page:
    """The content of a notebook view.

    Attributes:
        title: The first line.
        facts: The names and values below it.
        parts: HTML that :mod:`lens_steer.notebook.views.html` made, and so escaped.
    """

    title: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[str, ...] = ()

    def html(self) -> str:
        """Return the page as one ``div`` element."""
        return f"<div>{html.heading(self.title)}{html.facts(self.facts)}{''.join(self.parts)}</div>"


def with_unit(name: str) -> str:
    """Return a column's name with its unit.

    >>> with_unit("kl"), with_unit("refusal_score_low"), with_unit("token")
    ('kl_nats', 'refusal_score_nats_low', 'token')
    """
    end = next((e for e in ENDS if name.endswith(e)), "")
    unit = UNITS.get(name.removesuffix(end))
    return name if unit is None else f"{name.removesuffix(end)}_{unit}{end}"


@singledispatch
def table_of(result: Any) -> Table:
    """Return the table of a result, by its type."""
    raise TypeError(f"{type(result).__name__} has no table")


@singledispatch
def page_of(result: Any) -> Page:
    """Return the page of a result, by its type; a type without a page of its own shows the beginning of its table."""
    table = table_of(result)
    return Page(repr(result), parts=(html.grid(table.rows(html.LIMIT), of=len(table)),))
