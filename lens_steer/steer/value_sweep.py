"""Logits of the same prompts at many values of a steering parameter, with the unsteered blocks run once.

The residual stream before the first steered block is the same at every value, so it is computed once for each batch of
prompts. The blocks from there on run on copies of the batch, one copy for each value: every row has its own value of
the parameter.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.inference.attach import at_input, standing_in
from lens_steer.inference.clock import steers
from lens_steer.inference.engines import check_engine, check_idle, on_engine
from lens_steer.inference.forward import batches_of, last_logits
from lens_steer.inference.shared_prefix import counted_from_the_first, shared_prefix
from lens_steer.inference.teacher_forcing import logits_budget
from lens_steer.models import sites
from lens_steer.models.loading import blocks_of, info_of
from lens_steer.steer.hooks import steering
from lens_steer.steer.plans import SteeringPlan

log = logging.getLogger(__name__)

MAX_ROWS = 64
Build = Callable[[Any], SteeringPlan]  # makes a plan from one value, or from one value for each row


def logits_by_value(
    model: Any, build: Build, values: Sequence[float], prompts: PromptSet | Sequence[Prompt], *, engine: str = ENGINE
) -> Iterator[tuple[int, int | None, Float[Tensor, "pos d_vocab"], Int[Tensor, " pos"]]]:
    """Yield the logits of every prompt without steering and at every value.

    With a response for every prompt, the logits predict its tokens, as in
    :func:`lens_steer.inference.teacher_forcing.response_logits`. Without any response, the logits are those of the
    first token of an answer: one position, with no token.

    Args:
        model: A model from :func:`lens_steer.load_model`, with no plan in force.
        build: A function that makes the plan from one value for each row, such as
            ``partial(selective_steering, calibration)``.
        values: The angles, coefficients or targets.
        prompts: The prompts, all with a response or all without.
        engine: See :func:`lens_steer.generate`.

    Yields:
        The row of the prompt, the index of the value (None without steering), the float32 logits, and the tokens that
        they predict.

    Raises:
        LensSteerError: If there is no value, if only some prompts have a response, if a plan is in force already, or if
            a prompt is too long.
    """
    if not values:
        raise LensSteerError("values is empty: give at least one angle or coefficient")
    forced = {p.response is not None for p in prompts}
    if len(forced) > 1:
        raise LensSteerError("some prompts have a response and some have none: give all of them one, or none")
    check_idle(model)
    any_plan = build(float(values[0]))
    first, steered_any = min(sites.blocks_of(any_plan.sites)), False
    check_engine(engine)
    # The forward without steering also keeps the stream before the first steered block. The batch is then repeated,
    # once for each value, for as many values as the limits on rows, logits and tokens allow, and these copies run from
    # that block on with the kept stream.
    for batch in batches_of(model, prompts, with_response=True, max_rows=MAX_ROWS, max_logits=logits_budget(model)):
        keep = max(batch.response_lengths) + 1
        # The engine is entered for each forward and not around the loop: this is a generator, and a caller who stops
        # half-way must leave no plan in force on the twin.
        with on_engine(model, engine) as runner:
            # The plan's own hooks, added below, are all that is attached then.
            shared = shared_prefix(runner, batch) if counted_from_the_first(any_plan.positions) else 0
            with kept_input(runner, first) as kept:  # of the shared tokens, if any, and of the others
                plain = last_logits(runner, batch, keep, shared=shared)
        yield from _rows(batch, plain, [None] * len(batch.rows))
        if not steers(model, any_plan.positions, batch):  # e.g. positions "generated" without any response
            for k in range(len(values)):
                yield from _rows(batch, plain, [k] * len(batch.rows))
            continue
        steered_any = True
        most = min(MAX_ROWS, logits_budget(model) // keep, batching.MAX_BATCH_TOKENS // batch.ids.shape[1])
        step = max(1, most // len(batch.rows))
        for start in range(0, len(values), step):
            indices = range(start, min(start + step, len(values)))
            wide = _repeated(batch, len(indices))
            plan = build([float(values[k]) for k in indices for _ in batch.rows])
            with (
                on_engine(model, engine) as runner,
                steering(runner, plan, tell=False),
                from_block(runner, first, *kept),
            ):
                logits = last_logits(runner, wide, keep, shared=shared)
            yield from _rows(wide, logits, [k for k in indices for _ in batch.rows], batch.rows)
    if not steered_any:
        log.warning(
            "the plan %r steered no token: nothing stood at the positions %r", any_plan.method, any_plan.positions
        )


def _repeated(batch: batching.Batch, times: int) -> batching.Batch:
    """Return the batch repeated several times, its rows numbered from 0 in the order of the plan's values."""
    n = len(batch.rows)
    return batching.Batch(
        tuple(range(n * times)), batch.ids.repeat(times, 1), batch.mask.repeat(times, 1), batch.response_lengths * times
    )


def _rows(
    batch: batching.Batch,
    logits: Float[Tensor, "batch pos d_vocab"],
    values: Sequence[int | None],
    rows: Sequence[int] | None = None,
) -> Iterator[tuple[int, int | None, Float[Tensor, "pos d_vocab"], Int[Tensor, " pos"]]]:
    for i, (value, length) in enumerate(zip(values, batch.response_lengths, strict=True)):
        row = batch.rows[i] if rows is None else rows[i % len(rows)]
        if length:
            yield row, value, logits[i, -length - 1 : -1].float(), batch.ids[i, -length:]
        else:
            yield row, value, logits[i, -1:].float(), batch.ids[i, :0]


@contextmanager
def kept_input(model: Any, block: int) -> Iterator[list[Tensor]]:
    """Keep the residual stream before a block, as each forward inside the ``with`` computes it."""
    kept: list[Tensor] = []
    # A copy, because a block may change its input in place.
    handle = at_input(blocks_of(model)[block], lambda stream, hook: kept.append(stream.clone()))
    try:
        yield kept
    finally:
        handle.remove()


@contextmanager
def from_block(model: Any, block: int, *streams: Float[Tensor, "_ _ d_model"]) -> Iterator[None]:
    """Start the forwards inside the ``with`` at a block, with given residual streams.

    The blocks before it only pass on what they are given; the input of the block is then replaced by the stream. Of an
    architecture that is not known by name they run, since later blocks may read more of them than the stream.

    Args:
        model: The model of the chosen engine.
        block: The first block that runs.
        streams: The stream of each forward, in turn. It is repeated where a forward has several times its rows.
    """
    turns = cycle(streams)

    def replaced(stream: Tensor, hook: Any) -> Tensor:
        given = next(turns)
        return given.repeat(len(stream) // len(given), 1, 1)

    with ExitStack() as stack:
        known = info_of(model).known_by_name
        for earlier in blocks_of(model)[: block if known else 0]:
            stack.enter_context(standing_in(earlier, _pass_on))
        stack.callback(at_input(blocks_of(model)[block], replaced, prepend=True).remove)
        yield


def _pass_on(*args: Any, **kwargs: Any) -> Any:
    return args[0] if args else kwargs["hidden_states"]
