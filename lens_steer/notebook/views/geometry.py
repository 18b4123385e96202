"""Views of geometry: calibrations and their summaries, boundaries, stability, and estimators of the direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lens_steer.geometry.boundary import Boundary
from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.direction_comparison import DirectionComparison
from lens_steer.geometry.direction_files import score_rows
from lens_steer.geometry.directions import select_direction, zero_rows
from lens_steer.geometry.planes import plane_coordinates
from lens_steer.geometry.rules import cautions
from lens_steer.geometry.selected_direction import SelectedDirection
from lens_steer.geometry.stability import Resamples, Stability
from lens_steer.geometry.summary import GeometrySummary, plain
from lens_steer.models import sites
from lens_steer.notebook.views import html
from lens_steer.notebook.views.activations import POOLED
from lens_steer.notebook.views.pieces import Page, Table, page_of, table_of

BEST = 8  # the candidates that the page of a selected direction shows
# the columns that a page shows of a site, with their heads
HEADS = {
    "site": "site", "selected": "selected", "discriminative": "discriminative", "mean_cosine": "mean cosine",
    "mean_projection_positive": "mean projection, +", "mean_projection_negative": "mean projection, −",
    "plane_angle_degrees": "angle in plane (°)", "share_in_plane": "share in plane", "membership": "P(discriminative)",
    "auroc": "AUROC", "cohens_d": "Cohen's d",
}  # fmt: skip


@table_of.register
def _(made: Calibration) -> Table:
    """Return one row for each site.

    The columns are ``block``, ``kind``, ``selected``, ``discriminative``, ``mean_cosine`` (of the candidate with all
    candidates), the classes' mean projections on the selected direction, and the candidate's place in the plane
    (``along_b1``, ``along_b2``, ``plane_angle_degrees``, and ``share_in_plane`` of its squared length). Three more
    describe the prompts' projections: the bootstrap probability that the site is discriminative (``membership``),
    ``auroc`` and ``cohens_d``.
    """
    return Table.of(_calibration_rows(made), "site")


def _calibration_rows(made: Calibration) -> list[dict[str, Any]]:
    candidates = made.candidates.double()
    inside, cosine = plane_coordinates(candidates, made.basis.double()), select_direction(candidates).mean_cosine
    zero = zero_rows(candidates)
    columns: dict[str, Sequence[Any]] = {
        "mean_cosine": plain(cosine),
        "mean_projection_positive": _optional(made.mean_projection_positive, len(made.sites)),
        "mean_projection_negative": _optional(made.mean_projection_negative, len(made.sites)),
        "along_b1": plain(inside.coordinates[:, 0]),
        "along_b2": plain(inside.coordinates[:, 1]),
        "plane_angle_degrees": plain(inside.angle),
        "share_in_plane": plain(inside.fraction),
        "zero_candidate": zero.tolist(),
        **{name: _optional(getattr(made, name), len(made.sites)) for name in ("membership", "auroc", "cohens_d")},
    }
    return [
        {
            "site": name,
            "block": sites.parse(name).block,
            "kind": sites.parse(name).kind,
            "selected": name == made.selected_site,
            "discriminative": name in made.discriminative_sites,
            **{c: values[k] for c, values in columns.items()},
        }
        for k, name in enumerate(made.sites)
    ]


@page_of.register
def _(made: Calibration) -> Page:
    facts = {
        "selected site": made.selected_site,
        "discriminative": (
            f"{len(made.discriminative_sites)} of {len(made.sites)} sites, blocks "
            f"{_blocks(made.discriminative_blocks)} of {made.n_layers}"
        ),
        "rule": made.rule if made.bound is None else f"{made.rule}, bound {made.bound:g}",
        "caution": "; ".join(cautions(made)),
        "prompts": f"{made.n_positive} positive, {made.n_negative} negative",
        "seed": made.seed,
        "direction": made.details.get("direction"),
        "recorded at": POOLED.get(str(made.details.get("pooling"))),
    }
    rows = _calibration_rows(made)
    shown = [rows[k] for k in sorted({*html.spread(len(rows)), made.selected_index})]
    heads = [{head: row[c] for c, head in HEADS.items()} for row in shown]
    return Page(repr(made), facts, (html.depth(heads, len(rows), strong=("selected",)),))


@table_of.register
def _(direction: SelectedDirection) -> Table:
    """Return one row for each candidate, labelled by position and block.

    The columns are those of ``scores.csv``: the refusal score under ablation, the induce score, the divergence, and
    whether the candidate keeps every bound.
    """
    return Table.of(score_rows(direction), "position", "block")


@page_of.register
def _(direction: SelectedDirection) -> Page:
    bounds, given = direction.bounds, direction.n_given
    facts = {
        "read at": direction.origin,
        "refusal score, ablated": f"{direction.refusal_score:.3g} ({direction.baseline_refusal_score:.3g} unsteered)",
        "refusal score, added": f"{direction.induce_score:.3g} ({direction.baseline_induce_score:.3g} unsteered)",
        "KL, ablated": f"{direction.kl:.3g} nats",
        "candidates": f"{direction.n_kept} of {len(direction.scores)} kept",
        "bounds": f"induce ≥ {bounds.min_induce:g}, KL ≤ {bounds.max_kl:g}, depth < {bounds.max_depth:g}",
        "fit prompts": f"{direction.n_positive} + {direction.n_negative} of {given.get('fit', '')}",
        "select prompts": f"{direction.n_select_positive} + {direction.n_select_negative} of {given.get('select', '')}",
        "refusals begin": ", ".join(f"{o['text']!r} {o['share']:.0%}" for o in direction.openings if o["used"]),
    }
    best = sorted(score_rows(direction), key=lambda row: (not row["kept"], row["refusal_score"]))[:BEST]
    return Page(repr(direction), facts, (html.grid(best, of=len(direction.scores)),))


@table_of.register
def _(summary: GeometrySummary) -> Table:
    """Return one row for each site.

    The columns are those of the table of :class:`~lens_steer.geometry.calibration.Calibration`, with intervals of the
    classes' projections and lengths where there are prompts.
    """
    inside, chosen = summary["candidates_in_plane"], set(summary["discriminative"]["sites"])
    columns: dict[str, Sequence[Any]] = {
        "mean_cosine": summary["selection"]["mean_cosine"],
        "along_b1": [c[0] for c in inside["coordinates"]],
        "along_b2": [c[1] for c in inside["coordinates"]],
        "plane_angle_degrees": inside["angle"],
        "share_in_plane": inside["fraction"],
    }
    columns |= {
        name: summary["discriminative"][name]
        for name in ("membership", "auroc", "cohens_d")
        if summary["discriminative"].get(name) is not None
    }
    for name, found in (summary["classes"] or {}).items():
        if isinstance(found, Mapping):
            columns |= {f"{name}{end}": found[part] for part, end in (("mean", ""), ("low", "_low"), ("high", "_high"))}
    rows = [
        {
            "site": name,
            "block": sites.parse(name).block,
            "selected": name == summary["selection"]["selected_site"],
            "discriminative": name in chosen,
            **{c: values[k] for c, values in columns.items()},
        }
        for k, name in enumerate(summary["sites"])
    ]
    return Table.of(rows, "site")


@page_of.register
def _(summary: GeometrySummary) -> Page:
    plane, found = summary["plane"], summary["discriminative"]
    facts = {
        "selected site": summary["selection"]["selected_site"],
        "ahead of the next by": summary["selection"]["margin"],
        "discriminative": (
            f"{found['n_sites']} of {summary['n_sites']} sites, blocks {_blocks(found['blocks'])}, rule {found['rule']}"
        ),
        "candidates' variance in the plane": plane["share_in_plane_centred"],
        "most that a plane can hold": plane.get("best_two_dimensions_centred"),
        "zero candidates": ", ".join(summary["zero_candidates"]),
        "caution": "; ".join(found.get("cautions", [])),
    }
    table = table_of(summary).rows()
    heads = {c: head for c, head in HEADS.items() if table and c in table[0]}
    rows = [{head: table[k][c] for c, head in heads.items()} for k in html.spread(len(table))]
    return Page(repr(summary), facts, (html.depth(rows, len(table), strong=("selected",)),))


@table_of.register
def _(found: Boundary) -> Table:
    """Return one row: ``threshold``, and the classes' means and standard deviations, in units of the projection."""
    names = "site threshold mean_positive std_positive mean_negative std_negative separation model".split()
    return Table.of([{n: getattr(found, n) for n in names}])


@table_of.register
def _(found: Resamples) -> Table:
    """Return one row for each resample."""
    columns = {
        "resample": list(range(len(found.selected))),
        "selected_row": [None if s < 0 else s for s in found.selected.tolist()],
        "cosine": plain(found.cosine),
        "top_cosine": plain(found.top_cosine),
        "first_angle_degrees": plain(found.angles[:, 0]),
        "second_angle_degrees": plain(found.angles[:, 1]),
        "discriminative_sites": found.sizes.tolist(),
    }
    return Table(columns, ("resample",))


@table_of.register
def _(found: Stability) -> Table:
    """Return one row for each site; columns ``null_…`` are the values under shuffled labels."""
    return Table.of(found.rows(), "site")


@page_of.register
def _(found: Stability) -> Page:
    full, told = found.calibration, found.summary()
    angles = told["principal_angles"]
    facts = {
        "selected site": (
            f"{full.selected_site}, in {html.shown(found.bootstrap.selected_share(full.selected_index))} resamples"
        ),
        "discriminative sites": f"{len(full.discriminative_sites)}, p = {found.p_size:.3g} against shuffled labels",
        "top mean cosine": f"{found.top_cosine:.3g}, p = {found.p_top_cosine:.3g}",
        "planes' larger angle to this one": "; ".join(
            f"{name}: median {html.shown(a['second']['median'])}°" for name, a in angles.items()
        ),
    }
    names = "site selected_share discriminative_share null_selected_share null_discriminative_share".split()
    often = sorted(found.rows(), key=lambda r: -r["selected_share"])
    rows = [{n: r[n] for n in names} for r in often]
    return Page(repr(found), facts, (html.note("most often selected first:"), html.first(rows, "sites")))


@table_of.register
def _(found: DirectionComparison) -> Table:
    """Return one row for each estimator and site."""
    return Table.of(found.rows(), "estimator", "site")


@page_of.register
def _(found: DirectionComparison) -> Page:
    kept = ("estimator", "selected_site", "discriminative_sites", "median_cosine", "second_angle", "mean_auroc")
    rows = Table.of([{n: r[n] for n in kept} for r in found.summary()]).rows()
    return Page(repr(found), {}, (html.first(rows, "estimators"),))


def _optional(values: Any, n: int) -> list[float | None]:
    return [None] * n if values is None else plain(values)


def _blocks(found: Sequence[int]) -> str:
    """Return block numbers as runs.

    >>> _blocks((2, 3, 4, 7))
    '2–4, 7'
    """
    runs: list[list[int]] = []
    for block in found:
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}–{r[-1]}" for r in runs) or "none"
