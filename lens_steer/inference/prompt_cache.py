"""Teacher forcing of many responses to the same prompts, with the keys and values of the prompts in a cache.

A prompt is read once; after that only its responses run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_steer.data import Prompt
from lens_steer.inference import batching
from lens_steer.inference.engines import check_idle, on_engine
from lens_steer.inference.forward import batches_of, read
from lens_steer.inference.teacher_forcing import logits_budget, response_logits, with_responses
from lens_steer.models.loading import info_of

# The maximal number of responses in a forward, so small that the responses of a forward have similar lengths.
MAX_ROWS = 24
MAX_BYTES = 2**29  # The default limit of the kept keys and values; prompts beyond it are read again each time.


@dataclass(frozen=True)
class Kept:
    """A batch of prompts that has been read.

    Attributes:
        cache: The keys and values of the prompts, padded on the left.
        mask: 1 for a token, 0 for padding.
        last: The float32 logits after the last token of each prompt.
    """

    cache: Any
    mask: Int[Tensor, "batch pos"]
    last: Float[Tensor, "batch d_vocab"]


class PromptCache:
    """The cached keys and values of prompts, for many responses to the same prompts; it runs on engine ``hf``.

    Args:
        model: A model from :func:`lens_steer.load_model`, without an active plan.
        max_bytes: The maximal number of bytes of keys and values to keep.
    """

    def __init__(self, model: Any, *, max_bytes: int = MAX_BYTES) -> None:
        self._model, self._left = model, max_bytes
        self._kept: list[Kept] = []
        self._where: dict[str, tuple[int, int]] = {}

    def response_logits(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> Iterator[tuple[int, Float[Tensor, "pos d_vocab"], Int[Tensor, " pos"]]]:
        """Yield for each prompt with a non-empty response its row, float32 logits, and the token ids of the response.

        The values equal those of :func:`lens_steer.inference.teacher_forcing.response_logits` up to rounding. Rows come
        by batches of prompts, short responses first. A prompt is read when it is first given.

        Args:
            prompts: The prompts, which are rendered up to where the model answers; their own responses are ignored.
            responses: One response per prompt.

        Raises:
            LensSteerError: If a plan is active; otherwise as
                :func:`lens_steer.inference.teacher_forcing.response_logits` and
                :func:`lens_steer.inference.teacher_forcing.with_responses`.

        >>> import lens_steer as ls
        >>> cache = PromptCache(ls.load_model("organism/qwen2"))
        >>> asked = [Prompt.of("What is 4 plus 3?")] * 2
        >>> [int(ids[0] == logits[0].argmax()) for _, logits, ids in cache.response_logits(asked, ["7.", "8."])]
        [1, 0]
        """
        check_idle(self._model)
        info = info_of(self._model)
        asked = with_responses(list(prompts), responses)
        keys = [repr(p.messages) for p in asked]
        self._read({k: Prompt(p.messages) for k, p in zip(keys, asked, strict=True) if k not in self._where})
        tokens = [batching.encode_response(info.tokenizer, p) for p in asked]
        # batch → pairs of a row of the arguments and the row of its prompt in the batch
        by_batch: dict[int, list[tuple[int, int]]] = {}
        beyond = []
        for row, (key, ids) in enumerate(zip(keys, tokens, strict=True)):
            batch, place = self._where.get(key, (-1, -1))
            if batch < 0 or int(self._kept[batch].mask[place].sum()) + len(ids) > info.n_ctx:
                beyond.append(row)
            elif ids:
                by_batch.setdefault(batch, []).append((row, place))
        for batch, places in by_batch.items():
            places.sort(key=lambda at: len(tokens[at[0]]))  # Responses of similar length run together: less padding.
            longest = len(tokens[places[-1][0]])
            step = min(MAX_ROWS, max(1, logits_budget(self._model) // (longest + 1)))
            for begin in range(0, len(places), step):
                yield from self._responses(self._kept[batch], places[begin : begin + step], tokens)
        for row, logits, ids in response_logits(self._model, [asked[row] for row in beyond], engine="hf"):
            yield beyond[row], logits, ids

    def _read(self, new: dict[str, Prompt]) -> None:
        """Read prompts and keep the keys and values that fit into the rest of ``max_bytes``."""
        if not new or self._left <= 0 or not info_of(self._model).known_by_name:
            return
        keys = list(new)
        for batch in batches_of(self._model, list(new.values()), max_rows=64):
            with on_engine(self._model, "hf") as runner:
                out = read(runner, batch, 1, use_cache=True)
            size = sum(t.nbytes for layer in out.past_key_values.layers for t in (layer.keys, layer.values))
            if size > self._left:
                self._left = 0
                return
            self._left -= size
            self._where |= {keys[row]: (len(self._kept), i) for i, row in enumerate(batch.rows)}
            self._kept.append(Kept(out.past_key_values, batch.mask, out.logits[:, -1].float()))

    def _responses(
        self, kept: Kept, places: Sequence[tuple[int, int]], tokens: Sequence[Sequence[int]]
    ) -> Iterator[tuple[int, Float[Tensor, "pos d_vocab"], Int[Tensor, " pos"]]]:
        """Run responses to prompts of one batch in one forward, padded on the right."""
        device = kept.mask.device
        lengths = [len(tokens[row]) for row, _ in places]
        ids = torch.zeros(len(places), max(lengths), dtype=torch.long, device=device)
        for i, (row, _) in enumerate(places):
            ids[i, : lengths[i]] = torch.tensor(tokens[row], device=device)
        steps = torch.arange(max(lengths), device=device)
        index = torch.tensor([place for _, place in places], device=device)
        given = kept.mask[index]
        mask = torch.cat([given, (steps < torch.tensor(lengths, device=device)[:, None]).to(given.dtype)], dim=1)
        with on_engine(self._model, "hf") as runner, torch.inference_mode():
            cache = deepcopy(kept.cache)
            cache.batch_select_indices(index)
            how = {"attention_mask": mask, "past_key_values": cache, "use_cache": True}
            logits = runner(ids, position_ids=given.sum(dim=1, keepdim=True) + steps, **how).logits
        for i, (row, place) in enumerate(places):
            n = lengths[i]
            yield row, torch.cat([kept.last[place][None], logits[i, : n - 1].float()]), ids[i, :n]
