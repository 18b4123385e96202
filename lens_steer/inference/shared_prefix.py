"""The first tokens that all rows of a batch share are read once, on Hugging Face models.

A chat template puts the same text before every prompt (24 of the 42 tokens of a short prompt to Qwen2.5-Coder). Its
keys and values depend on the plans in force and on nothing else, so one row of them serves every row of the batch, or
one row for each value where a plan has a value for each row. The other columns then run on top of these keys and
values, and the batch keeps its columns: steering, masks and positions are those of the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lens_steer.inference.batching import Batch
from lens_steer.inference.clock import running
from lens_steer.inference.engines import active_on
from lens_steer.inference.positions import parse
from lens_steer.models.fingerprint import n_hooks
from lens_steer.models.loading import info_of

MIN_TOKENS = 16  # fewer are not worth a forward of their own


def shared_prefix(model: Any, batch: Batch) -> int:
    """Return how many first tokens the rows of a batch share and may read once; 0 where every row is read whole.

    At least one token of every prompt is left. Rows are read whole where it is not known that they would do the same:

    - on a model of TransformerLens, on an architecture that is not known by name (its cache can be of another form),
      and in rows of several turns;
    - under a plan whose positions are counted from the end of the prompt or by the blocks of a prefix cache;
    - where a hook is attached that is not that of a plan, because it could read every column.

    Args:
        model: The model of the chosen engine; see :func:`lens_steer.inference.engines.on_engine`.
        batch: The prompts, with or without fixed responses.
    """
    entries = active_on(model)
    ours = sum(len(entry.handles) + len(entry.followers) for entry in entries)
    info = info_of(model)
    if (
        info.backend != "hf"
        or not info.known_by_name
        or len(batch.rows) < 2
        or batch.offset is not None
        or n_hooks(model) != ours
    ):
        return 0
    if any(entry.plan is None or not counted_from_the_first(entry.plan.positions) for entry in entries):
        return 0
    window = getattr(model.config.get_text_config(), "sliding_window", None) or batch.ids.shape[1]
    room = min(n - answer for n, answer in zip(batch.mask.sum(dim=1).tolist(), batch.response_lengths, strict=True)) - 1
    n = _common(batch, max(0, min(room, window - 1)))
    return n if n >= MIN_TOKENS else 0


def read_prefix(model: Any, batch: Batch, n: int) -> Any:
    """Read the first ``n`` tokens of a batch once, under the plans in force.

    Returns:
        A cache of Transformers with the first ``n`` columns of every row. What it holds at padding is not defined; the
        mask of the batch hides it.
    """
    pads = batch.ids.shape[1] - batch.mask.sum(dim=1)
    own, place = _distinct(model, batch)
    ids = batch.ids[0, pads[0] : pads[0] + n].expand(len(own), n)
    alone = Batch(tuple(batch.rows[i] for i in own), ids, torch.ones_like(ids), (0,) * len(own), call=batch.call)
    positions = torch.arange(n, device=ids.device).expand(len(own), n)
    with running(alone), torch.inference_mode():
        how = {"attention_mask": alone.mask, "position_ids": positions, "use_cache": True}
        found = model.base_model(ids, **how).past_key_values
    # Column c of a row with p columns of padding holds token c − p, and padding where c < p.
    token = (torch.arange(n, device=pads.device) - pads[:, None]).clamp_min(0)
    for layer in found.layers:
        if not layer.is_initialized:  # a block that was not run; its number of columns alone is read
            layer.update(*[torch.zeros(len(pads), 1, n, 1, device=ids.device)] * 2)
            continue
        rows, columns = place.to(layer.keys.device)[:, None], token.to(layer.keys.device)
        layer.keys, layer.values = (
            x.transpose(1, 2)[rows, columns].transpose(1, 2) for x in (layer.keys, layer.values)
        )
    return found


def counted_from_the_first(positions: str) -> bool:
    """Return True if a token of the prompt is steered or not by its place from the first one alone.

    >>> [counted_from_the_first(p) for p in ("all", "prompt[3:]+generated", "prompt[-1]", "recomputed(16)")]
    [True, True, False, False]
    """
    return all(not t.block and (t.start or 0) >= 0 and (t.stop or 0) >= 0 for t in parse(positions))


def _common(batch: Batch, most: int) -> int:
    """Return how many first tokens all rows share, ``most`` at most."""
    pads = batch.ids.shape[1] - batch.mask.sum(dim=1, keepdim=True)
    first = batch.ids.gather(1, pads + torch.arange(most, device=pads.device))
    return int((first == first[0]).all(dim=0).cumprod(dim=0).sum())


def _distinct(model: Any, batch: Batch) -> tuple[list[int], Int[Tensor, " batch"]]:
    """Return one row for each set of values that plans have for the rows, and the place of every row among these."""
    steps = [step for entry in active_on(model) for step in entry.plan.steps]
    values = [step.by_row for step in steps if step.by_row is not None]
    places: dict[tuple[float, ...], int] = {}
    own: list[int] = []
    found = []
    for i, row in enumerate(batch.rows):
        key = tuple(float(value[row]) for value in values)
        if key not in places:
            places[key] = len(own)
            own.append(i)
        found.append(places[key])
    return own, torch.tensor(found, device=batch.ids.device)
