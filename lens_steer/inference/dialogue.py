"""Multi-turn generation: a model answers the user turns of a dialogue one by one, with all earlier turns as context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from lens_steer._defaults import ENGINE
from lens_steer._display import Shown
from lens_steer.data import Message, Prompt
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.inference.decoding import decode_answer
from lens_steer.inference.engines import check_rows, on_engine
from lens_steer.inference.generation import answer_ids
from lens_steer.inference.remote import remote_of
from lens_steer.inference.scored import Heard, Score
from lens_steer.models.loading import device_of, info_of
from lens_steer.models.tokenization import pad_id

ANSWER = "⟪answer⟫"  # The marker of an answer, for rendering a chat before the answer is known.


@dataclass(frozen=True)
class Dialogue(Shown, view="prompts"):
    """The user turns of a dialogue, and its system text.

    Attributes:
        turns: The texts of the user, at least one.
        system: The system text. None: no system message.

    Raises:
        LensSteerError: If there are no turns, or if a turn has no text.

    >>> Dialogue(("What is 4 plus 3?", "And 5 plus 1?"), system="Be brief.").system
    'Be brief.'
    """

    turns: tuple[str, ...]
    system: str | None = None

    def __repr__(self) -> str:
        system = ", with a system prompt" if self.system else ""
        return f"Dialogue({len(self.turns)} turns, first {self.turns[0][:40]!r}{system})"

    def __post_init__(self) -> None:
        if isinstance(self.turns, str) or not len(self.turns):
            raise LensSteerError(f"turns={self.turns!r}: give the user's turns as a tuple of at least one text")
        blank = [i for i, text in enumerate(self.turns) if not text.strip()]
        if blank:
            raise LensSteerError(f"turns={self.turns!r}: turn {blank[0]} is empty; give every turn a text")
        object.__setattr__(self, "turns", tuple(self.turns))


@dataclass(frozen=True)
class History:
    """The tokens of a dialogue so far, with their offsets.

    Attributes:
        ids: The token ids.
        offsets: The offset of each token, as in :class:`lens_steer.inference.batching.Batch`.
    """

    ids: list[int]
    offsets: list[int]

    def asked(self, ids: list[int]) -> History:
        """Return the history extended by the tokens that come before the next answer.

        >>> History([5, 6], [-2, -1]).answered([7, 8]).asked([9, 5, 6]).offsets
        [-2, -1, 0, 1, -3, -2, -1]
        """
        return History(self.ids + ids, [*self.offsets, *range(-len(ids), 0)])

    def answered(self, ids: list[int]) -> History:
        """Return the history extended by the tokens of an answer."""
        return History(self.ids + ids, [*self.offsets, *range(len(ids))])


def converse(
    model: Any,
    dialogues: Sequence[Dialogue] | Sequence[str] | Dialogue | str,
    *,
    max_new_tokens: int = 64,
    batch_size: int = 128,
    engine: str = ENGINE,
    progress: bool = False,
) -> list[list[str]]:
    """Return greedy answers to every turn of every dialogue, under the plans that are active on the model.

    Dialogues run in batches, turn by turn, and may have different numbers of turns. The context is kept as token ids:
    generated ids stay as they are and are never tokenised again. Between two answers stands the text of the chat
    template (the end token of an answer, the user turn, the opening of the next answer).

    Every turn is computed from the first token of the conversation, with a fresh key–value cache. The result equals
    that of a single cache that grows over all turns: a token is steered in later turns as it was when it was new. A
    token of an answer counts as ``generated``, with its place in its own answer; every other token counts as ``prompt``
    of the answer that follows it; see :mod:`lens_steer.inference.positions`. An effect log counts a token in every turn
    that contains it.

    Args:
        model: A model from :func:`lens_steer.load_model`, inside ``with steering(model, plan):`` or not. If the plan
            holds one value per row, it needs one per dialogue.
        dialogues: The dialogues. A single dialogue counts as a list of one; a string is a dialogue of one turn.
        max_new_tokens: The maximal number of tokens of each answer.
        batch_size: The maximal number of dialogues in a batch.
        engine: ``"tl"``, ``"hf"`` or ``"vllm"``; see :func:`lens_steer.generate`.
        progress: If True, a progress bar is shown.

    Returns:
        For each dialogue the list of its answers, one per turn.

    Raises:
        LensSteerError: If there are no dialogues; if a turn leaves no room for its answer in the context; if
            ``max_new_tokens`` is below 1; if the chat template changes the beginning of a chat when more turns follow;
            if an active plan holds one value per row for another number of dialogues; or if the engine is unknown.

    >>> from lens_steer import load_model
    >>> converse(load_model("organism/qwen2"), Dialogue(("What is 4 plus 3?", "What is 5 plus 1?")))
    [['7.', '6.']]
    """
    given = [dialogues] if isinstance(dialogues, (Dialogue, str)) else dialogues
    dialogues = [Dialogue((d,)) if isinstance(d, str) else d for d in given]
    if not dialogues:
        raise LensSteerError("dialogues is empty: give at least one")
    if max_new_tokens < 1:
        raise LensSteerError(f"max_new_tokens={max_new_tokens}: at least 1 is needed")
    info, call = info_of(model), object()
    asked = [turn_ids(info.tokenizer, dialogue, row) for row, dialogue in enumerate(dialogues)]
    for row, turns in enumerate(asked):
        for turn in range(len(turns)):
            check_room(sum(map(len, turns[: turn + 1])), max_new_tokens, info.n_ctx, f"dialogue {row}, turn {turn}")
    check_rows(model, len(dialogues))
    remote = remote_of(model, engine)
    histories, answers = [History([], []) for _ in dialogues], [[] for _ in dialogues]
    with (
        on_engine(model, engine) as runner,
        tqdm(total=sum(map(len, asked)), desc="converse", unit="turn", disable=not progress, leave=False) as bar,
    ):
        for turn in range(max(map(len, asked))):
            due = [row for row, turns in enumerate(asked) if turn < len(turns)]
            for row in due:
                histories[row] = histories[row].asked(asked[row][turn])
                check_room(len(histories[row].ids), max_new_tokens, info.n_ctx, f"dialogue {row}, turn {turn}")
            if remote is not None:
                for row, ids in zip(
                    due, remote.answer([histories[row].ids for row in due], due, max_new_tokens), strict=True
                ):
                    histories[row] = histories[row].answered(ids)
                    answers[row].append(decode_answer(info.tokenizer, ids))
                bar.update(len(due))
                continue
            for batch, written, _ in answered(runner, histories, due, max_new_tokens, batch_size=batch_size, call=call):
                for row, ids in zip(batch.rows, written, strict=True):
                    histories[row] = histories[row].answered(ids)
                    answers[row].append(decode_answer(info.tokenizer, ids))
                bar.update(len(batch.rows))
    return answers


def answered(
    model: Any,
    histories: Sequence[History],
    due: Sequence[int],
    max_new_tokens: int,
    *,
    batch_size: int = 128,
    call: object = None,
    first: Score | None = None,
) -> Iterator[tuple[batching.Batch, list[list[int]], Heard | None]]:
    """Answer histories that end where an answer is due, in batches.

    Args:
        model: The model of the chosen engine (for the twin see :func:`lens_steer.inference.engines.on_engine`).
        histories: The histories of all dialogues, in the order of the rows that a plan counts.
        due: The dialogues that are answered.
        max_new_tokens, batch_size: See :func:`converse`.
        call: See :class:`lens_steer.inference.batching.Batch`.
        first: A function of the float32 logits of the first tokens, on engine ``hf``. None: nothing is heard, as on
            every other engine.

    Yields:
        Each batch, the token ids of its answers, without the end token, and what was heard while they were written.
    """
    for batch in batching.padded(
        [(row, histories[row].ids, 0) for row in due],
        pad_id(info_of(model).tokenizer),
        offsets={row: histories[row].offsets for row in due},
        call=call,
        extra=max_new_tokens,
        max_rows=batch_size,
        device=device_of(model),
    ):
        heard = None if first is None else Heard(first)
        yield batch, answer_ids(model, batch, max_new_tokens, heard=heard), heard


def turn_ids(tokenizer: Any, dialogue: Dialogue, row: int = 0) -> list[list[int]]:
    """Return for each turn the token ids between the answer before it and its own answer.

    The ids of the first turn begin at the beginning of the chat. They are found by rendering the chat with a marker in
    place of each answer. White space that a template writes before a finished answer, but not where an answer is about
    to be generated, is left out: the model writes its own.

    Raises:
        LensSteerError: If the chat template changes the beginning of a chat when more turns follow. The message names
            the dialogue (``row``) and the turn.
    """
    messages: list[Message] = [{"role": "system", "content": dialogue.system}] if dialogue.system else []
    found: list[list[int]] = []
    before = ""
    for turn, text in enumerate(dialogue.turns):
        messages.append({"role": "user", "content": text})
        prompt = Prompt(tuple(messages))
        rendered = batching.render(tokenizer, prompt)
        if turn:
            space, mark, between = rendered[len(before) :].partition(ANSWER)
            if not rendered.startswith(before) or not mark or space.strip():
                raise LensSteerError(
                    f"dialogue {row}, turn {turn}: the chat template writes what came before in another way once "
                    "this turn follows, so that the tokens of earlier turns "
                    "would not stay as they were: load the model with a chat_template that only adds to what is there"
                )
            found.append(list(tokenizer(between, add_special_tokens=False)["input_ids"]))
        else:
            found.append(batching.encode(tokenizer, prompt))
        messages.append({"role": "assistant", "content": ANSWER})
        before = rendered
    return found


def check_room(tokens: int, max_new_tokens: int, n_ctx: int, where: str) -> None:
    """Refuse a turn that leaves no room for its answer.

    Args:
        tokens: The tokens before the answer.
        max_new_tokens: The tokens of the answer at most.
        n_ctx: The tokens of the model's context.
        where: The name of the turn, with which the message begins.

    Raises:
        LensSteerError: If both are more than the context.
    """
    if tokens + max_new_tokens > n_ctx:
        raise LensSteerError(
            f"{where}: needs {tokens + max_new_tokens} tokens with the turns before it and its answer, more than the "
            f"model's context of {n_ctx}: give shorter or fewer turns, or a smaller max_new_tokens"
        )
