"""Forward passes over batches: prompts are rendered, padded and run on an engine, and sites or logits are read.

Recording, teacher forcing, divergence and everything else that runs prompts through a model use these functions.
Generation uses the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import Prompt, PromptSet
from lens_steer.inference import batching
from lens_steer.inference.attach import SiteFunction, at_input, attached
from lens_steer.inference.clock import running
from lens_steer.inference.engines import check_rows, on_engine
from lens_steer.inference.shared_prefix import read_prefix, shared_prefix
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
    """Cut prompts into the batches in which a model runs them, shortest prompts first.

    All prompts are tokenised and checked before the first batch is returned.

    Args:
        model: A model from :func:`lens_steer.load_model`, or its Hugging Face twin.
        prompts: The prompts to run.
        max_new_tokens: The number of tokens to reserve for each answer.
        with_response: If True, the fixed responses are part of the batches.
        max_rows, max_logits: The limits of one batch; see :func:`lens_steer.inference.batching.padded`.

    Returns:
        An iterator over the batches.

    Raises:
        LensSteerError: If an active plan holds one value per prompt for another number of prompts, or if a prompt is
            longer than the context allows.

    >>> import lens_steer as ls
    >>> model, prompts = ls.load_model("organism/qwen2"), [Prompt.of("Hello there"), Prompt.of("Hi")]
    >>> [batch.rows for batch in batches_of(model, prompts, max_rows=1)]
    [(1,), (0,)]
    """
    info = info_of(model)
    check_rows(model, len(prompts))
    return batching.batches(
        info.tokenizer,
        prompts,
        n_ctx=info.n_ctx,
        max_new_tokens=max_new_tokens,
        with_response=with_response,
        max_rows=max_rows,
        max_logits=max_logits,
        device=device_of(model),
    )


def check_room(
    model: Any, prompts: PromptSet | Sequence[Prompt], *, max_new_tokens: int = 0, with_response: bool = False
) -> None:
    """Refuse the prompts that :func:`batches_of` would refuse.

    The prompts are rendered, tokenised and measured, but no batch is built.

    Args:
        model: A loaded model, or a model that is described without its weights.
        prompts, max_new_tokens, with_response: See :func:`batches_of`.

    Raises:
        LensSteerError: If a prompt is longer than the context allows, or if the chat template refuses it.

    >>> import lens_steer as ls
    >>> check_room(ls.load_model("organism/qwen2"), [Prompt.of("Hi")], max_new_tokens=64)
    """
    info = info_of(model)
    batching.batches(
        info.tokenizer, prompts, n_ctx=info.n_ctx, max_new_tokens=max_new_tokens, with_response=with_response
    )


def read_sites(
    model: Any,
    prompts: PromptSet | Sequence[Prompt],
    readers: Callable[[batching.Batch], Mapping[str, SiteFunction]],
    *,
    engine: str = ENGINE,
    with_response: bool = False,
    bar: Any = None,
) -> None:
    """Run prompts batch by batch and pass the activations of each site to its reader.

    Each forward stops after the last block that a site needs.

    Args:
        model: A model from :func:`lens_steer.load_model`, inside ``with steering(model, plan):`` or not.
        prompts: The prompts to run.
        readers: A function that returns, for a batch, one reader for each site name; see :func:`forward`.
        engine: ``"tl"`` or ``"hf"``; see :func:`lens_steer.record`.
        with_response: If True, the fixed responses are run too.
        bar: A progress bar, which is advanced by the number of prompts of each batch. None: no bar.

    Raises:
        LensSteerError: If :func:`batches_of` or the engine refuses the prompts or the model.

    >>> import lens_steer as ls
    >>> model, widths = ls.load_model("organism/qwen2"), []
    >>> readers = {"blocks.0.hook_resid_pre": lambda h, hook: widths.append(h.shape[-1])}
    >>> read_sites(model, [Prompt.of("Hi")], lambda batch: readers)
    >>> widths
    [128]
    """
    with on_engine(model, engine) as runner:
        for batch in batches_of(runner, prompts, with_response=with_response):
            forward(runner, batch, readers(batch))
            if bar is not None:
                bar.update(len(batch.rows))


def forward(model: Any, batch: batching.Batch, readers: Mapping[str, SiteFunction]) -> None:
    """Run one batch up to the last block that a site needs, on the model of the chosen engine.

    Each reader is called with the activation ``[batch, pos, d_model]`` and the keyword ``hook``, and must return None.
    """
    info, stop = info_of(model), max(sites.blocks_of(readers)) + 1
    with (
        fed(model, batch) as given,
        attached(model, readers.items(), reads=True),
        ExitStack() as stack,
        suppress(_Enough),
    ):
        if info.backend != "hf":
            model(batch.ids, **given, return_type=None, stop_at_layer=stop)
            return
        if stop < info.n_layers:
            stack.callback(at_input(blocks_of(model)[stop], _enough).remove)
        model.base_model(batch.ids, **given)


def last_logits(
    model: Any, batch: batching.Batch, keep: int, *, shared: int | None = None
) -> Float[Tensor, "batch pos d_vocab"]:
    """Run one batch on the model of the chosen engine and unembed only its last ``keep`` positions.

    Args:
        model, batch: The model and the prompts.
        keep: The number of positions, counted from the end.
        shared: See :func:`read`.
    """
    if info_of(model).backend == "hf":
        return read(model, batch, keep, shared=shared).logits
    with fed(model, batch) as given:
        handle = model.unembed.register_forward_pre_hook(lambda module, args: (args[0][:, -keep:], *args[1:]))
        try:
            return model(batch.ids, **given, return_type="logits")
        finally:
            handle.remove()


def read(model: Any, batch: batching.Batch, keep: int, *, shared: int | None = None, use_cache: bool = False) -> Any:
    """Run one batch on a Hugging Face model; the tokens that its rows share are read once.

    Args:
        model, batch: The model and the prompts.
        keep: The number of positions, counted from the end, whose logits are computed.
        shared: How many first tokens are read once. None: as many as
            :func:`lens_steer.inference.shared_prefix.shared_prefix` finds.
        use_cache: If True, the keys and values of the whole batch are kept.

    Returns:
        The output of the model, with ``logits``, and with ``past_key_values`` if these are kept.
    """
    n = shared_prefix(model, batch) if shared is None else shared
    cache = read_prefix(model, batch, n) if n else None
    with fed(model, batch) as given:
        if n:
            given |= {"position_ids": given["position_ids"][:, n:], "past_key_values": cache}
        return model(batch.ids[:, n:], **given | {"use_cache": use_cache or n > 0}, logits_to_keep=keep)


def logits_on(model: Any, batch: batching.Batch, keep: int, engine: str) -> Float[Tensor, "batch pos d_vocab"]:
    """Return :func:`last_logits` on an engine.

    The engine is entered for this single forward. A caller that stops half-way through its batches therefore leaves no
    plan active on the twin.
    """
    with on_engine(model, engine) as runner:
        return last_logits(runner, batch, keep)


@contextmanager
def fed(model: Any, batch: batching.Batch) -> Iterator[dict[str, Any]]:
    """Yield the keyword arguments that a forward of a batch takes besides its tokens.

    Inside the ``with`` block the steering hooks know the padding, the prompts and the answers of the batch, and no
    gradients are recorded.
    """
    with running(batch), torch.inference_mode():
        given: dict[str, Any] = {"attention_mask": batch.mask}
        if info_of(model).backend == "hf":
            given |= {"position_ids": (batch.mask.cumsum(dim=1) - 1).clamp_min(0), "use_cache": False}
            if "position_ids" not in signature(model.forward).parameters:  # the family counts by the mask itself
                del given["position_ids"]
        yield given


class _Enough(Exception):
    """The exception that ends a Hugging Face forward after the last block that is needed."""


def _enough(*_: Any, **__: Any) -> None:
    raise _Enough
