"""A sweep of one method, written: rows, numbers by setting, the choice, figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lens_steer.artifacts import whole_folder
from lens_steer.evaluation import Evaluation, chosen_grids, on_select
from lens_steer.figures import saving
from lens_steer.figures.sweeps import COHERENCE, by_value
from lens_steer.geometry.calibration import versions
from lens_steer.grids import ANGULAR, NONE
from lens_steer.metrics.benchmarks import Tasks
from lens_steer.prompts import ContrastSet
from lens_steer.selection import Constraint, settings
from lens_steer.sweeps import Grid, Protocol, run


def sweep_method(
    model: Any, contrast: ContrastSet, grids: Sequence[Grid], out: str | Path, *, tasks: Tasks, objective: str = "complied",
    constraints: Sequence[Constraint] = (), fitted_here: bool = True, seed: int = 0, command: str = "", progress: bool = True,
    before: Callable[[Sequence[Grid]], None] | None = None, **how: Any,
) -> Evaluation:  # fmt: skip
    """One method's grids and no steering on select, the choice on report; writes ``select.csv``, ``report.csv``, ``sweep.json`` and, over angles, figures.

    Args:
        model: from :func:`lens_steer.load_model`.
        contrast: with select and report prompts.
        grids: of one method, from :func:`lens_steer.grids.method_grids`.
        out: folder; an interrupted sweep goes on from what lies there.
        tasks: capability tasks, if there are any.
        objective, constraints: see :func:`lens_steer.selection.choose`.
        fitted_here: whether the calibration was made from the contrast's fit split; written down.
        seed, command: written beside the numbers.
        progress: show bars.
        before: called with every grid that will run, before any does.
        how: engine, max_new_tokens and openings of a :class:`~lens_steer.sweeps.Protocol`.
    """
    everything = [Grid(NONE), *grids]
    if before is not None:
        before(everything)
    select, choices, _ = on_select(
        model,
        contrast,
        everything,
        out,
        tasks=tasks.select,
        objective=objective,
        constraints=constraints,
        seed=seed,
        progress=progress,
        **how,
    )
    rows = run(
        Protocol(model, contrast.report, "report", tasks.report, **how),
        chosen_grids(everything, choices),
        out,
        "report",
        progress=progress,
    )
    found = Evaluation(tuple(select), choices, tuple(settings(rows, seed=seed)), tuple(rows))
    meta = {"command": command, "seed": seed, "versions": versions(), "model": model.lens_info.name,
            "prompt_hashes": {s: getattr(contrast, s).hash for s in ("fit", "select", "report")}}  # fmt: skip
    graded = all(p.task is not None for p in contrast.report.positive)
    with whole_folder(out) as work:
        method = grids[0].condition
        if method in ANGULAR and len(grids[0].values) > 2:
            for name, kind, quantities in (
                ("polar", "polar", ("complied", "perplexity_ref")), ("coherence_by_angle", "coherence", COHERENCE), ("class_swap", "class_swap", None),
            ):  # fmt: skip
                saving.save(
                    by_value(kind, select, [method], quantities, {method: choices[method].value}, graded=graded), name, work, meta
                )
        record = {
            "choices": {name: asdict(c) for name, c in choices.items()}, "objective": objective, "constraints": [str(c) for c in constraints],
            "calibrated_on_this_fit_split": fitted_here,
            "select": [s.row() for s in select], "report": [s.row() for s in found.report], "meta": meta,
        }  # fmt: skip
        (work / "sweep.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return found
