"""The bound on perplexity that tells degenerate answers, measured once a run and kept in its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lens_steer.data import Contrast, PromptSet
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.sweeps import Grid, Protocol, run
from lens_steer.metrics.degenerate import PerplexityBound, perplexity_bound
from lens_steer.metrics.grading import graded


def measured_bound(
    protocol: Protocol,
    folder: str | Path,
    *,
    name: str = "unsteered",
    identity: dict[str, Any] | None = None,
    progress: bool = True,
) -> PerplexityBound | None:
    """The bound from the unsteered model's own answers to the protocol's harmless prompts; None where a ground truth
    grades every answer.

    The answers lie in ``folder/NAME.csv``, so an interrupted run goes on with the bound that it began with.

    Args:
        protocol: of the select split, without a bound.
        folder, name, identity, progress: see :func:`lens_steer.evaluation.sweeps.run`.

    Raises:
        LensSteerError: as :func:`lens_steer.evaluation.sweeps.run`.

    >>> import lens_steer as ls
    >>> prompts = ls.load_contrast("organism/refusal").select
    >>> measured_bound(
    ...     Protocol(ls.load_model("organism/qwen2"), prompts, "select", PromptSet(())), "never made"
    ... ) is None
    True
    """
    alone = harmless_alone(protocol)
    if alone is None:
        return None
    rows = run(alone, [Grid(NONE)], folder, name, identity=identity, progress=progress)
    return perplexity_bound([float(np.exp(row["surprise_ref"])) for row in rows if row["surprise_ref"] is not None])


def harmless_alone(protocol: Protocol) -> Protocol | None:
    """The protocol that the bound is measured by: harmless prompts alone, nothing judged; None where a ground truth
    grades every answer.
    """
    if graded([*protocol.contrast.positive, *protocol.contrast.negative]):
        return None
    harmless = Contrast(PromptSet((), "none"), protocol.contrast.negative)
    return replace(protocol, contrast=harmless, tasks=PromptSet((), "none"), judge=None, bound=None)
