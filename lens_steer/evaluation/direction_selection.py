"""Arditi et al.'s selection of a refusal direction: candidates by position and block, chosen by what they do.

A candidate is the difference of the class means at the input of a block, at one of the chat template's tokens after the
instruction. It is kept if adding it makes the model refuse harmless requests, if ablating it changes harmless answers
little, and if it is not from the last blocks. Of those kept, the one whose ablation lowers the refusal score of harmful
requests most is chosen. Source: arXiv 2406.11717, sections 2.3 and C; the refusal score is that of
:mod:`lens_steer.metrics.refusal_score`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer._io.progress import Counter, counting
from lens_steer.data import Contrast, ContrastSet, PromptSet
from lens_steer.errors import LensSteerError, expect
from lens_steer.evaluation.direction_trial import Trial, candidate_of, mean_differences, refusal_scores, trial
from lens_steer.evaluation.pieces import Pieces
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.geometry.calibration import versions
from lens_steer.geometry.directions import zero_rows
from lens_steer.geometry.selected_direction import CandidateScore, DirectionBounds, SelectedDirection
from lens_steer.inference.engines import check_engine, check_idle
from lens_steer.inference.rendering import tokens_after_instruction
from lens_steer.metrics.refusal_openings import NoRefusalError, measured_openings
from lens_steer.metrics.refusal_score import refusal_tokens
from lens_steer.models.fits import reference
from lens_steer.models.loading import info_of

STEPS = "direction"  # the name of the steps that a run keeps
N_FIT, N_SELECT = 128, 32  # prompts of each class, as in the paper
NAMES = {"min_induce": "induce_score", "max_kl": "kl", "max_depth": "block"}  # by bound: the score that it bounds


class NoneKeptError(LensSteerError):
    """No candidate direction keeps the bounds."""


def select_direction(
    model: Any,
    contrast: ContrastSet,
    *,
    n_fit: int = N_FIT,
    n_select: int = N_SELECT,
    bounds: DirectionBounds | None = None,
    openings: Sequence[str] | None = None,
    max_new_tokens: int = 48,
    engine: str = ENGINE,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = True,
) -> SelectedDirection:
    """Select a refusal direction as Arditi et al. do.

    1. The tokens with which the model's refusals begin are measured on the positive fit prompts
       (:func:`lens_steer.metrics.refusal_openings.measured_openings`).
    2. Prompts that the model does not treat as their class are left out: a positive prompt is kept if its unsteered
       refusal score is above 0, a negative one if it is below 0.
    3. The candidates are the differences of the class means of the fit prompts at the input of every block and at every
       token after the instruction (:func:`lens_steer.inference.rendering.tokens_after_instruction`), in float64.
    4. Each is tried on the select prompts; see :class:`~lens_steer.geometry.selected_direction.CandidateScore`.
    5. Of the candidates that keep the bounds, the one with the smallest refusal score is chosen; of equals the one with
       the smaller divergence, then that of the earlier block.

    Where the difference is zero (at the first block every prompt has the same token) there is no candidate, and the
    scores are NaN.

    Args:
        model: A model from :func:`lens_steer.load_model`, with no plan in force.
        contrast: Prompts that the model refuses and prompts that it answers. The fit split gives the directions, the
            select split the scores.
        n_fit, n_select: The largest number of prompts of each class, before the filter; the first ones are taken.
        bounds: The bounds on a candidate; None takes those of the paper.
        openings: Texts with which refusals begin, in place of the measured ones; the first token of each is used.
        max_new_tokens: The length of the answers on which the openings are measured.
        engine: See :func:`lens_steer.generate`.
        seed: The seed with which the prompts were drawn, which is recorded.
        folder: A folder in which finished steps are kept, in ``.parts``: the same call then goes on where it was
            interrupted, also with other bounds. None keeps nothing.
        progress: If True, progress bars are shown.

    Raises:
        LensSteerError: If a split is empty, also after the filter; if the model refuses nothing; or if no candidate
            keeps the bounds, with the bound that leaves out most and the value that would keep one.

    >>> import lens_steer as ls
    >>> model, prompts = ls.load_model("organism/qwen2"), ls.load_contrast("organism/refusal").first(fit=4, select=2)
    >>> everything = DirectionBounds(min_induce=-float("inf"), max_kl=float("inf"), max_depth=1.0)
    >>> found = select_direction(model, prompts, bounds=everything, progress=False)
    >>> found.position in range(-5, 0), len(found.scores) == 5 * 12
    (True, True)
    """
    expect(
        "contrast", contrast, ContrastSet, "prompts with their splits, such as ls.load_contrast(positive=…, split=…)"
    )
    bounds = DirectionBounds() if bounds is None else bounds
    expect("bounds", bounds, DirectionBounds, "give DirectionBounds(min_induce=…, max_kl=…, max_depth=…)")
    check_engine(engine)
    check_idle(model)
    fit, select = first_of(contrast, n_fit, n_select)
    info, n_positions = info_of(model), len(tokens_after_instruction(info_of(model).tokenizer))
    pieces = Pieces(folder, STEPS, _identity(model, fit, select, openings, max_new_tokens, engine))
    told: list[dict[str, Any]] = []
    if openings is None:
        how = {"max_new_tokens": max_new_tokens, "engine": engine, "progress": progress}
        told = pieces.keep("openings", lambda: [asdict(o) for o in measured_openings(model, fit.positive, **how)])
        tokens = tuple(sorted(row["token"] for row in told if row["used"]))
    else:
        tokens = refusal_tokens(info, openings)
    fitted, chosen_on = (_filtered(model, part, n, tokens, engine) for n, part in (("fit", fit), ("select", select)))
    directions = pieces.tensor("directions", lambda: _directions(model, fitted, n_positions, engine))
    tried = trial(model, chosen_on, tokens, engine=engine)
    scores = _score_all(tried, directions, pieces, progress)
    best = choose(scores, bounds, info.n_layers)
    return SelectedDirection(
        **reference(info),
        direction=directions[best.position, best.block].clone(),
        **asdict(best),
        baseline_refusal_score=tried.baseline_refusal_score,
        baseline_induce_score=tried.baseline_induce_score,
        refusal_tokens=tokens,
        openings=tuple(told),
        bounds=bounds,
        scores=scores,
        backend=info.backend,
        weight_processing=info.weight_processing,
        n_positive=len(fitted.positive),
        n_negative=len(fitted.negative),
        n_select_positive=len(chosen_on.positive),
        n_select_negative=len(chosen_on.negative),
        n_given={n: [len(part.positive), len(part.negative)] for n, part in (("fit", fit), ("select", select))},
        prompt_hash=fitted.hash,
        prompt_hashes_positive=(*fitted.positive.hashes, *chosen_on.positive.hashes),
        prompt_hashes_negative=(*fitted.negative.hashes, *chosen_on.negative.hashes),
        seed=seed,
        versions=versions(),
        details={"engine": engine, "dtype": str(info.dtype), "max_new_tokens": max_new_tokens},
    )


def choose(scores: Sequence[CandidateScore], bounds: DirectionBounds, n_layers: int) -> CandidateScore:
    """Return the candidate with the smallest refusal score among those that keep the bounds.

    Of equals, the one with the smaller divergence is chosen, then that of the earlier block, then the later token.

    Args:
        scores: The candidates.
        bounds: The bounds.
        n_layers: The number of blocks of the model.

    Raises:
        NoneKeptError: If no candidate keeps the bounds. The message says for each bound how many candidates it leaves
            out, and the value that would keep the nearest one of those that keep the other bounds.

    >>> weak, strong = CandidateScore(-1, 2, -1.0, 0.5, 0.01), CandidateScore(-1, 3, -5.0, 0.5, 0.3)
    >>> choose([weak, strong], DirectionBounds(), 8).block, choose([weak, strong], DirectionBounds(max_kl=0.5), 8).block
    (2, 3)
    """
    kept = [score for score in scores if bounds.keep(score, n_layers)]
    if not kept:
        raise NoneKeptError(_none_kept(scores, bounds, n_layers))
    return min(kept, key=lambda s: (s.refusal_score, s.kl, s.block, -s.position))


def first_of(contrast: ContrastSet, n_fit: int, n_select: int) -> tuple[Contrast, Contrast]:
    """Return the prompts of a selection before the filter: the first ones of the fit and of the select split.

    Raises:
        LensSteerError: If a number is below 1, or if a side of one of the two splits is empty.
    """
    for name, n in (("n_fit", n_fit), ("n_select", n_select)):
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise LensSteerError(f"{name}={n!r}: give how many prompts of each class to use at most, at least 1")
    for name, part in (("fit", contrast.fit), ("select", contrast.select)):
        for side, prompts in (("positive", part.positive), ("negative", part.negative)):
            if not len(prompts):
                raise LensSteerError(
                    f"no {side} {name} prompts: give a split with both, such as split=(0.8, 0.2, 0.0), or "
                    "select_positive and select_negative"
                )
    return contrast.fit.first(n_fit), contrast.select.first(n_select)


def _none_kept(scores: Sequence[CandidateScore], bounds: DirectionBounds, n_layers: int) -> str:
    """Return the message that says which bound left out most candidates, and what would keep one."""
    kept = [bounds.kept_by(score, n_layers) for score in scores]
    out = {name: sum(not k[name] for k in kept) for name in NAMES}
    told, mends = [], []
    for name in sorted(out, key=lambda n: -out[n]):
        near = [
            getattr(s, NAMES[name])
            for s, k in zip(scores, kept, strict=True)
            if not k[name] and all(k[other] for other in NAMES if other != name)
        ]
        nearest = "of those that keep the others, none is left"
        if near:
            value, mend = _nearest(name, near, n_layers)
            nearest = f"of those that keep the others the nearest is at {value}"
            mends.append(f"{name}={mend:g}")
        if out[name]:
            told.append(f"{name}={getattr(bounds, name):g} leaves out {out[name]} ({nearest})")
    mend = f"one bound is enough to keep one: {' or '.join(mends)}" if mends else "relax more than one bound"
    return f"none of {len(scores)} candidate directions keeps the bounds: {'; '.join(told)}: {mend}"


def _nearest(name: str, near: Sequence[float | int], n_layers: int) -> tuple[str, float]:
    """Return the score that misses a bound least, in words, and a bound that would keep it, rounded outwards."""
    if name == "max_depth":
        block = int(min(near))
        return f"block {block} of {n_layers}", math.ceil((block + 1) / n_layers * 100) / 100
    if name == "max_kl":
        return f"{min(near):.3g}", math.ceil(min(near) * 100) / 100
    return f"{max(near):.3g}", math.floor(max(near) * 100) / 100


def _filtered(model: Any, part: Contrast, name: str, tokens: Sequence[int], engine: str) -> Contrast:
    """Return the prompts that the model treats as their class: positive scores above 0, negative ones below 0."""
    sides = []
    for side, prompts, sign in (("positive", part.positive, 1), ("negative", part.negative, -1)):
        scores = sign * refusal_scores(model, prompts, tokens, engine=engine)
        kept = tuple(p for p, score in zip(prompts, scores.tolist(), strict=True) if score > 0)
        if not kept:
            found, wanted = ("refuses none", "refuses") if sign > 0 else ("refuses all", "answers")
            raise NoRefusalError(
                f"none of the {len(prompts)} {side} {name} prompts is left by the filter: by the first token of the "
                f"answer the model {found} of them; give prompts that it {wanted}, or say with openings=… how its "
                "refusals begin"
            )
        sides.append(PromptSet(kept, prompts.name))
    return Contrast(*sides)


def _directions(
    model: Any, fit: Contrast, n_positions: int, engine: str
) -> Float[Tensor, "n_positions n_layers d_model"]:
    """Return the candidates in float32; a difference that is only rounding is set to zero."""
    found = mean_differences(model, fit, n_positions, engine=engine)
    zero = zero_rows(found.flatten(0, 1)).unflatten(0, found.shape[:2])
    return torch.where(zero[..., None], 0.0, found).float()


def _score_all(
    tried: Trial, directions: Float[Tensor, "n_positions n_layers d_model"], pieces: Pieces, progress: bool
) -> tuple[CandidateScore, ...]:
    """Return the scores of all candidates, by position and block; those of a block are one step of the run."""
    n_positions, n_layers, _ = directions.shape
    found: dict[tuple[int, int], CandidateScore] = {}
    with counting("candidates", n_positions * n_layers, "candidate", shown=progress) as counter:
        for block in range(n_layers):
            before = counter.done
            step = partial(_score_block, tried, directions[:, block], block, counter)
            rows = pieces.keep(f"block-{block}", step)
            if counter.done == before:  # the step was kept from a run before
                counter.found(float(n_positions))
            found |= {(row["position"], block): CandidateScore(**row) for row in rows}
    return tuple(found[position, block] for position in range(-n_positions, 0) for block in range(n_layers))


def _score_block(
    tried: Trial, directions: Float[Tensor, "n_positions d_model"], block: int, counter: Counter
) -> list[dict[str, Any]]:
    """Return the scores of the candidates of one block as plain values."""
    streams = tried.inputs(block) if bool(directions.any()) else []
    rows = []
    for k, direction in enumerate(directions):
        candidate = candidate_of(tried.model, direction, k - len(directions), block)
        rows.append(asdict(tried.score(candidate, streams)))
        counter.add(1.0)
    return rows


def _identity(
    model: Any, fit: Contrast, select: Contrast, openings: Sequence[str] | None, max_new_tokens: int, engine: str
) -> dict[str, Any]:
    """Return everything on which the scores depend; the bounds are not part of it."""
    given = None if openings is None else tuple(openings)
    own = Protocol(model, fit, "fit", PromptSet(()), engine, max_new_tokens, given).identity
    return {**own, "select": [select.positive.hash, select.negative.hash]}
