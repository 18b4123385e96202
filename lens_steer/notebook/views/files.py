"""Views of files: the data of figures, and the certificates of exports and of serving engines."""

from __future__ import annotations

from lens_steer.figures.core import Drawing
from lens_steer.interop.exports.certificate import Certificate
from lens_steer.interop.serving.certificate import EngineCertificate
from lens_steer.notebook.views import html
from lens_steer.notebook.views.pieces import Page, Table, page_of, table_of


@table_of.register
def _(drawing: Drawing) -> Table:
    """Return the figure's own columns under their own names."""
    return Table({name: list(values) for name, values in drawing.columns.items()})


@page_of.register
def _(drawing: Drawing) -> Page:
    table = table_of(drawing)
    grid = html.grid(table.rows(html.LIMIT), of=len(table))
    return Page(repr(drawing), {"notes": ", ".join(drawing.notes)}, (grid, html.note("lens_steer.draw(…) draws it")))


@table_of.register
def _(made: Certificate) -> Table:
    """Return one row."""
    row = {"verdict": made.verdict, **made.row()}
    plain = {k: v for k, v in row.items() if k not in ("plan", "refused", "versions", "folded_sites")}
    return Table.of([plain | {"folded_sites": len(made.folded_sites), "refused_steps": len(made.refused)}])


@page_of.register
def _(made: Certificate) -> Page:
    facts = {
        "logits differ by": (
            f"{made.relative_logit_difference:.1e} of the largest (tolerance {made.tolerance:g}), at "
            f"{made.n_positions} positions"
        ),
        "equal greedy tokens": (
            f"{100 * made.equal_greedy_tokens:.4g} % of the answers to {made.n_prompts} prompts ({made.prompts})"
        ),
        "what the plan itself changes": f"logits by up to {made.largest_change_by_plan:.3g}",
        "steers at": f"{len(made.folded_sites)} sites of {made.model}",
        "dtype, engine": f"{made.dtype}, {made.engine}",
    }
    left = (html.note("left out:"), html.first([dict(r) for r in made.refused], "steps")) if made.refused else ()
    return Page(f"{made.verdict}: {made.kind}", facts, left)


@table_of.register
def _(made: EngineCertificate) -> Table:
    """Return one row."""
    row = {"verdict": made.verdict, **made.row()}
    return Table.of([{k: v for k, v in row.items() if k not in ("plan", "digest")} | {"method": made.plan["method"]}])


@page_of.register
def _(made: EngineCertificate) -> Page:
    facts = {
        "log-probabilities differ by": (
            f"{made.mean_difference:.1e} nats in the mean, {made.largest_difference:.1e} at most (allowed "
            f"{made.mean_allowed:g} and {made.largest_allowed:g}), at {made.n_positions} tokens"
        ),
        "equal tokens": f"{100 * made.equal_tokens:.4g} % of the answers to {made.n_prompts} prompts ({made.prompts})",
        "where answers part, less probable by": f"{made.largest_gap:.2g} nats at most",
        "what the plan itself changes": f"log-probabilities by {made.mean_change:.2g} nats in the mean",
        "engine, dtype": f"{made.engine} ({made.engine_version}), {made.dtype}",
    }
    told = () if made.tells else (html.note("an ignored adapter would not have been found out here"),)
    return Page(f"{made.verdict}: {made.plan['method']} of {made.model}", facts, told)
