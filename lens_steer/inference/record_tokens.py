"""Recording of single tokens: these are what a gate reads, also where its probe was fitted on averages over tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import Contrast, ContrastSet, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.inference.attach import SiteFunction
from lens_steer.inference.class_means import recording
from lens_steer.inference.engines import check_engine
from lens_steer.inference.forward import read_sites
from lens_steer.inference.pooling import FORCED, Pooling, check_poolable, segments_of, tokens_of
from lens_steer.inference.record import Activations, check_sides, width_of
from lens_steer.models import sites as sites_
from lens_steer.models.loading import info_of
from lens_steer.models.proved import errors_of

# The pooling of each region.
REGIONS: dict[str, Pooling] = {
    "response": "token",
    "thought": "thought token",
    "answer": "answer token",
    "prompt": "prompt token",
}


def record_tokens(
    model: Any,
    contrast: ContrastSet | Contrast,
    sites: str | Sequence[str],
    *,
    region: str = "response",
    engine: str = ENGINE,
) -> Activations:
    """Record one vector per token and site, prompt by prompt; the groups tell to which prompt a token belongs.

    Memory grows with tokens × sites, so name only the few sites that are needed.

    Args:
        model, contrast, sites, engine: See :func:`lens_steer.record`.
        region: ``"response"``: the tokens of each prompt's fixed response. ``"thought"``, ``"answer"``: those of its
            thought, or of its answer (:mod:`lens_steer.inference.segments`). ``"prompt"``: the tokens of the prompt.

    Raises:
        LensSteerError: As :func:`lens_steer.record`, and if the region is unknown.

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
    names = sites_.resolve(sites, info.layout)
    width_of(info, names)
    found = [_tokens(model, side, names, region, engine) for side in (pair.positive, pair.negative)]
    return Activations(
        names,
        found[0][0],
        found[1][0],
        found[0][1],
        found[1][1],
        **recording(info, pair, REGIONS[region]),
        proof=errors_of(model),
    )


def _tokens(
    model: Any, prompts: PromptSet, names: Sequence[str], region: str, engine: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the recorded vectors of one side, and the group of each vector."""
    responses = region in FORCED
    check_poolable(model, prompts, region)
    segments = segments_of(model, region)
    kept: dict[str, dict[int, Tensor]] = {name: {} for name in names}

    def keepers(batch: batching.Batch) -> dict[str, SiteFunction]:
        wanted = tokens_of(batch, region, segments) if responses else batch.mask.bool()
        return {name: partial(_keep, batch=batch, wanted=wanted, into=into) for name, into in kept.items()}

    read_sites(model, prompts, keepers, engine=engine, with_response=responses)
    by_site = [[by_row[i] for i in range(len(prompts))] for by_row in kept.values()]
    values = torch.stack([torch.cat(one) for one in by_site], dim=1)
    if not bool(torch.isfinite(values).all()):
        raise LensSteerError(
            f"activations of {prompts.name!r} are not finite: load the model in float32 or bfloat16, and check "
            "its weights"
        )
    return values, tuple(p.group for p, own in zip(prompts, by_site[0], strict=True) for _ in range(len(own)))


def _keep(
    activation: Float[Tensor, "batch pos d_model"],
    hook: Any = None,
    *,
    batch: batching.Batch,
    wanted: Bool[Tensor, "batch pos"],
    into: dict[int, Tensor],
) -> None:
    """Store the vectors of the wanted tokens of one batch by the rows of their prompts; this is a forward hook."""
    for i, row in enumerate(batch.rows):
        into[row] = activation[i, wanted[i].to(activation.device)].float().cpu()
