"""Views of sweeps: the outcomes, the settings and their quantities, the choice, and the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lens_steer._io.rowstore import Rows
from lens_steer.evaluation.comparison import Comparison
from lens_steer.evaluation.control_runs import NO_CONTROLS
from lens_steer.evaluation.protocol import Evaluation
from lens_steer.evaluation.selection import Choice, Setting, Settings
from lens_steer.metrics.grading import Outcome
from lens_steer.notebook.views import html
from lens_steer.notebook.views.pieces import Page, Table, page_of, table_of
from lens_steer.reports.sweep_report import Swept
from lens_steer.stats.estimates import Estimate

# the quantities of a setting that are shown, where they were measured
FIRST = "positive_right negative_right capable positive_refused positive_degenerate perplexity_ref".split()
REPORTED = "report split, every condition at its choice from the select split:"
TELLING = ("condition", "variant", "value", "side", "prompt", "grade", "text")  # the columns of a row that are shown


@table_of.register
def _(outcome: Outcome) -> Table:
    """Return one row for each grade: ``count``, and its share with the Wilson interval."""
    where, rows = {"condition": outcome.condition, "angle": outcome.angle, "side": outcome.side}, []
    for g, n in outcome.counts.items():
        rate = outcome.rate(g)
        rows.append({**where, "grade": g, "count": n, "rate": rate.value, "rate_low": rate.low, "rate_high": rate.high})
    return Table.of(rows, *where, "grade")


@page_of.register
def _(outcome: Outcome) -> Page:
    where = "" if outcome.angle is None else f" at {outcome.angle}°"
    rows = [{"grade": g, "count": n, "share": outcome.rate(g)} for g, n in outcome.counts.items()]
    return Page(f"{outcome.condition}{where}, {outcome.side} prompts", {}, (html.grid(rows),))


@table_of.register
def _(setting: Setting) -> Table:
    """Return one row."""
    return Table.of([setting.row()], "condition", "variant", "value", "split")


@page_of.register
def _(setting: Setting) -> Page:
    return Page(repr(setting), setting.measured)


@table_of.register
def _(found: Settings) -> Table:
    """Return one row for each setting: each quantity with ``_low``, ``_high`` and ``_n``."""
    return _settings_table(found)


@page_of.register
def _(found: Settings) -> Page:
    return Page(repr(found), {}, (settings_grid(found),))


@table_of.register
def _(choice: Choice) -> Table:
    """Return one row."""
    return Table.of([asdict(choice)])


@page_of.register
def _(choice: Choice) -> Page:
    met = f"yes, with {choice.n_met} of {choice.n} settings"
    kept = met if choice.met else f"no, and none of {choice.n} settings does"
    return Page(
        f"{choice.condition}{f' ({choice.variant})' if choice.variant else ''} at {html.shown(choice.value)}",
        {"keeps to the constraints": kept, "settings with the same objective": choice.n_equal},
    )


@table_of.register
def _(rows: Rows) -> Table:
    """Return one row for each row of the store, which is usually an answer."""
    return Table.of(rows)


@page_of.register
def _(rows: Rows) -> Page:
    names = [n for n in TELLING if n in rows[0]] or list(rows[0]) if rows else []
    return Page(repr(rows), {}, (html.grid([{n: r[n] for n in names} for r in rows[: html.LIMIT]], of=len(rows)),))


@table_of.register
def _(found: Evaluation) -> Table:
    """Return one row for each condition on the report split, at its choice from the select split."""
    return _settings_table(found.report)


@page_of.register
def _(found: Evaluation) -> Page:
    return Page(repr(found), {}, (html.note(REPORTED), settings_grid(found.report)))


@page_of.register
def _(found: Swept) -> Page:
    bands = found.bands
    rows = [
        {
            "quantity": quantity,
            "control": control,
            "draws": b.n,
            "median": b.median,
            "lowest": b.minimum,
            "highest": b.maximum,
            found.method: found.reported(found.method).measured[quantity].value,
            "p at least": b.p_at_least,
            "p at most": b.p_at_most,
        }
        for quantity in FIRST
        for control, b in bands.get(quantity, {}).items()
    ]
    told = "controls at the same value, and how rare a value as high or as low as the method's is among their draws:"
    beside = html.note(told) + html.grid(rows) if rows else html.note(NO_CONTROLS)
    return Page(repr(found), {}, (html.note(REPORTED), settings_grid(found.report), beside))


@table_of.register
def _(found: Comparison) -> Table:
    """Return one row for each condition on the report split, at its choice.

    A condition that is also measured at equal divergence has a second row.
    """
    return _settings_table([*found.evaluation.report, *found.matched])


@page_of.register
def _(found: Comparison) -> Page:
    facts = {
        "matched divergence (nats a token)": found.target,
        "objective": found.objective,
        "constraints": ", ".join(found.constraints),
    }
    rows = settings_grid([*found.evaluation.report, *found.matched])
    return Page(repr(found), facts, (html.note("report split:"), rows))


def settings_grid(found: Sequence[Setting]) -> str:
    """Show settings in one table, with the most informative quantities."""
    kept = [n for n in FIRST if any(n in s.measured for s in found)]
    if found and not kept:
        kept = list(found[0].measured)[: len(FIRST)]
    rows: list[dict[str, Any]] = [
        {
            "condition": s.condition,
            **({"variant": s.variant} if any(o.variant for o in found) else {}),
            "value": s.value,
            **{n: _short(s.measured.get(n)) for n in kept},
        }
        for s in found
    ]
    n = max((e.n for s in found for e in s.measured.values()), default=0)
    return html.first(rows, "settings", limit=2 * html.LIMIT) + html.note(f"[ ]: 95 % intervals; n at most {n}")


def _settings_table(found: Sequence[Setting]) -> Table:
    return Table.of([s.row() for s in found], "condition", "variant", "value", "split")


def _short(e: Estimate | None) -> str | None:
    return e and f"{e:.3g}"
