"""The command that generates under a steering plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_steer.cli.common import check_rows_file, emit, read_prompts
from lens_steer.cli.dryrun import DryRun
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load
from lens_steer.cli.options import Engine, Model
from lens_steer.cli.planning import Planned
from lens_steer.defaults import ENGINE


@grouped
def steer(
    planned: Planned,
    load: Load,
    dry: DryRun,
    model: Model,
    prompts: Annotated[
        str, typer.Option("--prompts", help="Prompts file, or an organism's contrast, of which the report split is used.")
    ],
    out: Annotated[Path, typer.Option("--out", help="File (.jsonl) to write.")],
    engine: Engine = ENGINE,
    effects: Annotated[bool, typer.Option("--effects", help="Also tell gate-fire rate and displacement at every site.")] = False,
    save_plan: Annotated[Path | None, typer.Option("--save-plan", help="Folder to write the plan to as well.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Length of every answer at most.")] = 64,
) -> None:
    """Generate under a steering plan; one row a prompt with the plan's parameters, and the grade where the world knows it."""
    import lens_steer as ls
    from lens_steer.artifacts import check_writable, whole_file
    from lens_steer.engines import check_engine
    from lens_steer.generation import answers
    from lens_steer.work import answering

    check_engine(engine)
    check_rows_file(out)
    if save_plan is not None:
        check_writable(save_plan)
    chosen = read_prompts(prompts)
    made = planned.read()
    load.check(model, (chosen, max_new_tokens), made=planned.source or made)
    log = ls.EffectLog() if effects else None
    with whole_file(out) as work:
        loaded = load(model)
        dry.tell(loaded, answering(loaded, list(chosen), max_new_tokens), chosen, engine=engine, max_new_tokens=max_new_tokens)
        with ls.steering(loaded, made, effects=log):
            texts, cut = answers(loaded, chosen, max_new_tokens=max_new_tokens, engine=engine, progress=True)
        facts = [made.row(i) | {"model": model} | ({"cut_off": True} if cut[i] else {}) for i in range(len(texts))]
        _write_generations(work, chosen, texts, facts)
        if save_plan is not None:
            ls.save_plan(made, save_plan)
    told = {} if log is None else {"gate_fire_rate": log.gate_fire_rate, "effects": log.rows()}
    emit(
        {
            "generations": str(out),
            "n": len(texts),
            "cut_off": sum(cut) or None,
            **made.row(),
            "first_steered_token": made.describe()["first_steered_token"],
            **told,
        }
    )


def _write_generations(path: Path, prompts: Any, texts: list[str], facts: list[dict[str, Any]]) -> None:
    from lens_steer.outcomes import grade

    with path.open("w", encoding="utf-8") as stream:
        for prompt, text, own in zip(prompts, texts, facts, strict=True):
            row: dict[str, Any] = {"prompt": prompt.text, "text": text, **own}
            if len(prompt.messages) > 1:  # a system prompt, earlier turns: so that the file says all that the model was asked
                row["messages"] = [dict(m) for m in prompt.messages]
            if prompt.task is not None:
                row |= {"grade": grade(prompt, text), "harmful": prompt.task.harmful}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
