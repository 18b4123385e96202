"""Recordings of several contrasts that share prompts: a side that stands in more than one is recorded once."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import Contrast, PromptSet
from lens_steer.inference.class_means import recording
from lens_steer.inference.record import Activations, record_prompts
from lens_steer.models.loading import info_of
from lens_steer.models.sites import resolve


def record_sides(model: Any, contrast: Contrast, kept: dict[str, Tensor], *, engine: str = ENGINE) -> Activations:
    """Record both sides of a contrast at every norm output, at the last token, except those that are kept.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        contrast: The prompts.
        kept: The sides that were recorded before, by the hash of their prompts; what is recorded is added.
        engine: See :func:`lens_steer.record`.

    >>> import lens_steer as ls
    >>> model, kept = ls.load_model("organism/qwen2"), {}
    >>> few = ls.load_contrast("organism/refusal").first(fit=2).fit
    >>> one, other = record_sides(model, few, kept), record_sides(model, few, kept)
    >>> one.positive is other.positive, len(kept)
    (True, 2)
    """
    info = info_of(model)
    names = tuple(resolve("norm_out", info.layout))

    def side(prompts: PromptSet) -> Tensor:
        if prompts.hash not in kept:
            kept[prompts.hash] = record_prompts(model, prompts, names, engine=engine)
        return kept[prompts.hash]

    return Activations(
        names,
        side(contrast.positive),
        side(contrast.negative),
        tuple(p.group for p in contrast.positive),
        tuple(p.group for p in contrast.negative),
        **recording(info, contrast, "last"),
        hashes_positive=contrast.positive.hashes,
        hashes_negative=contrast.negative.hashes,
    )
