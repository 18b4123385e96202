"""The data of the figures of the propositions, drawn by the functions in ``figures.py`` and ``lens_steer.figures``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.figures.core import Drawing
from lens_steer.studies.claim import Claim
from lens_steer.studies.propositions import (
    differences,
    dose,
    draws,
    experiments,
    formula,
    precision,
    questions,
    recorded,
)
from lens_steer.studies.propositions.measured import Measured

PAIRED = 32  # number of vectors of each class whose pairwise distances a figure shows


def differences_drawing(claims: Sequence[Claim], keys: Sequence[str]) -> Drawing:
    """Return the paired differences of some questions by outcome.

    Each difference is given at the conditions' own best angles and at the nominal angle.
    """
    names = ("question", "outcome", "first", "second", "at_nominal", "mean", "low", "high", "n")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    by_id = {c.id: c for c in claims}
    pairs = {q[0]: (q[1], q[2]) for q in questions.QUESTIONS}
    for key, outcome, at_nominal in product(keys, (o.name for o in questions.OUTCOMES), (False, True)):
        claim = by_id.get(questions.claim_id(key, outcome, at_nominal=at_nominal))
        if claim is None or claim.interval is None:
            continue
        for name, value in zip(
            names, (key, outcome, *pairs[key], at_nominal, claim.value, *claim.interval, claim.n), strict=True
        ):
            columns[name].append(value)
    return Drawing("paired_differences", columns, {"outcomes": list(dict.fromkeys(columns["outcome"]))})


def behaviour_drawings(
    found: experiments.Experiments, claims: Sequence[Claim], model: str, *, seed: int = 0
) -> dict[str, Drawing]:
    """Return the figures of the experiments on behaviour, by name; one of which nothing was measured is left out.

    Args:
        found: The results of the experiments.
        claims: The answers to the questions.
        model: Name of the model.
        seed: Seed of the bootstrap of the dose–response.
    """
    keys = {
        "paired_differences": [q[0] for q in questions.QUESTIONS],
        "two_by_two": [q[0] for q in questions.QUESTIONS if q[4] == "E2"],
    }
    drawings = {name: differences_drawing(claims, wanted) for name, wanted in keys.items()}
    drawings |= {"conditions": conditions_drawing(found.measured), "norm_dose": dose_drawing(found, model, seed=seed)}
    drawings["control_draws"] = draws_drawing(found)
    return {name: drawing for name, drawing in drawings.items() if any(drawing.columns.values())}


def conditions_drawing(measured: Sequence[Measured]) -> Drawing:
    """Return the rates and the perplexity of every condition, with intervals."""
    table = [m.row() for m in measured]
    return Drawing("conditions", {name: [row[name] for row in table] for name in table[0]})


def draws_drawing(found: experiments.Experiments) -> Drawing:
    """Return the value of every draw of the random controls, beside that of SS on the same prompts, by outcome.

    The numbers are those of the claims: the prompts of a control are those that have a value under SS and under every
    draw. It has no rows where the angle would come from a tie at nothing.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("outcome", "control", "draw", "value", "method", "n")}
    base = found.at(nominal=False).get(experiments.BASE)
    for outcome, (control, drawn) in product((o.name for o in questions.OUTCOMES), found.drawn.items()):
        same = None if base is None or base.tied else draws.common(base, drawn, outcome)
        if same is None:
            continue
        for k, values in enumerate(same.draws, start=1):
            row = (outcome, control, k, float(values.mean()), float(same.own.mean()), len(same.own))
            for name, value in zip(columns, row, strict=True):
                columns[name].append(value)
    notes = {"outcomes": list(dict.fromkeys(columns["outcome"])), "angle": None if base is None else base.angle}
    return Drawing("control_draws", columns, notes)


def dose_drawing(found: experiments.Experiments, model: str, *, seed: int = 0) -> Drawing:
    """Return the effect of each norm error on each outcome, with the norm errors of released planes and of rounding.

    It has no rows where the angle would come from a tie at nothing.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("outcome", "scale", "mean", "low", "high", "n")}
    for outcome in (o.name for o in dose.OUTCOMES):
        for scale, e in dose.effects_of(found.dose, outcome, seed=seed).items():
            for name, value in zip(columns, (outcome, scale, e.value, e.low, e.high, e.n), strict=True):
                columns[name].append(value)
    rounding = dose.rounding_error(seed=seed)
    notes = {
        "model": model,
        "angle": found.dose[1.0].angle if found.dose else None,
        "outcomes": list(dict.fromkeys(columns["outcome"])),
        "smallest": dose.SMALLEST,
        "published": [[label, *ends] for label, ends in dose.RELEASED.items()]
        + [["bfloat16 basis and arithmetic, largest", rounding, rounding]],
    }
    return Drawing("norm_dose", columns, notes)


def phase_drawings(
    positive: Float[Tensor, "n_positive d_model"],
    negative: Float[Tensor, "n_negative d_model"],
    basis: Float[Tensor, "2 d_model"],
    where: str,
) -> dict[str, Drawing]:
    """Return the data of two figures that show how each rotation changes two classes.

    The figures show the positions of the vectors in the plane, and the pairwise distances, before and after the
    rotation.
    """
    moved = {"before": (positive, negative)}
    for name in (formula.SAS, formula.SS):
        operator = formula.PLANE_OPERATORS[name]
        moved[name] = (operator(positive, basis, differences.NOMINAL), operator(negative, basis, differences.NOMINAL))
    inside: dict[str, list[Any]] = {name: [] for name in ("operator", "side", "x", "y")}
    for name, classes in moved.items():
        for side, h in zip(("positive", "negative"), classes, strict=True):
            c = h @ basis.mT
            for column, values in zip(
                inside.values(), ([name] * len(c), [side] * len(c), *map(_short, c.T)), strict=True
            ):
                column += values
    notes = {"where": where, "angle": differences.NOMINAL}
    pairs: dict[str, list[Any]] = {name: [] for name in ("operator", "kind", "before", "after")}
    few = {name: torch.cat([h[:PAIRED] for h in classes]) for name, classes in moved.items()}
    side = torch.cat([torch.zeros(len(positive[:PAIRED])), torch.ones(len(negative[:PAIRED]))])
    i, j = torch.triu_indices(len(side), len(side), offset=1)
    kinds = [
        "between classes" if a != b else "within a class"
        for a, b in zip(side[i].tolist(), side[j].tolist(), strict=True)
    ]
    for name in (formula.SAS, formula.SS):
        apart = [_short(torch.cdist(h, h)[i, j]) for h in (few["before"], few[name])]
        for column, values in zip(pairs.values(), ([name] * len(kinds), kinds, *apart), strict=True):
            column += values
    return {
        "in_plane": Drawing("in_plane", inside, notes),
        "pairwise_distances": Drawing("pairwise_distances", pairs, notes),
    }


def _short(values: Float[Tensor, " n"]) -> list[float]:
    """Round values to six significant digits, as many as a figure can show."""
    return [float(f"{v:.6g}") for v in values.tolist()]


def norm_drift_drawing(drifts: Sequence[recorded.Drift]) -> Drawing:
    """Return the length changes at the inputs of later norms over depth, for both rotations."""
    names = ("operator", "site", "depth", "mean", "low", "high")
    return Drawing(
        "norm_drift", {name: [getattr(d, name) for d in drifts] for name in names}, {"n": drifts[0].n if drifts else 0}
    )


def norm_change_drawing(cells: Sequence[precision.Cell], n: int) -> Drawing:
    """Return the norm changes by angle, operator and pair of dtypes."""
    names = ("operator", "basis_dtype", "arithmetic", "angle", "largest", "mean")
    return Drawing("norm_change", {name: [getattr(c, name) for c in cells] for name in names}, {"n": n})
