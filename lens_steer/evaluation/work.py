"""The work of a run, counted before it runs: forwards, and the tokens in them.

The counts come from the same batches that the run will make. They are exact where no answer ends early. Otherwise they
are upper bounds, since every answer is assumed to have its greatest length. Tokens that the rows of a batch share are
counted in every row, although engine ``hf`` may read them once
(:mod:`lens_steer.inference.shared_prefix`); the measured speed is that of such batches, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from lens_steer._defaults import ENGINE
from lens_steer.data import Contrast, Prompt, PromptSet, with_system
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.sweep_protocol import CAPABILITY, Protocol
from lens_steer.evaluation.sweeps import parts_of
from lens_steer.inference import batching, continuations, prompt_cache, teacher_forcing
from lens_steer.inference.dialogue import Dialogue, turn_ids
from lens_steer.inference.teacher_forcing import with_responses
from lens_steer.models.footprint import Shape
from lens_steer.models.loading import info_of
from lens_steer.models.location import read_config
from lens_steer.steer import value_sweep

FORCED_ROWS = 64  # the most prompts in a batch with fixed answers


@dataclass(frozen=True, kw_only=True)
class Work:
    """Forwards of a model and the tokens in them, padding included.

    Attributes:
        prefills: The number of forwards over a batch of prompts.
        prompt_tokens: The tokens in these.
        steps: The number of further forwards, each of one new token for each row.
        stepped: The rows in these, summed.
        forced: The number of forwards over a batch of prompts with fixed answers.
        forced_tokens: The tokens in these.
        forced_new: The part of these tokens that belongs to the answers.
        answers: The number of generated answers.
        new_tokens: The largest number of tokens of all answers.
        widest: The tokens of the largest batch, answers included.
        recorded: The number of values of activations that are kept.
    """

    prefills: int = 0
    prompt_tokens: int = 0
    steps: int = 0
    stepped: int = 0
    forced: int = 0
    forced_tokens: int = 0
    forced_new: int = 0
    answers: int = 0
    new_tokens: int = 0
    widest: int = 0
    recorded: int = 0

    @property
    def forwards(self) -> int:
        """Return the number of all forwards."""
        return self.prefills + self.steps + self.forced

    def __add__(self, other: Work) -> Work:
        """Return the work of both, one after the other."""
        both = {name: getattr(self, name) + getattr(other, name) for name in vars(self)}
        return Work(**both | {"widest": max(self.widest, other.widest)})

    def __mul__(self, times: int) -> Work:
        """Return the same work several times over.

        >>> (Work(prefills=2, widest=7) * 3).prefills, (Work(prefills=2, widest=7) * 3).widest
        (6, 7)
        """
        return Work(
            **{name: value * times for name, value in vars(self).items()} | {"widest": self.widest if times else 0}
        )

    def __floordiv__(self, shards: int) -> Work:
        """Return one share of the work, rounded up.

        >>> (Work(prefills=5, widest=7) // 2).prefills, (Work(prefills=5, widest=7) // 2).widest
        (3, 7)
        """
        return Work(**{name: -(-value // shards) for name, value in vars(self).items()} | {"widest": self.widest})


def bare(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Return the prompts without their responses, in whose place the model's own answers will be.

    >>> bare([Prompt.of("Hello", response="Hi.")])[0].response is None
    True
    """
    return [replace(p, response=None) for p in prompts]


def answering(model: Any, prompts: Sequence[Prompt], max_new_tokens: int, *, times: int = 1) -> Work:
    """Count the work of :func:`lens_steer.generate`, with ``times`` copies of the prompts in one call.

    >>> from lens_steer.cli.precheck import describe
    >>> work = answering(describe("organism/qwen2"), [Prompt.of("Hello")], 5, times=130)
    >>> work.prefills, work.steps, work.answers, work.new_tokens
    (2, 8, 130, 650)
    """
    return _generating(_lengths(model, prompts) * times, max_new_tokens)


def conversing(
    model: Any, dialogues: Sequence[Dialogue], max_new_tokens: int, *, turns: Sequence[int] | None = None
) -> Work:
    """Count the work of :func:`lens_steer.inference.dialogue.converse`: every turn is read with all turns before it.

    Args:
        model, dialogues, max_new_tokens: The arguments of the function.
        turns: The turns that are counted, from 0; None counts all.

    >>> from lens_steer.cli.precheck import describe
    >>> work = conversing(describe("organism/qwen2"), [Dialogue(("Hello", "Hello again"))] * 3, 5)
    >>> work.prefills, work.steps, work.answers
    (2, 8, 6)
    """
    tokenizer, total = info_of(model).tokenizer, Work()
    asked = [[len(ids) for ids in turn_ids(tokenizer, dialogue, row)] for row, dialogue in enumerate(dialogues)]
    for turn in range(max(map(len, asked), default=0)) if turns is None else turns:
        before = [sum(lengths[: turn + 1]) + turn * max_new_tokens for lengths in asked if turn < len(lengths)]
        total += _generating(before, max_new_tokens)
    return total


def forcing_answers(model: Any, prompts: Sequence[Prompt], new_tokens: int, *, times: int = 1) -> Work:
    """Count the work of one pass over the prompts with fixed answers.

    The answers are the prompts' own responses, or else have ``new_tokens`` tokens each; see
    :func:`lens_steer.inference.teacher_forcing.response_logits`.
    """
    lengths = _with_answers(model, prompts, new_tokens)
    total = Work()
    for rows, width, longest in _shapes(lengths * times, max_rows=FORCED_ROWS, max_logits=_logits_budget(model)):
        total += Work(forced=1, forced_tokens=rows * width, forced_new=rows * longest, widest=rows * width)
    return total


def choosing_options(model: Any, prompts: Sequence[Prompt], *, times: int = 1, engine: str = ENGINE) -> Work:
    """Count the work of :func:`lens_steer.metrics.choices.likeliest_options`: the prompts are read once, and then every
    option; on engine ``tl`` the prompts are read again for every option.

    >>> from lens_steer.cli.precheck import describe
    >>> from lens_steer.data.general import general_questions
    >>> asked = [Prompt.asking(q) for q in general_questions(9)]
    >>> work = choosing_options(describe("organism/qwen2"), asked)
    >>> work.forced, work.answers
    (5, 0)
    >>> work.forced_tokens < choosing_options(describe("organism/qwen2"), asked, engine="tl").forced_tokens / 2
    True
    """
    total, asked = Work(), [p.question for p in prompts if p.question is not None]
    options = range(max((len(q.choices) for q in asked), default=0))
    texts = [[q.choices[min(option, len(q.choices) - 1)] for q in asked] for option in options]
    if engine == "tl":
        for said in texts:
            total += forcing_answers(model, with_responses(prompts, said), 0, times=times)
        return total
    tokenizer = info_of(model).tokenizer
    counts = [[len(batching.encode_response(tokenizer, Prompt.of("", response=t))) for t in said] for said in texts]
    longest = max(map(max, counts), default=0)
    for rows, width, _ in _shapes(
        [(n, 0) for n in _lengths(model, prompts) * times], extra=longest, max_rows=continuations.MAX_ROWS
    ):
        tokens = rows * (width + sum(map(max, counts)))
        total += Work(forced=1 + len(texts), forced_tokens=tokens, widest=rows * (width + longest))
    return total


def scoring_answers(model: Any, prompts: Sequence[Prompt], new_tokens: int) -> Work:
    """Count the work of one pass over answers to prompts that were read before.

    See :class:`lens_steer.inference.prompt_cache.PromptCache`.

    >>> from lens_steer.cli.precheck import describe
    >>> work = scoring_answers(describe("organism/qwen2"), [Prompt.of("Hello")] * 30, 5)
    >>> work.forced, work.forced_tokens, work.forced_new
    (2, 150, 150)
    """
    new = len(prompts) * new_tokens
    tokens = sum(n + new_tokens for n in _lengths(model, prompts))  # held as keys and values
    return Work(forced=-(-len(prompts) // prompt_cache.MAX_ROWS), forced_tokens=new, forced_new=new, widest=tokens)


def forcing_values(model: Any, prompts: Sequence[Prompt], new_tokens: int, n_values: int) -> Work:
    """Count the work of :func:`lens_steer.steer.value_sweep.logits_by_value`.

    It is a plain forward of each batch, and then all values on top of it. It is counted as if every block ran for each
    value.
    """
    budget, total = _logits_budget(model), Work()
    for rows, width, longest in _shapes(
        _with_answers(model, prompts, new_tokens), max_rows=value_sweep.MAX_ROWS, max_logits=budget
    ):
        most = min(value_sweep.MAX_ROWS, budget // (longest + 1), batching.MAX_BATCH_TOKENS // width)
        step = max(1, most // rows)
        tokens, new = rows * width * (n_values + 1), rows * longest * (n_values + 1)
        wide = min(step, n_values) * rows * width
        total += Work(forced=1 + -(-n_values // step), forced_tokens=tokens, forced_new=new, widest=wide)
    return total


def recording(model: Any, contrast: Contrast, n_sites: int, *, responses: bool = False, new_tokens: int = 0) -> Work:
    """Count the work of :func:`lens_steer.record` for both classes.

    Args:
        model: The loaded model, or its description.
        contrast: The prompts.
        n_sites: The number of sites, at each of which one vector of a prompt is kept.
        responses: Whether the prompts run with their responses.
        new_tokens: The tokens of a response that does not exist yet.
    """
    info, total = info_of(model), Work()
    for side in (contrast.positive, contrast.negative):
        lengths = _with_answers(model, side, new_tokens) if responses else [(n, 0) for n in _lengths(model, side)]
        for rows, width, _ in _shapes(lengths):
            total += Work(
                prefills=1, prompt_tokens=rows * width, widest=rows * width, recorded=rows * n_sites * info.d_model
            )
    return total


def selecting_direction(
    model: Any, fit: Contrast, select: Contrast, n_positions: int, max_new_tokens: int | None
) -> Work:
    """Count the work of :func:`lens_steer.select_direction`, as if the filter left out no prompt.

    An addition at the input of block ℓ runs the blocks from ℓ on, and its prompts run once up to ℓ; both are counted by
    the share of the blocks that they run.

    Args:
        model: The model, or its description.
        fit, select: The prompts before the filter.
        n_positions: The number of tokens after the instruction.
        max_new_tokens: The length of the answers to the positive fit prompts; None where the openings of refusals are
            given, so that there are no answers.

    >>> import lens_steer as ls
    >>> model, prompts = ls.load_model("organism/qwen2"), ls.load_contrast("organism/refusal").first(fit=4, select=2)
    >>> selecting_direction(model, prompts.fit, prompts.select, 5, None).prefills
    139
    """
    n_layers = info_of(model).n_layers
    total = Work() if max_new_tokens is None else answering(model, fit.positive, max_new_tokens)
    both = [*select.positive, *select.negative]
    total += _prefilling(model, both) * (1 + n_positions * n_layers)
    adding = _prefilling(model, select.negative)
    share = (n_positions * (n_layers + 1) + n_layers + 1) / 2 / n_layers  # of all blocks, summed over the additions
    tokens = round(adding.prompt_tokens * n_layers * share)
    total += replace(adding * (n_layers * (n_positions + 1)), prompt_tokens=tokens)
    for side in (*_sides(fit), *_sides(select)):
        total += _prefilling(model, side)  # the filter
    return total + _prefilling(model, fit.positive) + _prefilling(model, fit.negative)  # the means


def measuring(protocol: Protocol, grids: Sequence[Grid]) -> Work:
    """Count the work of :func:`lens_steer.evaluation.sweeps.run`.

    For every value of every grid it has answers to all sides that are asked, and a pass over the answers of each model
    that reads them (under the plan, and without it).
    """
    model, new = protocol.model, protocol.max_new_tokens
    counted: dict[tuple[int, str | None], Work] = {}
    total, cached = Work(), protocol.cached and protocol.engine == "hf"
    scored = {
        side: bare(protocol.reference.get(side, prompts))
        for side, prompts in protocol.sides.items()
        if side != CAPABILITY and "ref" in protocol.read_by
    }
    for part in parts_of(protocol, grids).values():
        key = (len(part.values), part.grid.system)
        if key not in counted:
            counted[key] = Work()
            for side, prompts in protocol.sides.items():
                asked = list(prompts) if key[1] is None else [with_system(p, key[1]) for p in prompts]
                if side == CAPABILITY and prompts[0].question is not None:
                    counted[key] += choosing_options(model, asked, times=key[0], engine=protocol.engine)
                    continue
                counted[key] += answering(model, asked, new, times=key[0])
                # On hf, answers are scored while they are written.
                if side != CAPABILITY and "self" in protocol.read_by and protocol.engine != "hf":
                    counted[key] += forcing_answers(model, bare(asked), new, times=key[0])
            for plain in scored.values():
                again = scoring_answers(model, plain * key[0], new) if cached else None
                counted[key] += again or forcing_answers(model, plain, new, times=key[0])
        total += counted[key]
    for plain in scored.values() if cached and grids else ():
        once = answering(model, plain, 1)
        total += Work(prefills=once.prefills, prompt_tokens=once.prompt_tokens)
    return total


def _generating(lengths: Sequence[int], max_new_tokens: int) -> Work:
    """Count the work of one answer to each prompt of these lengths."""
    total = Work()
    for rows, width, _ in _shapes([(n, 0) for n in lengths], extra=max_new_tokens):
        total += Work(
            prefills=1,
            prompt_tokens=rows * width,
            steps=max_new_tokens - 1,
            stepped=rows * (max_new_tokens - 1),
            answers=rows,
            new_tokens=rows * max_new_tokens,
            widest=rows * (width + max_new_tokens),
        )
    return total


def _prefilling(model: Any, prompts: Sequence[Prompt] | PromptSet) -> Work:
    """Count one forward over prompts without answers."""
    total = Work()
    for rows, width, _ in _shapes([(n, 0) for n in _lengths(model, prompts)]):
        total += Work(prefills=1, prompt_tokens=rows * width, widest=rows * width)
    return total


def _sides(contrast: Contrast) -> tuple[PromptSet, PromptSet]:
    return contrast.positive, contrast.negative


def _lengths(model: Any, prompts: Sequence[Prompt] | PromptSet) -> list[int]:
    tokenizer = info_of(model).tokenizer
    return [len(batching.encode(tokenizer, p)) for p in prompts]


def _with_answers(model: Any, prompts: Sequence[Prompt] | PromptSet, new_tokens: int) -> list[tuple[int, int]]:
    tokenizer = info_of(model).tokenizer
    answers = [new_tokens if p.response is None else len(batching.encode_response(tokenizer, p)) for p in prompts]
    return [(n + a, a) for n, a in zip(_lengths(model, prompts), answers, strict=True)]


def _shapes(lengths: Sequence[tuple[int, int]], **limits: Any) -> list[tuple[int, int, int]]:
    """Return rows, columns and the longest answer of each batch, from the function that makes the batches."""
    sequences = [(row, [0] * n, answer) for row, (n, answer) in enumerate(lengths)]
    given: Mapping[str, Any] = {name: value for name, value in limits.items() if value is not None}
    return [(b.ids.shape[0], b.ids.shape[1], max(b.response_lengths)) for b in batching.padded(sequences, 0, **given)]


def _logits_budget(model: Any) -> int:
    return max(1, teacher_forcing.MAX_LOGITS // shape_of(info_of(model).name, info_of(model).folder).d_vocab)


@lru_cache(maxsize=8)
def shape_of(name: str, folder: str) -> Shape:
    """Return a model's sizes, from its configuration."""
    return Shape.of(read_config(name, folder))
