"""The command that generates answers under a steering plan."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_steer._defaults import ENGINE
from lens_steer.cli.common import check_rows_file, emit, read_prompts, tell_fitted_on
from lens_steer.cli.dryrun import DryRun
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load
from lens_steer.cli.options import Column, Engine, Limit, MaxNewTokens, MaxThoughtTokens, Model
from lens_steer.cli.planning import UNSTEERED, Planned, read_steering
from lens_steer.cli.serving import Serving
from lens_steer.errors import LensSteerError

if TYPE_CHECKING:
    from lens_steer.inference.generation import Answers

DEGENERATE_BY = "text alone (empty or repeating); sweep and report measure a bound on perplexity as well"


@grouped
def steer(
    planned: Planned,
    load: Load,
    dry: DryRun,
    serving: Serving,
    model: Model,
    prompts: Annotated[
        str, typer.Option(help="Prompts file, or an organism's contrast, of which the report split is used.")
    ],
    out: Annotated[Path, typer.Option(help="File (.jsonl) to write.")],
    engine: Engine = ENGINE,
    effects: Annotated[
        bool, typer.Option("--effects", help="Also tell gate-fire rate and displacement at every site.")
    ] = False,
    column: Column = None,
    limit: Limit = None,
    save_plan: Annotated[Path | None, typer.Option(help="Folder to write the plan to as well.")] = None,
    max_new_tokens: MaxNewTokens = 64,
    max_thought_tokens: MaxThoughtTokens = None,
) -> None:
    """Generate under a steering plan; one row a prompt with the plan's parameters, and the grade where the world knows
    it.

    A row says whether the answer was refused, answered, cut_off and, without a ground truth, degenerate (empty or
    repeating). --method none steers nothing and needs no calibration. Of a reasoning model, the text is all that it
    writes, and everything else is said of the answer alone; 'metrics' looks at the thoughts as well.
    """
    from lens_steer._io.atomic import check_writable, whole_file
    from lens_steer.evaluation.work import answering
    from lens_steer.geometry.calibration import Calibration
    from lens_steer.inference.generation import answers
    from lens_steer.inference.remote import records_of
    from lens_steer.inference.thought_budget import check_budget
    from lens_steer.interop.serving.certificate import keep_records
    from lens_steer.steer.effects import EffectLog
    from lens_steer.steer.hooks import steering
    from lens_steer.steer.plans import save_plan as write_plan

    check_rows_file(out)
    if save_plan is not None:
        check_writable(save_plan)
    chosen = read_prompts(prompts, column=column, limit=limit)
    made = planned.read_or_none()
    if made is None and (save_plan is not None or effects):
        raise LensSteerError(f"--method none steers nothing: leave out {'--effects' if effects else '--save-plan'}")
    check_budget(max_thought_tokens, engine)
    serving.check(engine, made, reads="--effects" if effects else None)
    if planned.calibration is not None:
        source = read_steering(planned.calibration, None)
        tell_fitted_on(source, {"": [chosen]}, "calibration" if isinstance(source, Calibration) else "direction")
    probe = planned.source
    if probe is not None:
        tell_fitted_on(probe, {"": [chosen]}, "probe")
    positions = "all" if made is None else made.positions
    described = load.check(model, (chosen, max_new_tokens), made=probe or made, positions=positions)
    check_budget(max_thought_tokens, engine, described, max_new_tokens)
    log = EffectLog() if effects else None
    with whole_file(out) as work:
        loaded = load(model)
        work_ahead = answering(loaded, list(chosen), max_new_tokens)
        dry.tell(loaded, work_ahead, chosen, engine=engine, max_new_tokens=max_new_tokens)
        serving.start(loaded, engine)
        with nullcontext() if made is None else steering(loaded, made, effects=log):
            said = answers(
                loaded,
                chosen,
                max_new_tokens=max_new_tokens,
                engine=engine,
                max_thought_tokens=max_thought_tokens,
                progress=True,
            )
        texts, rows = said.texts, _rows(loaded, chosen, said)
        plans = [{"method": UNSTEERED} if made is None else made.row(i) for i in range(len(texts))]
        here = {"model": model, "chat_template": loaded.lens_info.template.short}
        facts = [own | here | row for own, row in zip(plans, rows, strict=True)]
        _write_generations(work, chosen, texts, facts)
        if save_plan is not None and made is not None:
            write_plan(made, save_plan)
    certificates, records = out.with_suffix(".engine"), records_of(loaded, engine)
    keep_records(certificates, records)
    told = {} if log is None else {"gate_fire_rate": log.gate_fire_rate, "effects": log.rows()}
    ungraded = any("degenerate" in row for row in rows)
    emit(
        {
            "generations": str(out),
            "engine_certificates": str(certificates) if records else None,
            "n": len(texts),
            "cut_off": sum(row["cut_off"] for row in rows) or None,
            "thought_closed": sum(said.ended) if max_thought_tokens is not None else None,
            "refused": sum(row["refused"] for row in rows),
            "answered": sum(row["answered"] for row in rows),
            "degenerate": sum(row.get("degenerate", False) for row in rows) if ungraded else None,
            "degenerate_by": DEGENERATE_BY if ungraded else None,
            **({"method": UNSTEERED} if made is None else made.row()),
            "first_steered_token": None if made is None else made.describe()["first_steered_token"],
            **told,
        }
    )


def _rows(model: Any, prompts: Any, said: Answers) -> list[dict[str, Any]]:
    """Grade every answer and return one row of outcomes for each.

    A row says whether the answer was ``refused``, ``answered`` or ``cut_off`` (at ``max_new_tokens``, or inside a
    thought). With a ground truth it also has the ``grade`` and ``harmful``, without one ``degenerate``. It has
    ``thought_begun`` where the rendered prompt ends inside a thought, and ``thought_closed`` where a thought reached
    its budget.
    """
    from lens_steer.inference.decoding import begins_in_thought
    from lens_steer.metrics.grading import ANSWERED, DEGENERATE, REFUSED, grade
    from lens_steer.metrics.thinking import split_thought
    from lens_steer.models.loading import info_of

    rows = []
    for prompt, text, short, ended in zip(prompts, *said, strict=True):
        begun = begins_in_thought(info_of(model).tokenizer, prompt)
        found = grade(prompt, text, begun=begun)
        endless = split_thought(text, begun=begun)[1] is None
        row: dict[str, Any] = {
            "refused": found in (REFUSED, "refusal"),
            "answered": found in (ANSWERED, "correct", "wrong"),
            "cut_off": short or endless,
        }
        if prompt.task is None:
            row["degenerate"] = found == DEGENERATE
        else:
            row |= {"grade": found, "harmful": prompt.task.harmful}
        row |= {"thought_begun": True} if begun else {}
        rows.append(row | ({"thought_closed": True} if ended else {}))
    return rows


def _write_generations(path: Path, prompts: Any, texts: list[str], facts: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for prompt, text, own in zip(prompts, texts, facts, strict=True):
            row: dict[str, Any] = {"prompt": prompt.text, "text": text, **own}
            if len(prompt.messages) > 1:  # a system prompt or earlier turns, which the model was given as well
                row["messages"] = [dict(m) for m in prompt.messages]
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
