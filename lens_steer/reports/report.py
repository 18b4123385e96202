"""The report: from a model and a contrast to figures, numbers and text, in one call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from lens_steer._defaults import ENGINE
from lens_steer._io.atomic import whole_folder
from lens_steer._io.rowstore import Row
from lens_steer.data import ContrastSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.pieces import Pieces, check_beginning
from lens_steer.evaluation.protocol import check_splits
from lens_steer.evaluation.provenance import provenance
from lens_steer.evaluation.sweep_protocol import POSITIVE, Protocol
from lens_steer.figures import geometry, saving
from lens_steer.figures import outcomes as outcome_figure
from lens_steer.geometry.calibration import Calibration, calibrate, prompt_statistics
from lens_steer.geometry.files import save_calibration
from lens_steer.geometry.summary import classes, summarise
from lens_steer.inference.record import record
from lens_steer.metrics.grading import CLASSES, Outcome
from lens_steer.models.fits import check_fits
from lens_steer.models.loading import info_of
from lens_steer.reports.report_numbers import controls_row, direction_numbers, norm_changes, outcome_row
from lens_steer.reports.report_sweep import DRAWS, STEERED, Swept, protocols, sweep
from lens_steer.reports.report_text import write_markdown

EXAMPLES = 3
NAME = "report"  # of the rows that are kept until a report is done


@dataclass(frozen=True)
class Report:
    """The results of one report; ``numbers`` is the content of ``report.json``.

    Attributes:
        calibration: The calibration from the fit split.
        numbers: Every number in the text, with its interval.
        grading: The graded outcomes on the report split.
        examples: One row for each prompt with its class, the prompt, and the answers without and with steering. An
            answer that is not shown is replaced by its outcome and by hashes.
    """

    calibration: Calibration
    numbers: dict[str, Any]
    grading: tuple[Outcome, ...]
    examples: tuple[dict[str, str], ...]


def make_report(
    model: Any,
    contrast: ContrastSet,
    out: str | Path,
    *,
    sites: str | Sequence[str] = "norm_out",
    rule: str = "paper",
    seed: int = 0,
    max_new_tokens: int = 48,
    engine: str = ENGINE,
    command: str = "",
    show_answers: bool = False,
    draws: int = DRAWS,
    progress: bool = True,
) -> Report:
    """Calibrate, draw the geometry, sweep twelve angles on held-out prompts, and write everything to a folder.

    Directions, plane and sites come from the contrast's fit split, the angle from its select split, and every reported
    number from its report split. The controls of the chosen angle are random planes, random sites and shuffled labels
    in ``draws`` draws each, and the identity and all sites once each. Random planes also run at a few other angles.

    Where no ground truth grades the answers, they are refused, degenerate or answered; see
    :func:`lens_steer.metrics.grading.outcome_of`. The bound on perplexity, above which an answer is degenerate, comes
    from the unsteered model's own answers to the negative prompts of the select split. In this case the report gives
    only outcomes and hashes of answers to positive prompts, unless ``show_answers`` is set.

    The function writes ``report.md``, ``report.json``, ``geometry.json``, ``calibration/`` and each figure as ``.pdf``,
    ``.png``, ``.csv`` and ``.json``. Nothing in ``out`` changes before everything is done. An interrupted report
    continues from the rows that are kept in ``out/.parts`` until then; these hold all answers.

    Args:
        model: The model, from :func:`lens_steer.load_model`.
        contrast: The prompts, with select and report prompts.
        out: The folder to write to.
        sites: The sites to record; see :func:`lens_steer.record`.
        rule: The rule for the discriminative sites; see :func:`lens_steer.calibrate`.
        seed: The seed of the bootstrap and of all draws.
        max_new_tokens: The largest number of tokens of each answer.
        engine: The engine that records and generates; see :func:`lens_steer.generate`.
        command: The command line that is recorded beside the numbers.
        show_answers: Whether to show answers to positive prompts where no ground truth grades them.
        draws: The number of draws of each control; 0 runs no controls, and the report says so.
        progress: Whether to show progress bars.

    Returns:
        The results that were written.

    Raises:
        LensSteerError: If the contrast has no select or report prompts, if ``draws`` is negative, if the output folder
            cannot be written, or if :func:`record` or :func:`calibrate` raises it.
    """
    check_splits(contrast)
    if draws < 0:
        raise LensSteerError(f"draws={draws}: give a number of at least 0 (0: no controls)")
    on = protocols(model, contrast, max_new_tokens, engine=engine)
    graded = not on[1].read_by
    with whole_folder(out) as work:
        pieces = Pieces(out, NAME, _identity(on, contrast, sites, rule, seed, draws))
        assert pieces.folder is not None
        fit = record(model, contrast.fit, sites, engine=engine, progress=progress)
        calibration = pieces.calibration(lambda: calibrate(fit, rule=rule, seed=seed))
        held_out = record(model, contrast.report, sites, engine=engine, progress=progress)
        summary = summarise(calibration)
        summary["classes"] = classes(prompt_statistics(held_out, calibration.basis), split="report", seed=seed)
        check_fits(calibration, model)
        found = sweep(on, contrast, calibration, fit, pieces.folder, seed=seed, draws=draws, progress=progress)
        measured, choice = found.measured, found.choice
        name = model_title(info_of(model).name)
        numbers = {
            "model": name,
            "contrast": contrast.name,
            "n": {
                s: [len(getattr(contrast, s).positive), len(getattr(contrast, s).negative)]
                for s in ("fit", "select", "report")
            },
            "direction": direction_numbers(calibration, summary, held_out),
            "norms": norm_changes(held_out, calibration),
            "best_angle": None if choice is None or choice.value is None else int(choice.value),
            "best_count": found.best_count,
            "best_shared_by": 0 if choice is None else choice.n_equal,
            "best_keeps_to_bound": choice is None or choice.met,
            "outcomes": [outcome_row(o, graded=graded) for o in measured],
            "identity_equals_base": found.identity,
            "controls": controls_row(found, draws),
        }
        if found.bound is not None:
            numbers |= {"degenerate_above": found.bound.row(), "max_new_tokens": max_new_tokens}
        meta = provenance(model, command=command, seed=seed, prompt_hashes=contrast.hashes) | {"model": name}
        drawings = geometry.drawings(summary)
        if measured:
            drawings["outcomes_by_angle"] = outcome_figure.drawing(measured, model=name, titles=_titles(contrast))
        for name, drawing in tqdm(drawings.items(), desc="figures", disable=not progress, leave=False):
            saving.save(drawing, name, work, meta)
        save_calibration(calibration, work / "calibration")
        (work / "geometry.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        (work / "report.json").write_text(
            json.dumps({"numbers": numbers, "meta": meta}, indent=1) + "\n", encoding="utf-8"
        )
        examples = _examples(contrast, found, hidden=not (graded or show_answers))
        report = Report(calibration, numbers, measured, tuple(examples))
        (work / "report.md").write_text(write_markdown(numbers, report.examples, summary), encoding="utf-8")
    pieces.drop()
    return report


def check_kept(
    model: Any,
    contrast: ContrastSet,
    out: str | Path,
    *,
    sites: str | Sequence[str],
    rule: str,
    seed: int,
    draws: int,
    max_new_tokens: int,
    engine: str,
) -> None:
    """Refuse a folder with the rows of another report, before the model is loaded.

    What only the loaded model tells (its weights and its dtype) is compared when the report begins.

    Args:
        model: The description of the model (``lens_steer.cli.precheck.describe``), or the loaded model.
        contrast, out, sites, rule, seed, draws, max_new_tokens, engine: The arguments of :func:`make_report`.

    Raises:
        LensSteerError: If the folder holds the beginning of another run.
    """
    on = protocols(model, contrast, max_new_tokens, engine=engine)
    check_beginning(out, NAME, _identity(on, contrast, sites, rule, seed, draws), whole=False)


def _identity(
    on: tuple[Protocol, Protocol], contrast: ContrastSet, sites: str | Sequence[str], rule: str, seed: int, draws: int
) -> dict[str, Any]:
    """Return the values that a report depends on; they tell whether kept rows belong to the same run."""
    return {
        **{protocol.split: protocol.identity for protocol in on},
        "fit": contrast.fit.hash,
        "sites": sites if isinstance(sites, str) else list(sites),
        "rule": rule,
        "seed": seed,
        "draws": draws,
        "what is kept": "rows",  # another version kept outcomes, from which this one cannot continue
    }


def _examples(contrast: ContrastSet, found: Swept, *, hidden: bool) -> list[dict[str, str]]:
    """Return the first prompts of each class with their answers without steering and at the chosen angle.

    Where answers to positive prompts are hidden, their outcomes stand in their place, with hashes by which a reader who
    has the texts can identify them.
    """
    if found.choice is None:
        return []
    shown = []
    for side in CLASSES:
        prompts = getattr(contrast.report, side)[:EXAMPLES]
        plain, steered = (found.answers(*at, side) for at in ((NONE, None), (STEERED, found.choice.value)))
        for prompt, base, turned in zip(prompts, plain, steered, strict=False):
            if hidden and side == POSITIVE:
                told = _told("unsteered", base) | _told("steered", turned)
                shown.append({"class": side, "prompt_sha256": _sha(prompt.text), **told})
            else:
                answers = {"unsteered": base["text"], "steered": turned["text"]}
                shown.append({"class": side, "prompt": prompt.text, **answers})
    return shown


def _told(name: str, row: Row) -> dict[str, str]:
    """Return the outcome and the hash of an answer that is not shown."""
    return {f"{name}_outcome": row["grade"], f"{name}_sha256": _sha(row["text"])}


def model_title(name: str) -> str:
    """Return the name of a model for use in a text.

    An organism or a model of a hub keeps its name. A folder or file goes by its own name, without the folders above it.

    >>> (
    ...     model_title("organism/qwen2"),
    ...     model_title("Qwen/Qwen2.5-0.5B-Instruct"),
    ...     model_title("/data/models/qwen2.5-coder-0.5b/"),
    ... )
    ('organism/qwen2', 'Qwen/Qwen2.5-0.5B-Instruct', 'qwen2.5-coder-0.5b')
    """
    path = Path(name)
    here = not name.startswith("organism/") and (name[:1] in ("/", "~", ".") or path.exists())
    return (path.name or path.resolve().name) if here else name


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _titles(contrast: ContrastSet) -> dict[str, str]:
    if contrast.name == "organism/refusal":
        return outcome_figure.TITLES
    return {"positive": "positive prompts", "negative": "negative prompts"}
