"""Dialogues that are scored while they run, with questions that are asked at a turn and then forgotten.

Histories are token ids, as in :func:`lens_steer.converse`. A prompt with earlier messages has the same ids where every
answer is tokenised as it was written. That is not certain: an answer that is cut off inside a word, or that is written
under steering, may have other tokens once it is text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lens_steer.errors import LensSteerError
from lens_steer.inference.decoding import decode_answer
from lens_steer.inference.dialogue import Dialogue, History, answered, check_room, turn_ids
from lens_steer.inference.engines import check_rows, on_engine
from lens_steer.inference.scored import Score
from lens_steer.models.loading import info_of


@dataclass(frozen=True)
class TurnAnswer:
    """One answer of a dialogue.

    Attributes:
        turn: The number of the turn, from 0.
        probe: Whether the turn was asked in place of the dialogue's own, so that the history does not hold it.
        text: The answer.
        n_tokens: The number of its tokens, without the end token.
        cut: Whether it was cut off.
        surprise: The mean −log p of its tokens under the model that wrote them, in nats; NaN without a token.
        first: The score of the logits of its first token.
    """

    turn: int
    probe: bool
    text: str
    n_tokens: int
    cut: bool
    surprise: float
    first: float


def probe_ids(tokenizer: Any, dialogue: Dialogue, turn: int, text: str, row: int = 0) -> list[int]:
    """Return the token ids between the answer before a turn and the answer to a text that is asked in its place.

    See :func:`lens_steer.inference.dialogue.turn_ids` for the other arguments.

    Raises:
        LensSteerError: If the dialogue has no such turn.
    """
    if not 0 <= turn < len(dialogue.turns):
        raise LensSteerError(
            f"turn={turn}: dialogue {row} has {len(dialogue.turns)} turns; give a number from 0 to "
            f"{len(dialogue.turns) - 1}"
        )
    return turn_ids(tokenizer, Dialogue((*dialogue.turns[:turn], text), dialogue.system), row)[turn]


def check_dialogues(
    model: Any, dialogues: Sequence[Dialogue], probes: Sequence[Mapping[int, str]], max_new_tokens: int
) -> None:
    """Refuse dialogues for which the context could become too small, were every answer as long as it may be.

    Args:
        model: A loaded model, or a model that is described without its weights.
        dialogues, probes, max_new_tokens: See :func:`scored_dialogues`.

    Raises:
        LensSteerError: If a turn leaves no room; if the chat template changes the beginning of a chat when more turns
            follow.
    """
    info = info_of(model)
    for row, (dialogue, own) in enumerate(zip(dialogues, probes, strict=True)):
        before = 0
        for turn, ids in enumerate(turn_ids(info.tokenizer, dialogue, row)):
            probe = probe_ids(info.tokenizer, dialogue, turn, own[turn], row) if turn in own else []
            longest = before + max(len(ids), len(probe))
            check_room(longest, max_new_tokens, info.n_ctx, f"dialogue {row}, turn {turn}")
            before += len(ids) + max_new_tokens


def scored_dialogues(
    model: Any,
    dialogues: Sequence[Dialogue],
    first: Score,
    *,
    probes: Sequence[Mapping[int, str]] | None = None,
    max_new_tokens: int = 64,
    batch_size: int = 128,
) -> list[list[TurnAnswer]]:
    """Return the answers of :func:`lens_steer.converse` on engine ``hf``, scored while they are written.

    At some turns a further text is asked in place of the dialogue's own: it has the same history, which its answer does
    not enter. So such questions at several turns of one dialogue differ in the history alone.

    Args:
        model, max_new_tokens, batch_size: See :func:`lens_steer.converse`.
        dialogues: The dialogues.
        first: A function of the float32 logits of the first tokens, such as a refusal score.
        probes: For each dialogue the texts that are asked at some turns besides, by turn from 0. None: none.

    Returns:
        For each dialogue its answers in the order of the turns, that to a probe after that to the dialogue's own turn.

    Raises:
        LensSteerError: As :func:`lens_steer.converse`; if the numbers of dialogues and probes differ, or if a dialogue
            lacks a turn of a probe.

    >>> import lens_steer as ls
    >>> model, dialogue = ls.load_model("organism/qwen2"), Dialogue(("What is 4 plus 3?", "What is 5 plus 1?"))
    >>> asked = [{0: "What is 5 plus 1?"}]
    >>> found = scored_dialogues(model, [dialogue], lambda logits: logits.amax(-1), probes=asked)
    >>> [(answer.turn, answer.probe, answer.text) for answer in found[0]]
    [(0, False, '7.'), (0, True, '6.'), (1, False, '6.')]
    """
    besides = [dict[int, str]() for _ in dialogues] if probes is None else probes
    if not dialogues or len(besides) != len(dialogues):
        raise LensSteerError(f"{len(dialogues)} dialogues, {len(besides)} probes: give at least one, and one for each")
    if max_new_tokens < 1:
        raise LensSteerError(f"max_new_tokens={max_new_tokens}: at least 1 is needed")
    check_dialogues(model, dialogues, besides, max_new_tokens)
    check_rows(model, len(dialogues))
    tokenizer, call = info_of(model).tokenizer, object()
    # The tokens before each answer, by the dialogue, the turn, and whether it is a probe.
    asked = {
        (row, turn, False): ids
        for row, dialogue in enumerate(dialogues)
        for turn, ids in enumerate(turn_ids(tokenizer, dialogue, row))
    }
    for row, own in enumerate(besides):
        asked |= {(row, t, True): probe_ids(tokenizer, dialogues[row], t, text, row) for t, text in own.items()}
    histories, found = [History([], []) for _ in dialogues], [list[TurnAnswer]() for _ in dialogues]
    with on_engine(model, "hf") as runner:
        for turn in range(max(len(dialogue.turns) for dialogue in dialogues)):
            after = list(histories)
            for probe in (False, True):
                due = [row for row in range(len(dialogues)) if (row, turn, probe) in asked]
                before = list(histories)
                for row in due:
                    before[row] = histories[row].asked(asked[row, turn, probe])
                how: dict[str, Any] = {"batch_size": batch_size, "call": call, "first": first}
                for batch, written, heard in answered(runner, before, due, max_new_tokens, **how):
                    assert heard is not None
                    for i, (row, ids) in enumerate(zip(batch.rows, written, strict=True)):
                        text, n = decode_answer(tokenizer, ids), len(ids)
                        told = heard.surprise(i, n), float(heard.scores[i])
                        found[row].append(TurnAnswer(turn, probe, text, n, n == max_new_tokens, *told))
                        if not probe:
                            after[row] = before[row].answered(ids)
            histories = after
    return found
