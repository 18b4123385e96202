"""Cells and clusters of the prompts in the rows of a run, and the text of rates by cell.

Steering often moves the prompts of a cell (such as a category of harm) together. A pooled rate of 50 % may then be 0 %
in one cell and 100 % in the other, so rates are also given by cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lens_steer._io.rowstore import Row, Rows
from lens_steer.data import Prompt
from lens_steer.stats.clusters import alone, cluster_numbers
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.rates import clustered_rate

CELL, CLUSTER = LABELS = "cell", "cluster"  # the columns of a row that tell the cell and the cluster of its prompt
MOST_NAMED = 4  # the largest number of cells that a text names one by one
ByCell = Mapping[str, Estimate]


def labels_of(prompt: Prompt) -> dict[str, str | None]:
    """Return the cell and the cluster of a prompt; its scenario is the cluster where no other is named.

    >>> labels_of(Prompt(({"role": "user", "content": "Hi"},), scenario="greeting", cell="small talk"))
    {'cell': 'small talk', 'cluster': 'greeting'}
    """
    return {CELL: prompt.cell, CLUSTER: prompt.scenario if prompt.cluster is None else prompt.cluster}


def labelled(rows: Iterable[Row], sides: Mapping[str, Sequence[Prompt]]) -> Rows:
    """Return the rows of a run with the cells and clusters of their prompts, where the prompts have any.

    The labels are not kept on disk, so they may be given, or given anew, for rows that were measured before.

    Args:
        rows: The rows of a run.
        sides: The prompts of each side, which ``row["prompt"]`` counts.
    """
    by_side = {side: [labels_of(p) for p in prompts] for side, prompts in sides.items()}
    kept = [name for name in LABELS if any(one[name] is not None for found in by_side.values() for one in found)]
    if not kept:
        return Rows(rows)
    return Rows({**row, **{name: by_side[row["side"]][row["prompt"]][name] for name in kept}} for row in rows)


def clusters_of(rows: Sequence[Row]) -> list[str | None] | None:
    """Return the cluster of each row; None where every row is a cluster alone.

    >>> clusters_of([{"cluster": "a"}, {"cluster": "a"}]), clusters_of([{"cluster": "a"}, {}])
    (['a', 'a'], None)
    """
    found = [row.get(CLUSTER) for row in rows]
    return None if alone(found) else found


def counts(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Return the numbers of prompts and of clusters by side; empty where every prompt is a cluster alone.

    >>> rows = [{"side": "positive", "prompt": i, "cluster": "ab"[i // 2]} for i in range(4)]
    >>> counts(rows), counts(rows[:1])
    ({'positive': {'prompts': 4, 'clusters': 2}}, {})
    """
    by_side: dict[str, dict[Any, str | None]] = {}
    for row in rows:
        by_side.setdefault(row["side"], {})[row["prompt"]] = row.get(CLUSTER)
    return {
        side: {"prompts": len(of), "clusters": int(cluster_numbers(list(of.values())).max()) + 1}
        for side, of in by_side.items()
        if not alone(list(of.values()))
    }


def rates_by_cell(rows: Sequence[Row], hits: Sequence[int]) -> dict[str, Estimate]:
    """Return the share of hits in each cell, in the order of the cells' names; rows without a cell are left out.

    Args:
        rows: The rows of one side of a setting.
        hits: 1 for each row that counts, 0 for the others.

    >>> found = rates_by_cell([{"cell": "theft"}, {"cell": "arson"}, {"cell": "theft"}, {}], [1, 0, 1, 1])
    >>> {cell: (rate.value, rate.n) for cell, rate in found.items()}
    {'arson': (0.0, 1), 'theft': (1.0, 2)}
    """
    places: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if row.get(CELL) is not None:
            places.setdefault(row[CELL], []).append(i)
    return {
        cell: clustered_rate([hits[i] for i in at], clusters_of([rows[i] for i in at]))
        for cell, at in sorted(places.items())
    }


def disagree(by_cell: ByCell) -> bool:
    """Return whether the intervals of two cells do not overlap.

    >>> from lens_steer.stats.rates import wilson
    >>> disagree({"a": wilson(0, 32), "b": wilson(32, 32)}), disagree({"a": wilson(1, 4), "b": wilson(3, 4)})
    (True, False)
    """
    return bool(by_cell) and max(e.low for e in by_cell.values()) > min(e.high for e in by_cell.values())


def told(by_cell: ByCell) -> str:
    """Write the percentages by cell where the cells disagree; empty where they do not.

    Of more than four cells it names the lowest and the highest.

    >>> from lens_steer.stats.rates import wilson
    >>> told({"break good": wilson(0, 32), "make bad": wilson(32, 32)})
    ' (break good 0, make bad 100)'
    >>> told({name: wilson(10 * i, 40) for i, name in enumerate("abcde")})
    ' (5 cells: a 0 … e 100)'
    """
    if not disagree(by_cell):
        return ""
    written = [f"{cell} {100 * e.value:.0f}" for cell, e in by_cell.items()]
    if len(written) <= MOST_NAMED:
        return f" ({', '.join(written)})"
    order = sorted(range(len(written)), key=lambda i: list(by_cell.values())[i].value)
    return f" ({len(written)} cells: {written[order[0]]} … {written[order[-1]]})"


def plain(by_cell: Mapping[str, ByCell]) -> dict[str, Any]:
    """Return the rates by quantity and cell as plain values for a record; empty where there are no cells.

    >>> from lens_steer.stats.rates import wilson
    >>> plain({"positive_right": {"theft": wilson(2, 2)}})["by_cell"]["positive_right"]["theft"]["rate"]
    1.0
    """
    found = {
        name: {cell: {"rate": e.value, "low": e.low, "high": e.high, "n": e.n} for cell, e in by.items()}
        for name, by in by_cell.items()
    }
    return {"by_cell": found} if found else {}


def read(record: Mapping[str, Any], quantity: str) -> dict[str, Estimate]:
    """Return a quantity's rates by cell from a record of :func:`plain`; empty where it has none.

    >>> read({"by_cell": {"capable": {"sums": {"rate": 1.0, "low": 0.3, "high": 1.0, "n": 2}}}}, "capable")["sums"].n
    2
    """
    by = record.get("by_cell", {}).get(quantity, {})
    return {cell: Estimate(e["rate"], e["low"], e["high"], e["n"]) for cell, e in by.items()}
