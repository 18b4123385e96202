"""The command that measures how far a steering plan changes the distribution at every token of fixed responses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_steer._defaults import ENGINE
from lens_steer.cli.common import command, emit, read_prompts
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load
from lens_steer.cli.options import METHOD_HELP, Column, Engine, Limit, Model, Out, Seed
from lens_steer.cli.planning import Planned
from lens_steer.errors import LensSteerError


@grouped
def divergence(
    planned: Planned,
    load: Load,
    out: Out,
    responses: Annotated[
        Path, typer.Option(help="File (.jsonl) with a prompt (or messages) and a response a row, or what steer wrote.")
    ],
    model: Model = "organism/qwen2",
    max_position: Annotated[
        int | None, typer.Option(help="Last position, from 0, in the means and the figure (default: the last one).")
    ] = None,
    seed: Seed = 0,
    engine: Engine = ENGINE,
    column: Column = None,
    limit: Limit = None,
) -> None:
    """KL(original ‖ steered), its reverse, entropy, total variation and surprise at every token of fixed responses, and
    their means by position.
    """
    from lens_steer._io.atomic import whole_folder
    from lens_steer.inference.engines import check_engine
    from lens_steer.metrics.token_divergence import check_max_position, token_divergence

    check_engine(engine, answers=False)
    check_max_position(max_position)
    prompts = _read_responses(responses, column=column, limit=limit, seed=seed)
    made = planned.read()
    load.check(model, made=planned.source or made, forced=[prompts], positions=made.positions)
    with whole_folder(out) as work:
        loaded = load(model)
        found = token_divergence(loaded, made, prompts, [p.response for p in prompts], engine=engine, progress=True)
        told = _write(work, found, made, loaded, prompts, seed=seed, max_position=max_position, engine=engine)
    emit(
        {
            "divergence": str(out / "divergence.csv"),
            "n": found.n_prompts,
            "empty": found.n_empty,
            "tokens": len(found),
            **told,
            **made.row(),
        }
    )


def _read_responses(source: Path, **how: Any) -> Any:
    """Read the prompts of a file, each with its response (in a file from ``lens-steer steer``, the ``text``)."""
    prompts = read_prompts(source, response=("response", "text"), **how)
    for number, prompt in enumerate(prompts, start=1):
        if prompt.response is None:
            raise LensSteerError(
                f"responses file {str(source)!r}, row {number} ({prompt.text[:40]!r}…) has no response: give "
                "every row a prompt and a response"
            )
    return prompts


def _write(
    work: Path, found: Any, plan: Any, model: Any, prompts: Any, *, seed: int, max_position: int | None, engine: str
) -> dict[str, float]:
    """Write ``divergence.csv``, ``divergence.json`` and the figure.

    Returns:
        The means over prompts of both KL divergences, ``kl`` and ``kl_reverse``.
    """
    import numpy as np

    from lens_steer._io.tables import csv_records
    from lens_steer.evaluation.cells import CLUSTER, labels_of
    from lens_steer.evaluation.provenance import provenance
    from lens_steer.figures import saving
    from lens_steer.figures.divergence import drawing
    from lens_steer.inference.unembedding import MEASURES
    from lens_steer.stats.means import clustered_mean

    text = csv_records(found.rows(), ("row", "position", "token", *MEASURES))
    (work / "divergence.csv").write_text(text, encoding="utf-8", newline="")
    more = {"dtype": model.lens_info.dtype, "engine": engine, "prompt_hash": prompts.hash}
    meta = provenance(model, command=command(), seed=seed, **more)
    by_prompt = {m: found.per_prompt(m) for m in MEASURES}
    clusters = [labels_of(p)[CLUSTER] for p in prompts]
    means = {
        m: clustered_mean(v[np.isfinite(v)], [clusters[i] for i in np.flatnonzero(np.isfinite(v))], seed=seed)
        for m, v in by_prompt.items()
    }
    by_position = {m: found.by_position(m, seed=seed, max_position=max_position) for m in MEASURES}
    record = {
        "n": found.n_prompts,
        "empty": found.n_empty,
        "tokens": len(found),
        "plan": plan.describe(),
        "mean_by_prompt": {m: asdict(e) for m, e in means.items()},
        "by_position": {m: [{"position": t, **asdict(e)} for t, e in enumerate(es)] for m, es in by_position.items()},
        "max_position": max_position,
        "meta": meta,
    }
    (work / "divergence.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    saving.save(drawing({plan.method: found}, seed=seed, max_position=max_position), "kl_by_position", work, meta)
    return {m: means[m].value for m in ("kl", "kl_reverse")}


COMMANDS: tuple[Callable[..., None], ...] = (divergence,)
divergence.__doc__ = f"{cleandoc(str(divergence.__doc__))}\n\n{METHOD_HELP}"
