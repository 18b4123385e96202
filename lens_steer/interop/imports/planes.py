"""Published steering planes as calibrations; what a publication has no record of is left empty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.geometry.calibration import Calibration, versions
from lens_steer.geometry.planes import orthonormalise
from lens_steer.models import sites


def plane_calibration(
    first: Float[Tensor, " d_model"],
    second: Float[Tensor, " d_model"],
    *,
    candidates: Float[Tensor, "n_sites d_model"] | None = None,
    source_format: str,
    details: Mapping[str, Any],
    **facts: Any,
) -> Calibration:
    """Return the calibration of a published plane.

    The basis is orthonormalised in float64, first direction first. The published basis is kept beside it, and the
    details say how far it was from orthonormal.

    Args:
        first, second: The published directions, in their published dtype.
        candidates: The unit candidates of the sites. None puts the first direction at every site.
        source_format: The name of the published format.
        details: Further details of the source.
        facts: The other fields of the calibration, among them ``sites`` and ``discriminative_sites``.

    Raises:
        LensSteerError: If the plane is degenerate.

    >>> found = plane_calibration(
    ...     torch.tensor([2.0, 0.0, 0.0]),
    ...     torch.tensor([1.0, 1.0, 0.0]),
    ...     source_format="test",
    ...     details={},
    ...     sites=("blocks.0.ln1.hook_out",),
    ...     discriminative_sites=(),
    ...     selected_site="blocks.0.ln1.hook_out",
    ...     model="m",
    ...     architecture="qwen2",
    ...     n_layers=1,
    ...     n_positive=0,
    ...     n_negative=0,
    ... )
    >>> found.basis.tolist(), found.details["published_norm_b1"]
    ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], 2.0)
    """
    basis, error, remainder = orthonormalise(first, second)
    return Calibration(
        candidates=basis[:1].expand(len(facts["sites"]), -1).clone() if candidates is None else candidates,
        basis=basis,
        discriminative_blocks=sites.blocks_of(facts["discriminative_sites"]),
        backend="imported",
        weight_processing="none",
        rule="imported",
        prompt_hash="",
        seed=0,
        published_basis=torch.stack([first, second]),
        versions=versions(),
        details={
            "source_format": source_format,
            "published_dtype": str(first.dtype).removeprefix("torch."),
            "published_gram_error": error,
            "published_norm_b1": float(first.double().norm()),
            "published_norm_b2": float(second.double().norm()),
            "published_b1_dot_b2": float(first.double() @ second.double()),
            "b2_remainder_after_b1": remainder,
            **details,
        },
        **facts,
    )
