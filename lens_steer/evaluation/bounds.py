"""The perplexity bound for degenerate answers, measured once for each run and kept in its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lens_steer.data import Contrast, PromptSet
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.evaluation.sweeps import run
from lens_steer.metrics.degenerate import PerplexityBound, perplexity_bound
from lens_steer.metrics.grading import graded


def measured_bound(
    protocol: Protocol,
    folder: str | Path,
    *,
    identity: dict[str, Any] | None = None,
    progress: bool = True,
) -> PerplexityBound | None:
    """Measure the perplexity bound on the unsteered model's own answers to the protocol's harmless prompts.

    The answers are kept in ``folder/unsteered.csv``, so that a resumed run uses the bound with which it began.

    Args:
        protocol: The protocol of the select split, without a bound.
        folder, identity, progress: See :func:`lens_steer.evaluation.sweeps.run`.

    Returns:
        The bound; None where a ground truth grades every answer.

    Raises:
        LensSteerError: If :func:`lens_steer.evaluation.sweeps.run` refuses an argument.

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
    rows = run(alone, [Grid(NONE)], folder, "unsteered", identity=identity, progress=progress)
    return perplexity_bound([float(np.exp(row["surprise_ref"])) for row in rows if row["surprise_ref"] is not None])


def harmless_alone(protocol: Protocol) -> Protocol | None:
    """Return the protocol that measures the bound: only the harmless prompts, and no judge.

    None where a ground truth grades every answer.
    """
    if graded([*protocol.contrast.positive, *protocol.contrast.negative]):
        return None
    harmless = Contrast(PromptSet((), "none"), protocol.contrast.negative)
    return replace(protocol, contrast=harmless, tasks=PromptSet((), "none"), judge=None, bound=None)
