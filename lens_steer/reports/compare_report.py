"""The folder of a comparison: tables, numbers, figures, answers side by side, and the stability of the selection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lens_steer._io.atomic import whole_folder
from lens_steer.data import ContrastSet
from lens_steer.evaluation import cells
from lens_steer.evaluation.comparison import REFERENCE, Comparison, compare
from lens_steer.evaluation.control_runs import plain_bands
from lens_steer.evaluation.provenance import provenance
from lens_steer.evaluation.refinement import tried
from lens_steer.figures import saving
from lens_steer.geometry.stability import stability
from lens_steer.reports import comparison_text
from lens_steer.reports.cell_files import by_cell_file
from lens_steer.stats.estimates import Estimate


def compare_and_write(
    model: Any,
    contrast: ContrastSet,
    out: str | Path,
    *,
    command: str = "",
    seed: int = 0,
    show_answers: bool = False,
    progress: bool = True,
    **options: Any,
) -> Comparison:
    """Run :func:`lens_steer.evaluation.comparison.compare` and write its results to a folder.

    The function writes ``comparison.md`` and ``comparison.tex`` (the main table), ``equal_kl.md``, ``qualitative.md``,
    ``comparison.json``, ``stability.json``, ``harmonic.csv`` and the figures. Where prompts have cells, ``by_cell.csv``
    holds the rates of the report split by cell. The rows are beside them, in ``select.csv``,
    ``select_refined_1.csv``, ``report.csv``, ``report_controls.csv``, ``report_equal_kl.csv`` and ``kl.csv``.

    Args:
        model: The model; see :func:`lens_steer.evaluation.comparison.compare`, also for ``contrast``, ``out``,
            ``seed``, ``progress`` and ``options``.
        contrast: The prompts.
        out: The folder to write to.
        command: The command line that is recorded beside the numbers.
        seed: The seed of controls, calibration and intervals.
        show_answers: Whether ``qualitative.md`` shows answers to harmful prompts where no ground truth grades them.
            Otherwise it shows hashes.
        progress: Whether to show progress bars.
        options: Further options of the comparison.
    """
    found = compare(model, contrast, out, seed=seed, progress=progress, **options)
    selection = stability(found.activations, rule=found.calibration.rule, seed=seed, progress=progress)
    meta = provenance(model, command=command, seed=seed, prompt_hashes=contrast.hashes)
    with whole_folder(out) as work:
        for name, drawing in comparison_text.drawings(found, selection).items():
            saving.save(drawing, name, work, meta)
        for name, text in (
            ("comparison.md", comparison_text.markdown(found)),
            ("comparison.tex", comparison_text.latex(found)),
            ("equal_kl.md", comparison_text.equal_kl_markdown(found)),
            ("qualitative.md", comparison_text.qualitative(found, contrast.report, show_answers=show_answers)),
            ("comparison.json", _json(_record(found) | {"meta": meta})),
            ("stability.json", _json(selection.summary() | {"meta": meta})),
            ("harmonic.csv", comparison_text.harmonic_csv(found)),
            *by_cell_file((*found.evaluation.report, *found.matched)),
        ):
            (work / name).write_text(text, encoding="utf-8")
    return found


def _record(found: Comparison) -> dict[str, Any]:
    """Return everything but the rows as plain values."""
    return {
        "objective": found.objective,
        "constraints": list(found.constraints),
        "options": dict(found.options),
        "graded_by_a_ground_truth": found.graded,
        **({"clusters": shared} if (shared := cells.counts(found.evaluation.rows)) else {}),
        "choices": {
            name: asdict(c) | {"at_nothing": name in found.at_nothing} for name, c in found.evaluation.choices.items()
        },
        "tried": tried(found.evaluation.select),
        "refined": found.refine,
        "published_direction": found.published.record(),
        "left_out": found.left_out,
        "select": [s.row() for s in found.evaluation.select],
        "report": [
            s.record() | ({"band": plain_bands(found.bands)} if found.bands and s.condition == REFERENCE else {})
            for s in found.evaluation.report
        ],
        "controls": found.beside.record() | ({} if found.bands else {"told": comparison_text.no_draws()}),
        "differences_from_selective": _plain(found.differences, found.alone[0]),
        "joint_level": (
            f"of each quantity, the intervals of the differences hold at 95 % for all {found.n_compared} conditions "
            "together (Bonferroni), and those at equal divergence for all quantities too; low_alone and high_alone "
            "hold at 95 % for each by itself"
        ),
        "equal_kl": {
            "target": found.target,
            "report": [s.record() for s in found.matched],
            "differences_from_selective": _plain(found.matched_differences, found.alone[1]),
            "matches": {
                name: {"kl": m.kl, "reason": m.reason, "value": None if m.grid is None else m.grid.values[0]}
                for name, m in found.matches.items()
            },
        },
        "harmonic": {
            side: comparison_text.harmonic_summary(r.fit) | {"few_angles": r.few} for side, r in found.responses.items()
        },
        "anti_steerable": None if found.anti_steerable is None else asdict(found.anti_steerable),
        "shuffled_plane": {"principal_angles_with_the_plane": list(found.shuffled_angles), "permutations": 1},
    }


def _plain(found: Mapping[str, Mapping[str, Estimate]], alone: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Any]:
    def row(e: Estimate, own: Estimate) -> dict[str, Any]:
        return asdict(e) | {"low_alone": own.low, "high_alone": own.high}

    return {name: {q: row(e, alone[name][q]) for q, e in by.items()} for name, by in found.items()}


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"
