"""Answers in the formats of judged benchmarks: MT-Bench (FastChat's ``model_answer``) and AlpacaEval.

The same input gives the same bytes: ids and times are arguments.

MT-Bench reads one JSON object per line with ``question_id``, ``answer_id``, ``model_id``, ``choices`` (one entry per
answer, each with its ``index`` and its ``turns``) and ``tstamp``. It takes the name of a model from the name of the
file: ``data/mt_bench/model_answer/NAME.jsonl``. AlpacaEval reads one JSON list of objects with ``instruction``,
``output``, ``generator`` (the name of the model) and ``dataset``.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_steer._defaults import ENGINE
from lens_steer._io.atomic import whole_file
from lens_steer._io.jsonl import read_lines
from lens_steer.data import Message, Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference.generation import generate

Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A question of MT-Bench: the user's turns in their order.

    Attributes:
        question_id: The number that matches answers and reference answers to the question.
        turns: The user's texts; two in MT-Bench.
        category: The category in the file; empty without one.
    """

    question_id: int
    turns: tuple[str, ...]
    category: str = ""


def load_questions(path: str | Path) -> tuple[Question, ...]:
    """Read MT-Bench's ``question.jsonl``.

    Raises:
        LensSteerError: If there is no such file, if it is not JSON, if a row has no integer ``question_id`` or no
            turns, if an id occurs twice, or if there are no questions.
    """
    questions = read_lines(path, "questions", _question)
    numbers = [q.question_id for q in questions]
    if len(set(numbers)) < len(numbers):
        raise LensSteerError(
            f"questions file {str(path)!r}: question_id {_repeated(numbers)} is there twice: give each one once"
        )
    return tuple(questions)


def _question(row: Any) -> Question:
    number, turns = (row.get("question_id"), row.get("turns")) if isinstance(row, Mapping) else (None, None)
    if not isinstance(number, int) or isinstance(number, bool):
        raise LensSteerError(f"question_id={number!r}: a whole number is needed")
    if not isinstance(turns, list) or not turns or not all(isinstance(t, str) and t for t in turns):
        raise LensSteerError(f"turns={turns!r}: a list of the user's texts is needed")
    return Question(number, tuple(turns), str(row.get("category") or ""))


def mt_bench_answers(
    model: Any,
    questions: Sequence[Question],
    *,
    model_id: str,
    system: str | None = None,
    max_new_tokens: int = 1024,
    batch_size: int = 128,
    engine: str = ENGINE,
    tstamp: float = 0.0,
    progress: bool = False,
) -> list[Row]:
    """Answer every turn of every question, given the turns before it, under whatever steering is active.

    Decoding is greedy, whereas FastChat samples at a temperature that depends on the question's category. State this
    beside the scores.

    Args:
        model: A model of :func:`lens_steer.load_model`, inside ``with steering(model, plan):`` or outside it.
        questions: At least one question, all with the same number of turns.
        model_id: The name of the answers in MT-Bench. It should name the plan.
        system: A system message before the first turn; None for none.
        max_new_tokens: The largest number of tokens of each answer.
        batch_size, engine, progress: See :func:`lens_steer.generate`.
        tstamp: The time that is written for every answer.

    Returns:
        The rows for :func:`write_mt_bench`, in the order of the questions.

    Raises:
        LensSteerError: If there are no questions, or if they differ in the number of turns. Also for the reasons of
            :func:`lens_steer.generate` (an answer may leave no room in the context for the next turn).

    >>> import lens_steer as ls
    >>> asked = [Question(81, ("What is 4 plus 3?", "And what is 2 plus 2?"))]
    >>> mt_bench_answers(ls.load_model("organism/qwen2"), asked, model_id="qwen2", max_new_tokens=8)[0]["choices"][0][
    ...     "turns"
    ... ][0]
    '7.'
    """
    if not questions:
        raise LensSteerError("questions is empty: give at least one")
    n_turns = len(questions[0].turns)
    for question in questions:
        if len(question.turns) != n_turns:
            raise LensSteerError(
                f"question {question.question_id} has {len(question.turns)} turns and question "
                f"{questions[0].question_id} has {n_turns}: give those with as many together"
            )
    head: tuple[Message, ...] = ({"role": "system", "content": system},) if system else ()
    chats, answers = [head for _ in questions], [[] for _ in questions]
    for turn in range(n_turns):
        chats = [(*c, {"role": "user", "content": q.turns[turn]}) for c, q in zip(chats, questions, strict=True)]
        texts = generate(
            model,
            [Prompt(c) for c in chats],
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            engine=engine,
            progress=progress,
        )
        chats = [(*c, {"role": "assistant", "content": text}) for c, text in zip(chats, texts, strict=True)]
        for given, text in zip(answers, texts, strict=True):
            given.append(text)
    return mt_bench_rows([q.question_id for q in questions], answers, model_id=model_id, tstamp=tstamp)


def mt_bench_rows(
    question_ids: Sequence[int],
    turns: Sequence[Sequence[str]],
    *,
    model_id: str,
    tstamp: float = 0.0,
    answer_ids: Sequence[str] | None = None,
) -> list[Row]:
    """Return MT-Bench's rows for existing answers.

    Args:
        question_ids: One id per answer.
        turns: For each question, the answers to its turns.
        model_id: The name of the answers in MT-Bench.
        tstamp: The time that is written for every answer.
        answer_ids: One id per answer. None makes each id from the question, the model's name and the answer.

    Raises:
        LensSteerError: If the lists differ in length, or if a question id or an answer id occurs twice.

    >>> row = mt_bench_rows([81], [["First.", "Second."]], model_id="m", answer_ids=["a"])[0]
    >>> row.pop("choices")
    [{'index': 0, 'turns': ['First.', 'Second.']}]
    >>> row
    {'question_id': 81, 'answer_id': 'a', 'model_id': 'm', 'tstamp': 0.0}
    """
    _same_length(question_ids=question_ids, turns=turns)
    if answer_ids is None:
        answer_ids = [_answer_id(q, model_id, given) for q, given in zip(question_ids, turns, strict=True)]
    _same_length(question_ids=question_ids, answer_ids=answer_ids)
    for name, ids in (("question_ids", question_ids), ("answer_ids", answer_ids)):
        if len(set(ids)) < len(ids):
            raise LensSteerError(f"{name} has {_repeated(ids)!r} twice: give each one once")
    return [
        {
            "question_id": q,
            "answer_id": a,
            "model_id": model_id,
            "choices": [{"index": 0, "turns": list(given)}],
            "tstamp": tstamp,
        }
        for q, a, given in zip(question_ids, answer_ids, turns, strict=True)
    ]


def alpaca_eval_rows(
    prompts: PromptSet | Sequence[Prompt] | Sequence[str], outputs: Sequence[str], *, generator: str, dataset: str = ""
) -> list[Row]:
    """Return AlpacaEval's rows for existing answers; the instruction is the last user message of a prompt.

    Args:
        prompts: One prompt per output.
        outputs: One output per prompt.
        generator: The name of the answers in AlpacaEval. It should name the plan.
        dataset: The source of the instructions. If empty, the name of the prompt set is used.

    Raises:
        LensSteerError: If the numbers of prompts and outputs differ.

    >>> alpaca_eval_rows(["Name a colour."], ["Red."], generator="m", dataset="mine")
    [{'instruction': 'Name a colour.', 'output': 'Red.', 'generator': 'm', 'dataset': 'mine'}]
    """
    _same_length(prompts=prompts, outputs=outputs)
    source = dataset or getattr(prompts, "name", "")
    return [
        {"instruction": p if isinstance(p, str) else p.text, "output": o, "generator": generator, "dataset": source}
        for p, o in zip(prompts, outputs, strict=True)
    ]


def write_mt_bench(rows: Sequence[Row], path: str | Path) -> None:
    """Write MT-Bench's rows, one per line in ASCII, sorted by the number of the question.

    MT-Bench takes the name of the model from the name of the file.

    Raises:
        LensSteerError: If the file cannot be written.
    """
    ordered = sorted(rows, key=lambda row: row["question_id"])
    with whole_file(path) as work:
        work.write_bytes("".join(json.dumps(row) + "\n" for row in ordered).encode())


def write_alpaca_eval(rows: Sequence[Row], path: str | Path) -> None:
    """Write AlpacaEval's rows as one JSON list.

    Raises:
        LensSteerError: If the file cannot be written.
    """
    with whole_file(path) as work:
        work.write_bytes((json.dumps(list(rows), indent=2, ensure_ascii=False) + "\n").encode())


def _answer_id(question_id: int, model_id: str, turns: Sequence[str]) -> str:
    text = json.dumps([question_id, model_id, list(turns)], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:22]


def _repeated(values: Sequence[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _same_length(**lists: Sequence[Any]) -> None:
    (a, first), (b, second) = lists.items()
    if len(first) != len(second):
        raise LensSteerError(f"{len(first)} {a} and {len(second)} {b}: give one each")
