"""Count of the work that the study needs, made before the model runs."""

from __future__ import annotations

from typing import Any

from lens_steer.data import ContrastSet, Message, Prompt
from lens_steer.evaluation.direction_selection import N_FIT, N_SELECT, first_of
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.sweep_protocol import NEGATIVE, Protocol
from lens_steer.evaluation.sweep_work import bounding
from lens_steer.evaluation.work import (
    Work,
    bare,
    conversing,
    forcing_answers,
    forcing_values,
    measuring,
    recording,
    selecting_direction,
)
from lens_steer.inference.dialogue import Dialogue
from lens_steer.inference.rendering import tokens_after_instruction
from lens_steer.metrics.benchmarks import NO_TASKS
from lens_steer.models.loading import info_of
from lens_steer.studies.conversation.dealing import Dealt, deal
from lens_steer.studies.conversation.turns import PIECE

CONDITIONS = 4  # no steering, SS, the random plane, and the positive control
WORD = " the"  # a token or more in the place of each token of an answer that is not there yet


def conversing_long(
    model: Any,
    contrast: ContrastSet,
    max_new_tokens: int,
    *,
    turns: int,
    dialogues: int,
    probes: tuple[int, ...],
    n_angles: int,
    seed: int = 0,
    calibrates: bool = True,
    selects: bool = True,
    controls: bool = True,
) -> Work:
    """Count the work of :func:`lens_steer.studies.conversation.study.study`.

    The count is an upper bound: it takes every answer for as long as it may be, and every block for steered.

    Args:
        model, contrast, max_new_tokens, turns, dialogues, probes, seed: The arguments of the study.
        n_angles: The number of angles.
        calibrates: Whether a calibration is made.
        selects: Whether a direction is selected for the positive control.
        controls: Whether there is a positive control.
    """
    select, report = contrast.select, contrast.report
    how: dict[str, Any] = {"max_new_tokens": max_new_tokens}
    total = recording(model, contrast.fit, 2 * info_of(model).n_layers) if calibrates else Work()
    selecting = Protocol(model, select, "select", NO_TASKS, **how)
    bound = bounding(selecting)
    alone = Protocol(model, select, "select", NO_TASKS, **how, asked=(NEGATIVE,), read_by=())
    total += bound if bound.answers else measuring(alone, [Grid("no steering")])
    total += forcing_values(model, bare(select.negative), max_new_tokens, n_angles)
    total += forcing_values(model, bare(select.positive), 0, n_angles)
    if selects:
        fit, few = first_of(contrast, N_FIT, N_SELECT)
        n = len(tokens_after_instruction(info_of(model).tokenizer))
        total += selecting_direction(model, fit, few, n, max_new_tokens)
    dealt = deal(report, dialogues, turns, seed)
    conditions = CONDITIONS if controls else CONDITIONS - 1
    for start in range(0, dialogues, PIECE):
        total += _piece(model, contrast, dealt[start : start + PIECE], probes, max_new_tokens) * conditions
    for turn in probes:
        read = [_so_far(contrast, d, turn, max_new_tokens) for d in dealt]
        total += forcing_values(model, read, max_new_tokens, 1) * (conditions - 1)
    return total


def _piece(
    model: Any, contrast: ContrastSet, dealt: tuple[Dealt, ...], probes: tuple[int, ...], max_new_tokens: int
) -> Work:
    """Count some dialogues under one condition: their turns, the probes, and the answers read once more alone."""
    report = contrast.report
    own = [d.dialogue(report) for d in dealt]
    total = conversing(model, own, max_new_tokens)
    for turn in probes:
        asked = [
            Dialogue((*of.turns[: turn - 1], report.positive[d.harmful].text)) for of, d in zip(own, dealt, strict=True)
        ]
        total += conversing(model, asked, max_new_tokens, turns=(turn - 1,))
    again = [report.negative[i] for d in dealt for i in d.harmless]
    again += [report.positive[d.harmful] for d in dealt for _ in probes]
    return total + forcing_answers(model, bare(again), max_new_tokens)


def _so_far(contrast: ContrastSet, dealt: Dealt, turn: int, max_new_tokens: int) -> Prompt:
    """Return a dialogue up to a turn, with answers of the greatest length."""
    answer: Message = {"role": "assistant", "content": WORD * max_new_tokens}
    messages: list[Message] = []
    for i in dealt.harmless[: turn - 1]:
        messages += [{"role": "user", "content": contrast.report.negative[i].text}, answer]
    messages.append({"role": "user", "content": contrast.report.negative[dealt.harmless[turn - 1]].text})
    return Prompt(tuple(messages))
