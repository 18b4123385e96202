"""The command that measures how benign steering affects safety."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_steer._defaults import ENGINE
from lens_steer.cli.choosing import TasksOption, tasks_of
from lens_steer.cli.common import command, emit, judge_named, read_prompts, shares_of
from lens_steer.cli.dryrun import DryRun
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load
from lens_steer.cli.options import (
    Columns,
    Engine,
    JudgeOption,
    Limit,
    Model,
    Negative,
    Out,
    Positive,
    Seed,
    ShowAnswers,
    Split,
)
from lens_steer.cli.serving import Serving
from lens_steer.errors import LensSteerError

Pairs = "row by row; needs the other file too"


@grouped
def externalities(
    load: Load,
    dry: DryRun,
    serving: Serving,
    out: Out,
    model: Model = "organism/qwen2",
    positive: Positive = None,
    negative: Negative = None,
    complying: Annotated[
        Path | None,
        typer.Option(
            "--complying", help=f"Harmless prompts with complying responses, {Pairs} (default: built-in beginnings)."
        ),
    ] = None,
    refusing: Annotated[
        Path | None, typer.Option("--refusing", help=f"The same prompts with refusing responses, {Pairs}.")
    ] = None,
    json_asked: Annotated[
        Path | None,
        typer.Option(
            "--json-asked", help=f"Prompts that ask for JSON, {Pairs} (default: those of --json-plain and a request)."
        ),
    ] = None,
    json_plain: Annotated[
        Path | None,
        typer.Option("--json-plain", help="Prompts that do not ask for JSON (default: the harmless ones)."),
    ] = None,
    responses: Annotated[
        Path | None,
        typer.Option(
            "--responses",
            help="File (.jsonl) of harmful prompts with a complying response, for the divergence by token.",
        ),
    ] = None,
    responses_are: Annotated[
        str, typer.Option("--responses-are", help="What those of --responses are called in claims and tables.")
    ] = "harmful",
    benign_responses: Annotated[
        Path | None,
        typer.Option(
            "--benign-responses", help="Likewise of harmless prompts (default: the unsteered model's own answers)."
        ),
    ] = None,
    unrestricted: Annotated[
        str | None,
        typer.Option(
            "--unrestricted",
            help="System prompt under which the model complies: its answers serve where --responses is not given.",
        ),
    ] = None,
    judge: JudgeOption = None,
    tasks: TasksOption = None,
    split: Split = None,
    column: Columns = None,
    limit: Limit = None,
    component: Annotated[
        str,
        typer.Option(
            "--component",
            help="Of the compliance direction: center (the paper's words) or pairwise (its code's default).",
        ),
    ] = "center",
    n_random: Annotated[int, typer.Option("--n-random", help="Random directions for each steering.")] = 19,
    ks: Annotated[
        str, typer.Option("--ks", help="Numbers of first tokens at which each steering is tried alone.")
    ] = "1,2,4,8",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Length of every answer at most.")] = 48,
    seed: Seed = 0,
    engine: Engine = ENGINE,
    show_answers: ShowAnswers = False,
) -> None:
    """Steering towards compliance and towards JSON, and what each does to harmful requests: calibrated, chosen,
    measured with controls, and drawn.

    An organism needs no files. Any other model needs --positive and --negative (harmful and harmless prompts).
    """
    from lens_steer._io.atomic import check_writable
    from lens_steer.studies.externalities.files import SPLIT, file_material
    from lens_steer.studies.externalities.material import organism_material
    from lens_steer.studies.externalities.report import study_and_write
    from lens_steer.studies.externalities.steerings import METHODS
    from lens_steer.studies.externalities.tokens import HARMFUL
    from lens_steer.studies.externalities.work import steering_benignly

    serving.check(engine)
    check_writable(out)
    if component not in METHODS:
        raise LensSteerError(f"--component {component!r}: use one of {', '.join(METHODS)}")
    counts = _counts(ks)
    if n_random < 1:
        raise LensSteerError(f"--n-random {n_random}: give at least 1")
    files: dict[str, Any] = {
        "complying": complying,
        "refusing": refusing,
        "json_asked": json_asked,
        "json_plain": json_plain,
        "responses": responses,
        "benign_responses": benign_responses,
        "unrestricted": unrestricted,
        "judge": judge_named(judge),
        "responses_are": None if responses_are == HARMFUL else responses_are,
        "split": None if split is None else shares_of(split),
    }
    given: dict[str, Any] = {name: value for name, value in files.items() if value is not None}
    if "responses_are" in given and responses is None:
        raise LensSteerError(f"--responses-are {responses_are!r} names those of --responses: give both, or neither")
    if positive is not None and negative is not None:
        given |= {"harmful_name": given.pop("responses_are", HARMFUL)}
        shares: dict[str, Any] = {"split": SPLIT}
        columns = (column or [None])[:1] + (column or [None])[-1:]
        sides = [
            read_prompts(source, column=name, limit=limit, seed=seed)
            for source, name in zip((positive, negative), columns, strict=True)
        ]
        material = file_material(sides[0], sides[1], seed=seed, **(shares | given))
        material = replace(material, tasks=tasks_of(material.refusal, seed, tasks))
    elif positive is not None or negative is not None or given or tasks or not model.startswith("organism/"):
        told = ", ".join(f"--{name.replace('_', '-')}" for name in [*given, *(["tasks"] if tasks else [])])
        raise LensSteerError(
            f"give --positive and --negative{f' with {told}' if told else ''}: files of harmful and of harmless prompts"
        )
    else:
        material = organism_material(seed=seed)
    material.check()
    material.check_room(load.check(model), max_new_tokens)
    loaded = load(model)
    dry.tell(
        loaded,
        steering_benignly(loaded, material, max_new_tokens=max_new_tokens, n_random=n_random, ks=counts),
        material.refusal.select.positive,
        engine=engine,
        max_new_tokens=max_new_tokens,
    )
    serving.start(loaded, engine)
    found, claims = study_and_write(
        loaded,
        material,
        out,
        command=command(),
        seed=seed,
        method=component,
        engine=engine,
        max_new_tokens=max_new_tokens,
        n_random=n_random,
        ks=counts,
        show_answers=show_answers,
    )
    emit(
        {
            "externalities": str(out / "externalities.md"),
            "choices": {s.name: {"sites": list(s.sites), "strength": s.strength} for s in found.steerings},
            "attack": {c.name: found.measured(c.name)["attack"].value for c in found.conditions if c.runs},
            "graded_by": "ground truth" if found.known else "judge" if material.judge else "phrases",
            "claims": {c.id: c.verdict for c in claims},
        }
    )


def _counts(ks: str) -> tuple[int, ...]:
    """Parse ``--ks``.

    Raises:
        LensSteerError: If it is not a list of numbers of at least 1, or lacks the one that the claims are about.

    >>> _counts("1, 4")
    (1, 4)
    """
    from lens_steer.studies.externalities.claim_texts import K

    parts = [part.strip() for part in ks.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts) or str(K) not in parts:
        raise LensSteerError(f"--ks {ks!r}: give numbers of at least 1 with commas, {K} among them, such as 1,{K}")
    return tuple(dict.fromkeys(int(part) for part in parts))


COMMANDS: tuple[Callable[..., None], ...] = (externalities,)
