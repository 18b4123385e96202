"""One forward over batches: prompts are rendered, padded and run on an engine under the active plans, and sites or logits are read from it.

Recording, teacher forcing, divergence and what else runs prompts through a model share these functions; generation shares the batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import Prompt, PromptSet
from lens_steer.inference import batching
from lens_steer.inference.attach import SiteFunction, at_input, attached
from lens_steer.inference.engines import check_rows, on_engine
from lens_steer.inference.positions import running
from lens_steer.models import sites
from lens_steer.models.loading import blocks_of, device_of, info_of


def batches_of(
    model: Any,
    prompts: PromptSet | Sequence[Prompt],
    *,
    max_new_tokens: int = 0,
    with_response: bool = False,
    max_rows: int = batching.MAX_BATCH_ROWS,
    max_logits: int | None = None,
) -> Iterator[batching.Batch]:
    """Cut prompts into the batches in which a model runs them, shortest first.

    Everything is tokenised and checked before the first batch is given out.

    Args:
        model: from :func:`lens_steer.load_model`, or its Hugging Face twin.
        prompts: what to run.
        max_new_tokens: tokens that each answer may have.
        with_response: whether the fixed responses are run too.
        max_rows, max_logits: limits of a batch; see :func:`lens_steer.inference.batching.padded`.

    Raises:
        LensSteerError: a plan in force with values for another number of prompts, a prompt that is longer than the context leaves room for.

    >>> import lens_steer as ls
    >>> [batch.rows for batch in batches_of(ls.load_model("organism/qwen2"), [Prompt.of("Hello there"), Prompt.of("Hi")], max_rows=1)]
    [(1,), (0,)]
    """
    info = info_of(model)
    check_rows(model, len(prompts))
    return batching.batches(
        info.tokenizer, prompts, n_ctx=info.n_ctx, max_new_tokens=max_new_tokens, with_response=with_response,
        max_rows=max_rows, max_logits=max_logits, device=device_of(model),
    )  # fmt: skip


def read_sites(
    model: Any,
    prompts: PromptSet | Sequence[Prompt],
    readers: Callable[[batching.Batch], Mapping[str, SiteFunction]],
    *,
    engine: str = ENGINE,
    with_response: bool = False,
    bar: Any = None,
) -> None:
    """Run prompts batch by batch, as far as the last site needs, and hand each site's activations to its reader.

    Args:
        model: from :func:`lens_steer.load_model`, inside ``with steering(model, plan):`` or not.
        prompts: what to run.
        readers: makes, for a batch, what reads each site of it; see :func:`forward`.
        engine: ``"tl"`` or ``"hf"``; see :func:`lens_steer.record`.
        with_response: whether the fixed responses are run too.
        bar: a progress bar, told of every batch's prompts.

    Raises:
        LensSteerError: as :func:`batches_of`, and what the engine refuses.

    >>> import lens_steer as ls
    >>> model, shapes = ls.load_model("organism/qwen2"), []
    >>> read_sites(model, [Prompt.of("Hi")], lambda batch: {"blocks.0.hook_resid_pre": lambda h, hook: shapes.append(h.shape == (*batch.ids.shape, 128))})
    >>> shapes
    [True]
    """
    with on_engine(model, engine) as runner:
        for batch in batches_of(runner, prompts, with_response=with_response):
            forward(runner, batch, readers(batch))
            if bar is not None:
                bar.update(len(batch.rows))


def forward(model: Any, batch: batching.Batch, readers: Mapping[str, SiteFunction]) -> None:
    """Run one batch as far as the last site needs; each site's reader is called with its activations ``[batch, pos, d_model]``.

    Args:
        model: what does the work (see :func:`lens_steer.inference.engines.on_engine`).
        batch: what to run.
        readers: site name → function ``(activation, hook)`` that reads and returns None.
    """
    stop = max(sites.blocks_of(readers)) + 1
    with _fed(model, batch) as fed, attached(model, readers.items(), reads=True):
        if info_of(model).backend == "hf":
            with _ended_before(model, stop):
                model.model(batch.ids, **fed)
        else:
            model(batch.ids, **fed, return_type=None, stop_at_layer=stop)


def last_logits(model: Any, batch: batching.Batch, keep: int) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits of the last ``keep`` columns of a batch; the others are never unembedded.

    Args:
        model: what does the work (see :func:`lens_steer.inference.engines.on_engine`).
        batch: what to run.
        keep: columns, counted from the right end.
    """
    with _fed(model, batch) as fed:
        if info_of(model).backend == "hf":
            return model(batch.ids, **fed, logits_to_keep=keep).logits
        handle = model.unembed.register_forward_pre_hook(lambda module, args: (args[0][:, -keep:], *args[1:]))
        try:
            return model(batch.ids, **fed, return_type="logits")
        finally:
            handle.remove()


def logits_on(model: Any, batch: batching.Batch, keep: int, engine: str) -> Float[Tensor, "batch pos d_vocab"]:
    """:func:`last_logits` on an engine, which is entered for this one forward: a reader who stops half-way leaves nothing in force on the twin."""
    with on_engine(model, engine) as runner:
        return last_logits(runner, batch, keep)


@contextmanager
def _fed(model: Any, batch: batching.Batch) -> Iterator[dict[str, Any]]:
    """What a forward of a batch is called with beside its tokens; inside the ``with``, steering knows the batch's padding, prompts and answers, and no gradients are kept."""
    with running(batch), torch.inference_mode():
        fed: dict[str, Any] = {"attention_mask": batch.mask}
        if info_of(model).backend == "hf":
            fed |= {"position_ids": (batch.mask.cumsum(dim=1) - 1).clamp_min(0), "use_cache": False}
        yield fed


class _Enough(Exception):
    """Ends a Hugging Face forward after the last block that is needed."""


@contextmanager
def _ended_before(model: Any, block: int) -> Iterator[None]:
    """The Hugging Face forward inside the ``with`` ends where a block would begin, if the model has so many."""
    if block >= info_of(model).n_layers:
        yield
        return
    handle = at_input(blocks_of(model)[block], _enough)
    try:
        with suppress(_Enough):
            yield
    finally:
        handle.remove()


def _enough(*_: Any, **__: Any) -> None:
    raise _Enough
