"""Recording every token by itself: what a gate sees, where a probe was fitted on averages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import Contrast, ContrastSet, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.inference.engines import check_engine, check_rows, on_engine
from lens_steer.inference.positions import running
from lens_steer.inference.record import Activations, check_responses, check_sides, forward
from lens_steer.models import sites as sites_
from lens_steer.models.loading import device_of, info_of

REGIONS = {"response": "token", "prompt": "prompt token"}  # → pooling


@dataclass
class _Rows:
    """Tokens by prompt and site, as they come."""

    of: dict[int, list[Tensor]] = field(default_factory=dict)

    def keep(
        self,
        activation: Float[Tensor, "batch pos d_model"],
        hook: Any = None,
        *,
        batch: batching.Batch,
        wanted: Bool[Tensor, "batch pos"],
    ) -> None:
        """Forward hook."""
        for i, row in enumerate(batch.rows):
            self.of.setdefault(row, []).append(activation[i, wanted[i].to(activation.device)].float().cpu())


def record_tokens(
    model: Any, contrast: ContrastSet | Contrast, sites: str | Sequence[str], *, region: str = "response", engine: str = ENGINE
) -> Activations:
    """One vector for every token and site, prompt by prompt; the groups say which prompt a token is of.

    Memory grows with tokens × sites: name the few sites that are needed.

    Args:
        model, contrast, sites, engine: see :func:`lens_steer.record`.
        region: ``"response"``: the tokens of each prompt's fixed response; ``"prompt"``: those of the prompt.

    Raises:
        LensSteerError: as :func:`lens_steer.record`, and an unknown region.

    >>> import lens_steer as ls
    >>> model, contrast = ls.load_model("organism/qwen2"), ls.load_contrast("organism/honesty")
    >>> record_tokens(model, contrast.select, ["blocks.6.hook_resid_post"]).pooling
    'token'
    """
    if region not in REGIONS:
        raise LensSteerError(f"region={region!r}: use one of {', '.join(REGIONS)}")
    pair = contrast.fit if isinstance(contrast, ContrastSet) else contrast
    check_sides(pair)
    check_engine(engine)
    info = info_of(model)
    names = sites_.resolve(sites, n_layers=info.n_layers, architecture=info.architecture)
    found = [_tokens(model, side, names, region, engine) for side in (pair.positive, pair.negative)]
    return Activations(
        names, found[0][0], found[1][0], REGIONS[region], info.name, info.architecture, info.n_layers, info.backend, info.weight_processing,  # type: ignore[arg-type]
        pair.hash, found[0][1], found[1][1], template=info.template,
    )  # fmt: skip


def _tokens(model: Any, prompts: PromptSet, names: Sequence[str], region: str, engine: str) -> tuple[Tensor, tuple[str, ...]]:
    """Of one side: values and the group of each."""
    info = info_of(model)
    if region == "response":
        check_responses(prompts)
    check_rows(model, len(prompts))
    kept = {name: _Rows() for name in names}
    with on_engine(model, engine) as runner:
        for batch in batching.batches(
            info.tokenizer, prompts, n_ctx=info.n_ctx, with_response=region == "response", device=device_of(runner)
        ):
            wanted = batch.mask.bool()
            if region == "response":
                ends = batch.ids.shape[1] - torch.tensor(batch.response_lengths, device=wanted.device)
                wanted = torch.arange(batch.ids.shape[1], device=wanted.device)[None] >= ends[:, None]
            with running(batch), torch.inference_mode():
                forward(runner, batch, {name: partial(rows.keep, batch=batch, wanted=wanted) for name, rows in kept.items()})
    by_site = [[torch.cat(rows.of[i]) for i in range(len(prompts))] for rows in kept.values()]
    values = torch.stack([torch.cat(one) for one in by_site], dim=1)
    if not bool(torch.isfinite(values).all()):
        raise LensSteerError(
            f"activations of {prompts.name!r} are not finite: load the model in float32 or bfloat16, and check its weights"
        )
    return values, tuple(p.group for p, own in zip(prompts, by_site[0], strict=True) for _ in range(len(own)))
