"""The rows of the study: every answer of every dialogue under every condition, and the divergence at the probes.

A condition's history holds its own answers. The divergence is measured along the unsteered dialogue, so that both
models read the same tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lens_steer._defaults import ENGINE
from lens_steer._io.rowstore import Row, RowStore
from lens_steer.data import Message, Prompt
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.grids import Grid, plan_hash
from lens_steer.evaluation.sweep_protocol import NEGATIVE, POSITIVE, Protocol
from lens_steer.evaluation.sweep_rows import BROKEN
from lens_steer.inference.decoding import begins_in_thought
from lens_steer.inference.scored_dialogue import TurnAnswer, scored_dialogues
from lens_steer.metrics import grading
from lens_steer.metrics.kl import mean_kl_by_value
from lens_steer.metrics.likelihood import mean_surprise
from lens_steer.metrics.refusal_score import refusal_score, refusal_tokens
from lens_steer.metrics.text import shared_ngrams
from lens_steer.models.loading import info_of
from lens_steer.steer.hooks import steering
from lens_steer.steer.plans import SteeringPlan
from lens_steer.studies.conversation.dealing import Dealt

PIECE = 8  # the dialogues that are measured and kept together
COLUMNS = (
    "condition", "value", "dialogue", "turn", "side", "prompt", "text", "grade", "refused", "broken", "repeated",
    "n_tokens", "cut_off", "surprise_self", "surprise_ref", "refusal_score",
)  # fmt: skip
KL_COLUMNS = ("condition", "value", "dialogue", "turn", "kl")


@dataclass(frozen=True)
class Asked:
    """What every condition is asked.

    Attributes:
        protocol: The prompts of the report split, and how answers are measured.
        dealt: The dialogues.
        probes: The turns, from 1, at which the harmful prompt is asked.
    """

    protocol: Protocol
    dealt: tuple[Dealt, ...]
    probes: tuple[int, ...]

    @property
    def identity(self) -> dict[str, Any]:
        """Return everything on which the rows depend, except the conditions."""
        dealt = [[list(d.harmless), d.harmful] for d in self.dealt]
        return {**self.protocol.identity, "dealt": dealt, "probes": list(self.probes)}

    def pieces(self) -> list[range]:
        """Return the numbers of the dialogues of each piece."""
        return [range(i, min(i + PIECE, len(self.dealt))) for i in range(0, len(self.dealt), PIECE)]


def run_dialogues(
    asked: Asked, grids: Sequence[Grid], out: str | Path, *, identity: dict[str, Any], progress: bool = True
) -> list[Row]:
    """Run every dialogue under every condition; an interrupted run goes on after the last whole piece.

    Args:
        asked: What is asked.
        grids: The conditions, each with one value.
        out: The folder of the rows, ``dialogues.csv``.
        identity: Further values on which the conditions depend.
        progress: Whether to show a bar.
    """
    store = RowStore(out, "dialogues", COLUMNS, ("condition", "side", "text", "grade"), _named(asked, grids, identity))
    parts = {
        f"{g:02}-{piece.start:03}": partial(_piece, asked, grid, piece)
        for g, grid in enumerate(grids)
        for piece in asked.pieces()
    }
    return store.run(parts, progress=progress)


def run_divergences(
    asked: Asked,
    grids: Sequence[Grid],
    rows: Sequence[Row],
    out: str | Path,
    *,
    identity: dict[str, Any],
    progress: bool = True,
) -> list[Row]:
    """Measure the divergence of every condition at the probe turns; an interrupted run goes on after the last turn.

    A prompt is the unsteered dialogue up to a turn's harmless prompt, its response the unsteered model's answer. Both
    are written as text and tokenised again.

    Args:
        asked: What is asked.
        grids: The conditions, each with one value; one that steers nothing has no rows.
        rows: The rows of the dialogues (:func:`run_dialogues`).
        out: The folder of the rows, ``divergences.csv``.
        identity, progress: See :func:`run_dialogues`.
    """
    said = unsteered(rows)
    along = hashlib.sha256(repr(sorted(said.items())).encode()).hexdigest()
    own = {**_named(asked, grids, identity), "unsteered": along}
    store = RowStore(out, "divergences", KL_COLUMNS, ("condition",), own)

    def measured(grid: Grid, turn: int) -> list[Row]:
        prompts = [history(asked, said, d, turn) for d in range(len(asked.dealt))]
        answers = [said[d, turn] for d in range(len(asked.dealt))]
        at = (0.0,)  # stands for the condition's own value
        found = mean_kl_by_value(asked.protocol.model, partial(_plan, grid), at, prompts, answers, engine=ENGINE)
        return [
            {**_head(grid), "dialogue": d, "turn": turn, "kl": None if np.isnan(kl) else float(kl)}
            for d, kl in enumerate(found[:, 0])
        ]

    steered = [(g, grid) for g, grid in enumerate(grids) if grid.build is not None]
    parts = {f"{g:02}-{turn:03}": partial(measured, grid, turn) for g, grid in steered for turn in asked.probes}
    return store.run(parts, progress=progress)


def unsteered(rows: Sequence[Row]) -> dict[tuple[int, int], str]:
    """Return the unsteered model's answers to harmless prompts, by dialogue and turn."""
    plain = [r for r in rows if r["condition"] == NONE and r["side"] == NEGATIVE]
    return {(int(r["dialogue"]), int(r["turn"])): str(r["text"]) for r in plain}


def history(asked: Asked, said: Mapping[tuple[int, int], str], dialogue: int, turn: int) -> Prompt:
    """Return a dialogue up to the harmless prompt of a turn, from 1, as one prompt with earlier messages."""
    messages: list[Message] = []
    for t, i in enumerate(asked.dealt[dialogue].harmless[:turn], start=1):
        messages.append({"role": "user", "content": asked.protocol.contrast.negative[i].text})
        if t < turn:
            messages.append({"role": "assistant", "content": said[dialogue, t]})
    return Prompt(tuple(messages))


def _named(asked: Asked, grids: Sequence[Grid], identity: dict[str, Any]) -> dict[str, Any]:
    described = {g.name: {"values": list(g.values), "plan": plan_hash(g)} for g in grids}
    return {**asked.identity, **identity, "conditions": described}


def _plan(grid: Grid, value: object = None) -> SteeringPlan:
    """Make the plan of a condition at its own value, whatever value is given."""
    assert grid.build is not None
    return grid.build(grid.values[0])


def _head(grid: Grid) -> dict[str, Any]:
    return {"condition": grid.condition, "value": grid.values[0]}


def _piece(asked: Asked, grid: Grid, piece: range) -> list[Row]:
    """Run some dialogues under one condition."""
    model = asked.protocol.model
    score = partial(refusal_score, tokens=refusal_tokens(info_of(model), asked.protocol.openings))
    split = asked.protocol.contrast
    with ExitStack() as stack:
        if grid.build is not None:
            stack.enter_context(steering(model, _plan(grid), tell=False))
        found = scored_dialogues(
            model,
            [asked.dealt[d].dialogue(split) for d in piece],
            score,
            probes=[asked.dealt[d].asked(split, asked.probes) for d in piece],
            max_new_tokens=asked.protocol.max_new_tokens,
        )
    rows = [row for d, answers in zip(piece, found, strict=True) for row in _rows(asked, grid, d, answers)]
    return _graded(asked, rows)


def _rows(asked: Asked, grid: Grid, dialogue: int, answers: Sequence[TurnAnswer]) -> list[Row]:
    """Return the rows of one dialogue, without what is judged of the answers."""
    rows, earlier, dealt = [], dict[int, str](), asked.dealt[dialogue]
    for answer in answers:
        before = [text for turn, text in earlier.items() if turn < answer.turn]
        rows.append(
            {
                **_head(grid),
                "dialogue": dialogue,
                "turn": answer.turn + 1,
                "side": POSITIVE if answer.probe else NEGATIVE,
                "prompt": dealt.harmful if answer.probe else dealt.harmless[answer.turn],
                "text": answer.text,
                "repeated": shared_ngrams(answer.text, before),
                "n_tokens": answer.n_tokens,
                "cut_off": answer.cut,
                "surprise_self": _finite(answer.surprise),
                "refusal_score": answer.first,
            }
        )
        if not answer.probe:
            earlier[answer.turn] = answer.text
    return rows


def _graded(asked: Asked, rows: list[Row]) -> list[Row]:
    """Add grades: each answer is read as an answer to its prompt alone, as those that the bound was measured on."""
    sides = {POSITIVE: asked.protocol.contrast.positive, NEGATIVE: asked.protocol.contrast.negative}
    prompts = [sides[row["side"]][row["prompt"]] for row in rows]
    surprise = mean_surprise(asked.protocol.model, prompts, [row["text"] for row in rows])
    begun = begins_in_thought(info_of(asked.protocol.model).tokenizer, prompts[0])
    bound = None if asked.protocol.bound is None else asked.protocol.bound.value
    for row, prompt, nats in zip(rows, prompts, surprise.tolist(), strict=True):
        own = _finite(nats)
        grade = grading.grade(
            prompt, row["text"], perplexity=None if own is None else float(np.exp(own)), bound=bound, begun=begun
        )
        refused = grading.refuses(prompt, row["text"], grade, begun=begun)
        row |= {"grade": grade, "refused": refused, "broken": grade in BROKEN, "surprise_ref": own}
    return rows


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
