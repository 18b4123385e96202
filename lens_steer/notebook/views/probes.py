"""Views of probes: the boundary's place between the classes, and the accuracy on held-out prompts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lens_steer.notebook.views import html
from lens_steer.notebook.views.pieces import Page, Table, page_of, table_of
from lens_steer.probes.depth import ProbeResult, ProbeScan
from lens_steer.probes.probe import Probe

WARNING = "the boundary does not lie between the class means: StTP and StMP may move tokens the wrong way"


@table_of.register
def _(probe: Probe) -> Table:
    """Return one row: the boundary, the class means in units of the projection, and the settings of the fit."""
    names = (
        "site threshold mean_positive std_positive mean_negative std_negative separation cohens_d between bias C "
        "standardized pooling n_positive n_negative split model"
    ).split()
    return Table.of([{n: getattr(probe, n) for n in names}])


@page_of.register
def _(probe: Probe) -> Page:
    return Page(repr(probe), _boundary(probe), () if probe.between else (html.note(WARNING),))


def _boundary(probe: Probe) -> dict[str, Any]:
    return {
        "threshold m": probe.threshold,
        "positive": f"{probe.mean_positive:.4g} ± {probe.std_positive:.2g}, n = {probe.n_positive}",
        "negative": f"{probe.mean_negative:.4g} ± {probe.std_negative:.2g}, n = {probe.n_negative}",
        "Cohen's d": probe.cohens_d,
        "fitted on": f"{probe.split} split, {probe.pooling}, C = {probe.C:g}",
    }


@table_of.register
def _(result: ProbeResult) -> Table:
    """Return one row for each quantity: ``value``, ``low``, ``high``, ``n``."""
    rows = [{"quantity": name, **asdict(e)} for name, e in result.measured.items()]
    return Table.of(rows, "quantity")


@page_of.register
def _(result: ProbeResult) -> Page:
    return Page(repr(result), {**result.measured, **_boundary(result.probe)}, page_of(result.probe).parts)


@table_of.register
def _(scan: ProbeScan) -> Table:
    """Return one row for each site; a site without a probe has a ``note`` instead of numbers."""
    return Table.of(scan.rows(), "site")


@page_of.register
def _(scan: ProbeScan) -> Page:
    best = scan.best
    rows = [
        {
            "site": r.probe.site,
            "accuracy": r.measured["accuracy"].value,
            "AUROC": r.measured["auroc"].value,
            "selectivity": r.measured["selectivity"].value,
            "boundary between the means": r.probe.between,
        }
        for r in (scan.results[k] for k in html.spread(len(scan.results)))
    ]
    facts = {
        "best site": best.probe.site,
        "accuracy there": best.measured["accuracy"],
        "sites without a probe": len(scan.without) or None,
    }
    return Page(repr(scan), facts, (html.depth(rows, len(scan.results)),))
