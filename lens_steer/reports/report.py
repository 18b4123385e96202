"""The report: from a model and a contrast to figures, numbers and text, in one call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from lens_steer._defaults import ENGINE
from lens_steer._io.atomic import whole_folder
from lens_steer.data import ContrastSet, Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.controls import AT_ITS_VALUE
from lens_steer.evaluation.pieces import Pieces, check_beginning
from lens_steer.evaluation.protocol import check_splits
from lens_steer.evaluation.provenance import provenance
from lens_steer.evaluation.sweeps import Protocol
from lens_steer.figures import geometry, saving
from lens_steer.figures import outcomes as outcome_figure
from lens_steer.geometry.calibration import Calibration, calibrate, prompt_statistics
from lens_steer.geometry.discriminative import discriminative_sites, opposite_sign
from lens_steer.geometry.files import save_calibration
from lens_steer.geometry.summary import classes, summarise
from lens_steer.inference.record import Activations, record
from lens_steer.metrics import grading
from lens_steer.metrics.grading import Outcome
from lens_steer.models.fits import check_fits
from lens_steer.models.loading import info_of
from lens_steer.operators import rotation
from lens_steer.reports.report_sweep import ANGLES, DRAWS, PLAIN, STEERED, Swept, sweep
from lens_steer.reports.report_text import write_markdown
from lens_steer.stats import wilson

EXAMPLES = 3
NAME = "report"  # of the steps that are kept until a report is done


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
    continues from the steps that are kept in ``out/.parts``.

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
    with whole_folder(out) as work:
        fit = record(model, contrast.fit, sites, engine=engine, progress=progress)
        calibration = calibrate(fit, rule=rule, seed=seed)
        held_out = record(model, contrast.report, sites, engine=engine, progress=progress)
        summary = summarise(calibration)
        summary["classes"] = classes(prompt_statistics(held_out, calibration.basis), split="report", seed=seed)
        how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "engine": engine}
        graded = grading.graded([*contrast.report.positive, *contrast.report.negative])
        unsteered = None if graded else grading.Unsteered(model, contrast.select.negative, **how)
        generated = partial(grading.measure, model, unsteered=unsteered, **how)
        check_fits(calibration, model)
        pieces = Pieces(out, NAME, _identity(model, contrast, sites, rule, seed, draws, how))
        found = sweep(generated, contrast, calibration, fit, pieces, seed=seed, draws=draws, progress=progress)
        measured, examples = found.measured, _examples(contrast, found)
        name = model_title(info_of(model).name)
        hidden = () if graded or show_answers else contrast.report.positive[:EXAMPLES]  # prompts of the first examples
        shown = [_hidden(model, prompt, e, unsteered) for prompt, e in zip(hidden, examples, strict=False)]
        shown += examples[len(shown) :]
        numbers = {
            "model": name,
            "contrast": contrast.name,
            "n": {
                s: [len(getattr(contrast, s).positive), len(getattr(contrast, s).negative)]
                for s in ("fit", "select", "report")
            },
            "direction": _direction_numbers(calibration, summary, held_out),
            "norms": norm_changes(held_out, calibration),
            "best_angle": found.best_angle,
            "best_count": found.best_count,
            "best_shared_by": found.n_equal,
            "best_keeps_to_bound": found.met,
            "outcomes": [_outcome_row(o, graded=graded) for o in measured],
            "identity_equals_base": found.identity,
            "controls": _controls_row(found, draws),
        }
        if unsteered is not None:
            numbers |= {"degenerate_above": unsteered.bound.row(), "max_new_tokens": max_new_tokens}
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
        report = Report(calibration, numbers, tuple(measured), tuple(shown))
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
    **how: Any,
) -> None:
    """Refuse a folder with the steps of another report, before the model is loaded.

    What only the loaded model tells (its weights and its dtype) is compared when the report begins.

    Args:
        model: The description of the model (``lens_steer.cli.precheck.describe``), or the loaded model.
        contrast, out, sites, rule, seed, draws: The arguments of :func:`make_report`.
        how: Its ``max_new_tokens`` and ``engine``.

    Raises:
        LensSteerError: If the folder holds the beginning of another run.
    """
    check_beginning(out, NAME, _identity(model, contrast, sites, rule, seed, draws, how), whole=False)


def _identity(
    model: Any, contrast: ContrastSet, sites: str | Sequence[str], rule: str, seed: int, draws: int, how: dict[str, Any]
) -> dict[str, Any]:
    """Return the values that the steps of a report depend on; they tell whether kept steps belong to the same run."""
    by_split = {
        s: Protocol(model, getattr(contrast, s), s, PromptSet(()), **how).identity for s in ("select", "report")
    }
    return {
        **by_split,
        "fit": contrast.fit.hash,
        "sites": sites if isinstance(sites, str) else list(sites),
        "rule": rule,
        "seed": seed,
        "draws": draws,
    }


def _examples(contrast: ContrastSet, found: Swept) -> list[dict[str, str]]:
    """Return the first prompts of each class with their answers without steering and at the chosen angle."""
    if found.texts is None:
        return []
    return [
        {
            "class": side,
            "prompt": getattr(contrast.report, side)[i].text,
            "unsteered": found.texts[PLAIN][side][i],
            "steered": found.texts[STEERED][side][i],
        }
        for side in grading.CLASSES
        for i in range(min(EXAMPLES, len(found.texts[PLAIN][side])))
    ]


def _controls_row(found: Swept, draws: int) -> dict[str, Any]:
    """Return the bands of the controls as plain values."""
    bands = {
        control: {side: {g: asdict(b) for g, b in by_grade.items()} for side, by_grade in by_side.items()}
        for control, by_side in (found.bands or {}).items()
    }
    return {
        "draws": draws,
        "bands": bands,
        "left_out": dict(found.left_out or {}),
        "told": AT_ITS_VALUE if bands else "",
    }


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


def _hidden(model: Any, prompt: Prompt, example: dict[str, str], unsteered: grading.Unsteered | None) -> dict[str, str]:
    """Return an example without its texts.

    It holds the outcomes, and hashes by which a reader who has the texts can identify them.
    """
    found = {"class": example["class"], "prompt_sha256": _sha(example["prompt"])}
    for key in ("unsteered", "steered"):
        grade = grading.grade_all(model, [prompt], [example[key]], unsteered)[0][0]
        found |= {f"{key}_outcome": grade, f"{key}_sha256": _sha(example[key])}
    return found


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def norm_changes(activations: Activations, calibration: Calibration) -> dict[str, Any]:
    """Return the largest relative change of length that each rotation makes to activations over the twelve angles.

    The activations are the recorded ones at the steered sites. The change is measured in float32, in which the hooks
    compute, and in float64, where only the error of the float32 basis is left.

    Returns:
        The number of vectors, and ``max |‖h'‖/‖h‖ − 1|`` for each operator and dtype. Empty if no site is steered.
    """
    rows = [activations.sites.index(name) for name in calibration.discriminative_sites]
    if not rows:
        return {}
    h = torch.cat([activations.positive, activations.negative])[:, rows]
    angle = torch.tensor(ANGLES, dtype=torch.float64)
    found: dict[str, Any] = {"n_vectors": h.shape[0] * h.shape[1]}
    operators: dict[str, Callable[..., torch.Tensor]] = {
        "selective": rotation.selective_rotation,
        "standard": rotation.standard_angular,
        "adaptive": rotation.adaptive_angular,
    }
    for name, operator in operators.items():
        for dtype in (torch.float32, torch.float64):
            x = h.to(dtype).expand(len(ANGLES), *h.shape)
            change = operator(x, calibration.basis, angle).double().norm(dim=-1) / x.double().norm(dim=-1) - 1
            found[f"{name}_{str(dtype).removeprefix('torch.')}"] = float(change.abs().max())
    return found


def _direction_numbers(calibration: Calibration, summary: dict[str, Any], held_out: Activations) -> dict[str, Any]:
    again = discriminative_sites(
        held_out.positive,
        held_out.negative,
        calibration.basis[0],
        held_out.sites,
        rule=calibration.rule,
        bound=calibration.bound,
    )
    chosen = set(calibration.discriminative_sites)
    kept = len(chosen & set(again.sites))
    return {
        "selected_site": calibration.selected_site,
        "selection_margin": summary["selection"]["margin"],
        "n_sites": len(calibration.sites),
        "zero_candidates": summary["zero_candidates"],
        "rule": calibration.rule,
        "discriminative_sites": len(chosen),
        "discriminative_blocks": list(calibration.discriminative_blocks),
        "n_blocks": calibration.n_layers,
        "discriminative_on_held_out": _interval(kept, len(chosen)) if chosen else None,
        "held_out_separation": _separation(held_out, calibration),
        "share_in_plane": summary["plane"]["share_in_plane_centred"],
        "b2_remainder": calibration.details["pc_remainder_after_b1"],
        "pc_explained": calibration.details["pc_explained_variance"],
    }


def _separation(held_out: Activations, calibration: Calibration) -> dict[str, Any]:
    """Return the share of held-out prompts whose projection at the selected site has their class's sign, by class."""
    positive, negative = (x.double() @ calibration.basis[0].double() for x in held_out.at(calibration.selected_site))
    ones = torch.ones(1, dtype=torch.float64)
    return {
        "positive": _interval(int(opposite_sign(positive, -ones.expand_as(positive)).sum()), len(positive)),
        "negative": _interval(int(opposite_sign(negative, ones.expand_as(negative)).sum()), len(negative)),
    }


def _outcome_row(outcome: Outcome, *, graded: bool) -> dict[str, Any]:
    rates, p = {g: outcome.rate(g) for g in outcome.counts}, outcome.perplexity
    besides = {"cut_off": outcome.cut_off, "perplexity": None if p is None else [p.value, p.low, p.high]}
    return {
        "condition": outcome.condition,
        "angle": outcome.angle,
        "class": outcome.side,
        "counts": outcome.counts,
        "rates": {g: [e.value, e.low, e.high] for g, e in rates.items()},
        **({} if graded else besides),
        **({"draw": outcome.draw} if outcome.draw else {}),
    }


def _interval(successes: int, n: int) -> dict[str, float | int]:
    rate = wilson(successes, n)
    return {"value": rate.value, "low": rate.low, "high": rate.high, "n": n}


def _titles(contrast: ContrastSet) -> dict[str, str]:
    if contrast.name == "organism/refusal":
        return outcome_figure.TITLES
    return {"positive": "positive prompts", "negative": "negative prompts"}
