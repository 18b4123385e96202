"""Views of whole studies: the recovery of a trait, and the side effects of benign steering."""

from __future__ import annotations

from typing import Any

from lens_steer.notebook.views import html
from lens_steer.notebook.views.pieces import Page, Table, page_of, table_of
from lens_steer.notebook.views.sweeps import settings_grid
from lens_steer.stats.estimates import Estimate, percent
from lens_steer.studies.externalities.found import Externalities
from lens_steer.studies.traits import table as trait_table
from lens_steer.studies.traits.found import TraitReport
from lens_steer.studies.traits.search import TraitResult

# The shares of a condition that are shown.
SHARES = ("attack", "positive_refused", "negative_right", "capable", "json_unasked")


@table_of.register
def _(found: TraitResult) -> Table:
    """Return one row for each condition on the report split.

    The answers under the malicious prompt are the positive side: ``positive_right`` is the share with the trait under
    it, and ``negative_right`` the share under the aligned prompt.
    """
    return Table.of([s.row() for s in found.report], "condition", "variant", "value", "split")


@page_of.register
def _(found: TraitResult) -> Page:
    level = None if found.level is None else percent(found.level, unit=" %")
    facts = {"every condition that recovers anything reaches": level, "kept to": str(found.bound)}
    said = html.note("report split; complied: the trait under the malicious prompt, helped: under the aligned one")
    return Page(repr(found), facts, (said, settings_grid(found.report)))


@table_of.register
def _(found: TraitReport) -> Table:
    """Return one row for each condition, as in ``traits.csv``."""
    return Table.of(trait_table.rows(found), "condition")


@page_of.register
def _(found: TraitReport) -> Page:
    kept = ("condition", "site", "coefficient", "trait", "aligned_trait", "coherence", "capability", "perplexity")
    rows = [{n: r[n] for n in kept} for r in trait_table.rows(found)]
    return Page(repr(found), parts=(html.first(rows, "conditions", limit=2 * html.LIMIT),))


@table_of.register
def _(found: Externalities) -> Table:
    """Return one row for each condition on the report split: each share with ``_low``, ``_high`` and ``_n``.

    ``reason`` says why a condition was not run.
    """
    rows = []
    for c in (*found.conditions, *found.prefixes):
        row: dict[str, Any] = {"condition": c.name, "kind": c.kind, "steering": c.steering, "tokens": c.k}
        row["reason"] = c.reason or None
        for name, e in found.measured(c.name).items():
            row |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high, f"{name}_n": e.n}
        rows.append(row)
    return Table.of(rows, "condition")


@page_of.register
def _(found: Externalities) -> Page:
    facts = {
        s.name: (
            f"{html.shown(s.choice.value) if s.choice.value is not None else s.choice.variant}, at {len(s.sites)} "
            f"sites; harmful requests complied with rightly: {html.shown(found.measured(s.name).get('attack'))}"
        )
        for s in found.steerings
    }
    measured = {c.name: found.measured(c.name) for c in found.conditions}
    rows = [{"condition": name, **{n: _short(m.get(n)) for n in SHARES}} for name, m in measured.items()]
    grid = html.first(rows, "conditions", limit=2 * html.LIMIT)
    return Page(repr(found), facts, (html.note("report split, 95 % intervals:"), grid))


def _short(e: Estimate | None) -> str | None:
    return e and f"{e:.2f}"
