"""Views of a model's description and of steering plans."""

from __future__ import annotations

from typing import Any

from lens_steer.models import sites
from lens_steer.models.loading import ModelInfo
from lens_steer.notebook.views import html
from lens_steer.notebook.views.pieces import Page, Table, page_of, table_of
from lens_steer.steer.method_table import METHODS, options
from lens_steer.steer.plans import SteeringPlan, Step


@table_of.register
def _(info: ModelInfo) -> Table:
    """Return one row."""
    return Table.of([_info_row(info)])


@page_of.register
def _(info: ModelInfo) -> Page:
    row = _info_row(info)
    return Page(
        f"{info.name}: {info.architecture}, {info.n_layers} blocks, d_model {info.d_model}",
        {k: v for k, v in row.items() if k != "name"},
    )


def _info_row(info: ModelInfo) -> dict[str, Any]:
    named = ("name", "architecture", "backend", "dtype", "n_layers", "d_model", "n_ctx", "weight_processing", "folder")
    return {n: getattr(info, n) for n in named} | {"end_tokens": ", ".join(map(str, info.end_tokens))}


@table_of.register
def _(plan: SteeringPlan) -> Table:
    """Return one row for each step and site.

    The columns are the tensor under its TransformerLens name and as a Hugging Face module, the operator, and its
    numbers (a tuple where every prompt has its own).
    """
    rows = [
        {
            "step": i,
            "site": name,
            "block": sites.parse(name).block,
            "module": sites.parse(name).described(plan.layout),
            "operator": step.operator,
            **_numbers(step),
            "positions": plan.positions,
        }
        for i, step in enumerate(plan.steps)
        for name in step.sites
    ]
    return Table.of(rows, "step", "site")


@page_of.register
def _(plan: SteeringPlan) -> Page:
    method, units = METHODS.get(plan.method), {p.name: p.unit for p in options() if p.unit}
    own: dict[str, Any] = {"h becomes": method and method.formula, "keeps": method and method.keeps}
    own |= {f"{n} ({units[n]})" if n in units else n: v for n, v in plan.parameters.items()}
    steps = [
        {
            "step": i,
            "operator": s.operator,
            "sites": len(s.sites),
            "blocks": ", ".join(map(str, sites.blocks_of(s.sites))),
            **_numbers(s),
        }
        for i, s in enumerate(plan.steps)
    ]
    return Page(repr(plan), {**own, "positions": plan.positions}, (html.first(Table.of(steps).rows(), "steps"),))


def _numbers(step: Step) -> dict[str, Any]:
    """Return the numbers and names of a step; a list with one number for each row becomes a tuple."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in step.settings.items()}
