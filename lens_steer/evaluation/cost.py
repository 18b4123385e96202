"""The cost of a run, before it runs: its work at the speed that a short probe measures.

The work is counted by :mod:`lens_steer.evaluation.work`. The probe runs on this machine, with this model and these
prompts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, TypeVar

from lens_steer._defaults import ENGINE
from lens_steer._io.progress import duration
from lens_steer.data import Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.work import Work, shape_of
from lens_steer.inference.engines import on_engine
from lens_steer.inference.forward import batches_of
from lens_steer.inference.generation import answer_ids
from lens_steer.inference.teacher_forcing import MAX_LOGITS, response_logits, with_responses
from lens_steer.models.footprint import GIB
from lens_steer.models.loading import info_of
from lens_steer.steer.hooks import steering
from lens_steer.steer.plans import SteeringPlan

T = TypeVar("T")
BUDGET = 4.0  # seconds that a probe takes, approximately
MOST_ROWS = 64
STEPS = 6  # new tokens from which the time of one step is measured
LOW, HIGH = 0.7, 1.5  # factors on the estimate: machines are shared, and answers have other lengths under steering
LONG = 60.0  # seconds; for a run at least this long the estimate is shown beforehand


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The measured speed, in seconds.

    Attributes:
        a_prefill, a_prompt_token: The time of a forward over a batch of prompts: the first once, and the second for
            every token in it, padding included.
        a_step, a_row: The time of a forward of one new token for each row: the first once, and the second for every
            row.
        a_forced_token: The time for each token in a batch of prompts with fixed answers.
        answer: The number of tokens of the longest answer in the probe's batch; None where that batch was not run to
            the end.
        max_new_tokens: The largest number of tokens that an answer could have.
        measuring: The time that the probe took.
    """

    a_prefill: float
    a_prompt_token: float
    a_step: float
    a_row: float
    a_forced_token: float
    answer: int | None
    max_new_tokens: int
    measuring: float

    def seconds(self, work: Work, *, whole: bool = False) -> float:
        """Return the time of a piece of work.

        Args:
            work: The work.
            whole: Whether every answer is as long as ``max_new_tokens``; otherwise answers are as long as the probe's.

        >>> speed = Speed(
        ...     a_prefill=0.0,
        ...     a_prompt_token=0.01,
        ...     a_step=0.5,
        ...     a_row=0.0,
        ...     a_forced_token=0.0,
        ...     answer=3,
        ...     max_new_tokens=5,
        ...     measuring=0.0,
        ... )
        >>> work = Work(prefills=1, prompt_tokens=100, steps=4, stepped=4)
        >>> speed.seconds(work), speed.seconds(work, whole=True)
        (2.0, 3.0)
        """
        share = 1.0 if whole or self.answer is None else min(1.0, self.answer / self.max_new_tokens)
        later = 1.0 if whole or self.answer is None else min(1.0, (self.answer - 1) / max(1, self.max_new_tokens - 1))
        return (
            self.a_prefill * work.prefills
            + self.a_prompt_token * work.prompt_tokens
            + later * (self.a_step * work.steps + self.a_row * work.stepped)
            + self.a_forced_token * (work.forced_tokens - (1 - share) * work.forced_new)
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The expected cost of a run.

    Attributes:
        forwards: The largest number of forwards of the model.
        prompt_tokens: The number of prompt tokens that are read, padding included, with those of prompts that run with
            fixed answers.
        new_tokens: The largest number of tokens of all answers.
        answers: The number of generated answers.
        seconds: The time, estimated from the probe.
        seconds_low, seconds_high: A range of the time: from 0.7 of ``seconds`` to 1.5 of the time in which every answer
            has its greatest length.
        peak_bytes: The memory of the weights, of the largest batch's key–value cache and logits, and of the activations
            that are kept.
    """

    forwards: int
    prompt_tokens: int
    new_tokens: int
    answers: int
    seconds: float
    seconds_low: float
    seconds_high: float
    peak_bytes: int

    def row(self) -> dict[str, Any]:
        """Return plain values, with the memory also in GiB."""
        rounded = {name: round(value, 1) if isinstance(value, float) else value for name, value in asdict(self).items()}
        return rounded | {"peak_gib": round(self.peak_bytes / GIB, 2)}

    def line(self) -> str:
        """Return the line that is shown before the work.

        >>> print(
        ...     Cost(
        ...         forwards=96,
        ...         prompt_tokens=5000,
        ...         new_tokens=3072,
        ...         answers=64,
        ...         seconds=80.0,
        ...         seconds_low=56.0,
        ...         seconds_high=400.0,
        ...         peak_bytes=3 * GIB,
        ...     ).line()[:53]
        ... )
        about 80 s (56 s to 7 min): 64 answers of 3,072 token
        """
        answers = f"{self.answers:,} answers of {self.new_tokens:,} tokens at most, " if self.answers else ""
        return (
            f"about {duration(self.seconds)} ({duration(self.seconds_low)} to {duration(self.seconds_high)}): {answers}"
            f"{self.forwards:,} forwards at most, {self.prompt_tokens:,} prompt tokens; memory about "
            f"{self.peak_bytes / GIB:.1f} GiB"
        )


def cost(model: Any, work: Work, speed: Speed) -> Cost:
    """Return the cost of work at a speed.

    Args:
        model: The model that was probed, with everything that it has loaded so far.
        work: The work, counted by :mod:`lens_steer.evaluation.work`.
        speed: The speed, from :func:`probe`.
    """
    likely = speed.seconds(work)
    return Cost(
        forwards=work.forwards,
        prompt_tokens=work.prompt_tokens + work.forced_tokens - work.forced_new,
        new_tokens=work.new_tokens,
        answers=work.answers,
        seconds=likely,
        seconds_low=LOW * likely,
        seconds_high=HIGH * speed.seconds(work, whole=True),
        peak_bytes=_weights(model) + _batch_bytes(model, work) + 4 * work.recorded,
    )


def probe(
    model: Any,
    prompts: PromptSet | Sequence[Prompt],
    max_new_tokens: int,
    *,
    engine: str = ENGINE,
    plan: SteeringPlan | None = None,
    budget: float | None = None,
) -> Speed:
    """Measure the speed of a model on a batch of one prompt and on a larger batch.

    Each batch is timed over its prompts and over some new tokens, and the larger one also over a pass with fixed
    answers.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        prompts: The prompts, of which some are taken, evenly spread.
        max_new_tokens: The largest number of tokens of an answer. If the probe's answers end earlier, others are
            assumed to be as long as these.
        engine: See :func:`lens_steer.generate`.
        plan: A plan, to time steered forwards; None times the unsteered model.
        budget: The approximate time in seconds (None: :data:`BUDGET`); it limits the size of the larger batch.

    Raises:
        LensSteerError: If there are no prompts, or ``max_new_tokens`` is below 1.
    """
    if not len(prompts):
        raise LensSteerError("prompts is empty: give at least one")
    if max_new_tokens < 1:
        raise LensSteerError(f"max_new_tokens={max_new_tokens}: at least 1 is needed")
    begun, budget = time.perf_counter(), BUDGET if budget is None else budget
    step_tokens = min(STEPS, max_new_tokens)
    with nullcontext() if plan is None else steering(model, plan, tell=False), on_engine(model, engine) as runner:
        # A forward over prompts is modelled as a fixed time plus a time for each token, and a step of generation as a
        # fixed time plus a time for each row. The two batches differ only in size, so the difference of their times
        # gives the second part of each, and what is left is the first. The time of a step comes from the difference
        # between several new tokens and one.
        one = next(batches_of(runner, _spread(prompts, 1), max_new_tokens=max_new_tokens))
        answer_ids(runner, one, 1)  # a first call is slower and is not timed
        first, _ = _timed(lambda: answer_ids(runner, one, 1), twice=True)
        few, ids = _timed(lambda: answer_ids(runner, one, step_tokens))
        rows = max(2, min(MOST_ROWS, int(budget / 5 / max(first, few / 4, 1e-4))))
        chosen = _spread(prompts, rows)
        many = next(
            batches_of(runner, chosen, max_new_tokens=max_new_tokens)
        )  # all of them, unless they do not fit into one batch
        wide, _ = _timed(lambda: answer_ids(runner, many, 1), twice=first * rows < budget / 20)
        tokens_one, tokens_many = one.ids.numel(), many.ids.numel()
        a_token = (
            max(0.0, (wide - first) / (tokens_many - tokens_one)) if tokens_many > tokens_one else wide / tokens_many
        )
        step_one = _a_step(few - first, ids, step_tokens)
        longer, ids = _timed(lambda: answer_ids(runner, many, step_tokens))
        step_many = _a_step(longer - wide, ids, step_tokens)
        a_row = max(0.0, step_many - step_one) / (len(many.rows) - 1)
        longest: int | None = max(map(len, ids)) + 1
        if longest > step_tokens:  # some answers are longer: run them to their end if there is time
            longest = None
            if (max_new_tokens - 1) * step_many + wide < budget:
                ids = answer_ids(runner, many, max_new_tokens)
                longest = min(max(map(len, ids)) + 1, max_new_tokens)
    texts = [info_of(model).tokenizer.decode(i, skip_special_tokens=True) or "." for i in ids]
    with nullcontext() if plan is None else steering(model, plan, tell=False):
        answered = with_responses([chosen[row] for row in many.rows], texts)
        forced, read = _timed(
            lambda: [(len(x), float(x[-1, 0])) for _, x, _ in response_logits(model, answered, engine=engine)]
        )
    width = many.ids.shape[1] + max(n for n, _ in read)
    return Speed(
        a_prefill=max(0.0, first - a_token * tokens_one),
        a_prompt_token=a_token,
        a_step=max(0.0, step_many - a_row * len(many.rows)),
        a_row=a_row,
        a_forced_token=forced / (len(many.rows) * width),
        answer=longest,
        max_new_tokens=max_new_tokens,
        measuring=time.perf_counter() - begun,
    )


def _spread(prompts: PromptSet | Sequence[Prompt], n: int) -> list[Prompt]:
    """Return ``n`` of the prompts, evenly spread; if there are fewer, they are repeated from the first one on."""
    every = [Prompt(p.messages, None, p.task) for p in prompts]
    if len(every) >= n:
        return [every[(2 * i + 1) * len(every) // (2 * n)] for i in range(n)]
    return [every[i % len(every)] for i in range(n)]


def _timed(make: Callable[[], T], *, twice: bool = False) -> tuple[float, T]:
    """Return the time in seconds (with ``twice``, the shorter of two) and the result."""
    seconds, made = [], None
    for _ in range(1 + twice):
        begun = time.perf_counter()
        made = make()
        seconds.append(time.perf_counter() - begun)
    return min(seconds), made  # type: ignore[return-value]


def _a_step(seconds: float, ids: Sequence[Sequence[int]], most: int) -> float:
    """Return the time of one further token, from the time of several."""
    steps = min(max(map(len, ids)) + 1, most) - 1
    return max(0.0, seconds) / steps if steps else 0.0


def _weights(model: Any) -> int:
    """Return the bytes of the model's parameters and of its twin's; storage that both share counts once."""
    twin = vars(model).get("lens_twin")
    parameters = chain(model.parameters(), () if twin is None else twin.parameters())
    stored = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in parameters}
    return sum(stored.values())


def _batch_bytes(model: Any, work: Work) -> int:
    """Return the bytes of the largest batch's keys and values, and of the logits of a batch with fixed answers."""
    info = info_of(model)
    shape, size = shape_of(info.name, info.folder), next(iter(model.parameters())).element_size()
    cache = 2 * shape.n_layers * shape.n_kv_heads * shape.d_head * work.widest * size
    logits = min(MAX_LOGITS, work.widest * shape.d_vocab) if work.forced else 0
    return cache + size * logits
