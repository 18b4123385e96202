"""The folder of a sweep of one method: rows, numbers by setting, the choice, and figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lens_steer._defaults import ENGINE
from lens_steer._io.atomic import whole_folder
from lens_steer.data import ContrastSet
from lens_steer.data.checks import overlap_counts
from lens_steer.evaluation import cells
from lens_steer.evaluation.bounds import measured_bound
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.control_bands import Band, bands
from lens_steer.evaluation.control_runs import Beside, plain_bands, run_controls
from lens_steer.evaluation.controls import Controls
from lens_steer.evaluation.first_token import FIRST_OF, FirstToken, first_token
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.protocol import Evaluation, chosen_grids, on_select
from lens_steer.evaluation.provenance import provenance
from lens_steer.evaluation.selection import Constraint, settings
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.evaluation.sweep_work import sweeping
from lens_steer.evaluation.sweeps import run
from lens_steer.evaluation.work import Work
from lens_steer.figures import saving
from lens_steer.figures.sweeps import COHERENCE, by_value
from lens_steer.metrics.benchmarks import Tasks
from lens_steer.reports.cell_files import by_cell_file


@dataclass(frozen=True, repr=False)
class Swept(Evaluation, view="sweeps"):
    """The evaluation of one method, with its controls.

    Attributes:
        method: The name of the method.
        beside: The controls that ran beside the method.
        first_token: The length of the first token where the chosen plan steers; None where the choice steers nothing.
    """

    method: str = ""
    beside: Beside = field(default_factory=Beside)
    first_token: FirstToken | None = None

    @property
    def bands(self) -> dict[str, dict[str, Band]]:
        """The band of the draws on the report split, with the method's rank, by quantity and control."""
        return bands(self.reported(self.method), self.beside.report)


def sweep_method(
    model: Any,
    contrast: ContrastSet,
    grids: Sequence[Grid],
    out: str | Path,
    *,
    tasks: Tasks,
    objective: str = "positive_right",
    constraints: Sequence[Constraint] = (),
    controls: Controls | None = None,
    fitted_here: bool = True,
    seed: int = 0,
    command: str = "",
    progress: bool = True,
    before: Callable[[Work], None] | None = None,
    **how: Any,
) -> Swept:
    """Run the grids of one method and no steering on select, and the choice and its controls on report.

    The function writes ``select.csv``, ``report.csv``, ``sweep.json``, figures if the method has an angle, and the rows
    of the controls in ``report_controls.csv`` and ``select_controls.csv``. Where prompts have cells, ``by_cell.csv``
    holds the rates of the report split by cell. Without a ground truth, the bound on
    degenerate answers is measured first; ``unsteered.csv`` holds the answers that set it.

    Args:
        model: The model, from :func:`lens_steer.load_model`.
        contrast: The prompts, with select and report prompts.
        grids: The grids of one method, from :func:`lens_steer.evaluation.conditions.method_grids`.
        out: The folder to write to; an interrupted sweep continues from the rows in it.
        tasks: The capability tasks; may be empty.
        objective: The quantity to maximise; see :func:`lens_steer.evaluation.selection.choose`.
        constraints: The constraints of the choice; see the same function.
        controls: The record from which the method's controls are made; None runs no controls, and the record says so.
        fitted_here: Whether the calibration was made from the contrast's fit split; recorded in ``sweep.json``.
        seed: The seed of the intervals; recorded beside the numbers.
        command: The command line; recorded beside the numbers.
        progress: Whether to show progress bars.
        before: A function that is called with the work to come (:func:`lens_steer.evaluation.sweep_work.sweeping`),
            before anything is computed.
        how: Further fields of :class:`~lens_steer.evaluation.sweep_protocol.Protocol`: engine,
            max_new_tokens, openings and judge.
    """
    everything = [Grid(NONE), *grids]
    bare = Protocol(model, contrast.select, "select", tasks.select, **how)
    if before is not None:
        before(sweeping(model, contrast, everything, tasks, bare.max_new_tokens, controls=controls))
    how["bound"] = bound = measured_bound(bare, out, progress=progress)
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
    on_report = Protocol(model, contrast.report, "report", tasks.report, **how)
    rows = run(on_report, chosen_grids(everything, choices), out, "report", progress=progress)
    method = grids[0].condition
    chosen = next(g for g in chosen_grids(everything, choices) if g.condition == method)
    beside = run_controls(
        controls, chosen, grids, on_report, replace(bare, bound=bound), contrast, out, seed=seed, progress=progress
    )
    plan = None if chosen.build is None else chosen.build(chosen.values[0])
    first = (
        None
        if plan is None
        else first_token(model, plan, contrast.select.positive[:FIRST_OF], engine=how.get("engine", ENGINE))
    )
    reported = tuple(settings(rows, seed=seed))
    found = Swept(tuple(select), choices, reported, tuple(rows), bound, method, beside, first)
    meta = {
        **provenance(model, command=command, seed=seed, prompt_hashes=contrast.hashes, prompts=contrast.record()),
    }
    graded = all(p.task is not None for p in contrast.report.positive)
    with whole_folder(out) as work:
        if grids[0].turns and len(grids[0].values) > 2:
            for name, kind, quantities in (
                ("polar", "polar", ("positive_right", "perplexity_ref")),
                ("coherence_by_angle", "coherence", COHERENCE),
                ("class_swap", "class_swap", None),
            ):
                saving.save(
                    by_value(
                        kind,
                        select,
                        [method],
                        quantities,
                        {method: choices[method].value},
                        graded=graded,
                        **(beside.drawn if kind != "class_swap" else {}),
                    ),
                    name,
                    work,
                    meta,
                )
        record = {
            "choices": {name: asdict(c) for name, c in choices.items()},
            "objective": objective,
            "constraints": [str(c) for c in constraints],
            "calibrated_on_this_fit_split": fitted_here,
            "prompts_fitted_on": _fitted_on(controls, contrast),
            **({"clusters": shared} if (shared := cells.counts(rows)) else {}),
            **({} if bound is None else {"degenerate_above": bound.row()}),
            "select": [s.row() for s in select],
            "report": [
                s.record() | ({"band": plain_bands(found.bands)} if s.condition == method else {}) for s in found.report
            ],
            "controls": beside.record(),
            "first_token": None if first is None else first.record(),
            "meta": meta,
        }
        (work / "sweep.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        for name, text in by_cell_file(reported):
            (work / name).write_text(text, encoding="utf-8")
    return found


def _fitted_on(controls: Controls | None, contrast: ContrastSet) -> dict[str, tuple[int, int]] | None:
    """Count the prompts of select and report that the calibration or probe was made from.

    Returns:
        For select and report the count and the number of prompts. None if the source has no record of its prompts.
    """
    source = None if controls is None else controls.source
    seen = () if source is None else (*source.prompt_hashes_positive, *source.prompt_hashes_negative)
    if not seen:
        return None
    return overlap_counts(
        seen, {s: (getattr(contrast, s).positive, getattr(contrast, s).negative) for s in ("select", "report")}
    )
