"""The commands that show where a model can be steered, and prove it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from lens_steer.cli.common import emit
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load
from lens_steer.cli.options import Model
from lens_steer.errors import LensSteerError


def sites(
    model: Model,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a model of the hub.")] = None,
) -> None:
    """Where a model can be read and steered: its sites and the modules that they are, found from its configuration
    alone; no weights are read.
    """
    from lens_steer.models.layout import ROUTER_LOGITS
    from lens_steer.models.location import locate, read_config
    from lens_steer.models.sites import NETWORK_ORDER, Site, kinds_of
    from lens_steer.models.structure import find_layout

    config = read_config(model, locate(model, revision))
    layout = find_layout(config)
    for block, at in layout.alike():
        typer.echo(f"blocks {spans(at)}{''.join(f', {fact}' for fact in facts_of(block))}", err=True)
        router = () if block.router is None else (ROUTER_LOGITS,)
        for kind in sorted((*kinds_of(block), *router), key=NETWORK_ORDER.index):
            site = Site(at[0], kind)
            where = site.described(layout).replace(layout.paths[at[0]], f"{layout.layers}.{{l}}")
            what = f"  {block.formula[kind]}" if kind in block.formula else ""
            what += f"  {block.router.experts} experts, read only" if block.router and kind in router else ""
            name = site.name.replace(f"blocks.{at[0]}.", "blocks.{l}.")
            typer.echo(f"  {name:<30} {where}{what}", err=True)
    typer.echo(f"then {layout.final_norm} ({layout.final_formula}), {layout.unembedding or 'no module'}", err=True)
    emit({"model": model, "architecture": config.model_type, "n_layers": len(layout.blocks), **layout.to_json()})


@grouped
def check(load: Load, model: Model) -> None:
    """Prove on four short prompts that the layout that is found is that of the model, and that hooks read and change
    each site; the command ends with 2 if a check fails.
    """
    from lens_steer.models.loading import info_of
    from lens_steer.models.proof import ProofError
    from lens_steer.models.proved import proof_of
    from lens_steer.steer.hook_proof import prove_hooks

    try:
        loaded = load(model)
    except ProofError as error:
        tell(error.rows)
        raise
    info = info_of(loaded)
    rows = (*proof_of(loaded), *prove_hooks(loaded))
    tell(rows)
    emit(
        {
            "model": model,
            "architecture": info.architecture,
            "backend": info.backend,
            "dtype": info.dtype,
            "holds": all(row.holds for row in rows),
            "checks": [{**vars(row), "holds": row.holds} for row in rows],
        }
    )
    if failed := [row.check for row in rows if not row.holds]:
        raise LensSteerError(f"model {model!r}: {len(failed)} of {len(rows)} checks fail: {'; '.join(failed)}")


def tell(rows: Iterable[Any]) -> None:
    """Print a line a check on the error stream."""
    for row in rows:
        verdict = "holds" if row.holds else "FAILS"
        typer.echo(f"{verdict} {row.error:8.1e} (≤ {row.bound:g})  {row.check}{'' if row.holds else row.at}", err=True)


def spans(indices: Iterable[int]) -> str:
    """Return indices as spans.

    >>> spans([0, 1, 2, 5, 7, 8])
    '0-2, 5, 7-8'
    """
    found: list[list[int]] = []
    for index in indices:
        if found and index == found[-1][-1] + 1:
            found[-1] = [found[-1][0], index]
        else:
            found.append([index])
    return ", ".join("-".join(map(str, span)) for span in found)


def facts_of(block: Any) -> list[str]:
    """Return what sets a block apart, in words."""
    told = {
        "attention and MLP in parallel": block.parallel,
        "no attention": not block.attends,
        f"{' and '.join(block.scaled)} times a number before the sum": bool(block.scaled),
        f"{' and '.join(block.others)} added too": bool(block.others),
        "the stream times a number at the end": block.rescaled,
    }
    return [fact for fact, holds in told.items() if holds]


COMMANDS: tuple[Callable[..., None], ...] = (sites, check)
