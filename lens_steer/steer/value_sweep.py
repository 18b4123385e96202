"""Many values of a steering parameter in one forward: logits of the same prompts at every angle or coefficient, the
unsteered blocks run once.

What comes before the first steered block is the same at every value, so it is computed once a batch of prompts; the
blocks from there on run with every row at its own value.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.inference.attach import at_input, standing_in
from lens_steer.inference.engines import check_engine, check_idle, on_engine
from lens_steer.inference.forward import batches_of, last_logits
from lens_steer.inference.positions import steers
from lens_steer.inference.teacher_forcing import logits_budget
from lens_steer.models import sites
from lens_steer.models.loading import blocks_of
from lens_steer.steer.hooks import steering
from lens_steer.steer.plans import SteeringPlan

log = logging.getLogger(__name__)

MAX_ROWS = 64
Build = Callable[[Any], SteeringPlan]  # a value, or one a row → plan


def logits_by_value(
    model: Any, build: Build, values: Sequence[float], prompts: PromptSet | Sequence[Prompt], *, engine: str = ENGINE
) -> Iterator[tuple[int, int | None, Float[Tensor, "pos d_vocab"], Int[Tensor, " pos"]]]:
    """Row, index of the value (None: no steering), float32 logits and the tokens that they predict.

    With a response for every prompt, its tokens are predicted, as in
    :func:`lens_steer.inference.teacher_forcing.response_logits`; without any, the logits are those of the first token
    of an answer, one position with no token.

    Args:
        model: from :func:`lens_steer.load_model`, with no plan in force.
        build: makes the plan from one value a row, such as ``partial(selective_steering, calibration)``.
        values: angles, coefficients or targets.
        prompts: all with a response or all without.
        engine: see :func:`lens_steer.generate`.

    Raises:
        LensSteerError: no value, prompts of which only some have a response, a plan in force already, too long a
            prompt.
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
    for batch in batches_of(model, prompts, with_response=True, max_rows=MAX_ROWS, max_logits=logits_budget(model)):
        keep = max(batch.response_lengths) + 1
        # entered anew for every forward: a reader who stops half-way leaves nothing in force on the twin
        with on_engine(model, engine) as runner, kept_input(runner, first) as kept:
            plain = last_logits(runner, batch, keep)
        yield from _rows(batch, plain, [None] * len(batch.rows))
        if not steers(any_plan.positions, batch):  # such as generated, where no prompt of the batch has a response
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
            hidden = kept[0].repeat(len(indices), 1, 1)
            with (
                on_engine(model, engine) as runner,
                steering(runner, plan, tell=False),
                from_block(runner, first, hidden),
            ):
                logits = last_logits(runner, wide, keep)
            yield from _rows(wide, logits, [k for k in indices for _ in batch.rows], batch.rows)
    if not steered_any:
        log.warning("the plan %r steered no token: no prompt has the positions %r", any_plan.method, any_plan.positions)


def _repeated(batch: batching.Batch, times: int) -> batching.Batch:
    """The batch several times over, its rows numbered through, as the plan's values are."""
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
    """The stream before a block, as the forward inside the ``with`` has it."""
    kept: list[Tensor] = []
    handle = at_input(blocks_of(model)[block], lambda stream, hook: kept.append(stream))
    try:
        yield kept
    finally:
        handle.remove()


@contextmanager
def from_block(model: Any, block: int, hidden: Float[Tensor, "batch pos d_model"]) -> Iterator[None]:
    """Forwards inside the ``with`` begin at a block, with this stream: the blocks before it pass on what they are
    given.
    """
    with ExitStack() as stack:
        for earlier in blocks_of(model)[:block]:
            stack.enter_context(standing_in(earlier, _pass_on))
        stack.callback(at_input(blocks_of(model)[block], lambda stream, hook: hidden, prepend=True).remove)
        yield


def _pass_on(*args: Any, **kwargs: Any) -> Any:
    return args[0] if args else kwargs["hidden_states"]
