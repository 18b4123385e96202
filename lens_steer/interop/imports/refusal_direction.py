"""Import of runs of refusal_direction (Arditi et al., arXiv 2406.11717) as directions.

Facts, taken from the sources of andyrdt/refusal_direction (``pipeline/run_pipeline.py``,
``pipeline/submodules/generate_directions.py``, ``select_direction.py``, ``pipeline/utils/hook_utils.py``):

- ``generate_directions/mean_diffs.pt`` is one tensor [n_positions, n_layers, d_model] in float64, the harmful mean
  minus the harmless mean.
- Layer ℓ is the *input* of block ℓ (a pre-hook on the block), so its site is ``blocks.ℓ.hook_resid_pre``. Layer 0 is
  the embedding.
- The position index p runs over the template's tokens after the instruction and is negative: position p is row
  ``n_positions + p``, and −1 is the last token of the prompt.
- ``direction.pt`` is ``mean_diffs[pos, layer]``, not normalised. ``direction_metadata.json`` is
  ``{"pos": …, "layer": …}`` with the same indices.
- ``select_direction/direction_evaluations.json`` has the scores of every (position, layer). The selection drops NaN,
  ``layer ≥ int(0.8 n_layers)``, KL divergences above 0.1 and steering scores below 0, and takes the smallest refusal
  score.
- The direction is used as ``h + α d`` at the input of the chosen block (α = −1 against refusal, +1 for it), or ablated
  at every block's input and at the output of every attention and MLP.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.interop.imports.directions import Detail, DirectionSet, direction_set
from lens_steer.interop.imports.source_files import decoding, existing, read_json, read_torch, vector
from lens_steer.models.sites import Site

WHAT = "a refusal_direction run holds direction.pt and direction_metadata.json, and generate_directions/mean_diffs.pt"
# The largest relative difference between direction.pt and mean_diffs.pt at the chosen indices. A copy in half precision
# still passes.
MAX_DISAGREEMENT = 1e-2


def import_refusal_direction(
    folder: str | Path,
    *,
    position: int | None = None,
    layer: int | None = None,
    model: str = "",
    architecture: str | None = None,
    n_layers: int | None = None,
) -> DirectionSet:
    """Read a run: the directions of one position at every block's input, one of which is the chosen one.

    If there is no ``mean_diffs.pt``, only the chosen direction is read.

    Args:
        folder: The folder of the run, with the file names above. ``mean_diffs.pt`` may also be beside ``direction.pt``.
        position, layer: The position and the layer of the chosen direction. None stands for those of
            ``direction_metadata.json`` or, without this file, for the best ones in ``direction_evaluations.json``
            (which needs ``mean_diffs.pt``).
        model: The name of the model. If empty, the name of the folder is used.
        architecture: The architecture of the model, which no file contains.
        n_layers: The number of blocks of the model, which ``mean_diffs.pt`` contains.

    Raises:
        LensSteerError: If a file is missing, corrupt or contradictory, if it holds code, if an index is out of range,
            or if a value is not finite.
    """
    path = Path(folder)
    name = model or path.resolve().name
    means, chosen = _mean_diffs(path), path / "direction.pt"
    if means is None and not chosen.exists():
        raise LensSteerError(f"{str(path)!r} has neither mean_diffs.pt nor direction.pt: {WHAT}")
    position, layer, published, evaluated = _indices(path, means, position, layer)
    details: dict[str, Detail] = {
        "position": position,
        "layer": layer,
        "read_at": f"token {position} of the prompt, input of the block",
        **evaluated,
    }
    site = Site(layer, "resid_pre").name
    if means is None:
        rows: dict[str, Tensor] = {site: vector(read_torch(chosen, WHAT), f"{str(chosen)!r}")}
    else:
        if n_layers not in (None, means.shape[1]):
            raise LensSteerError(
                f"{str(path)!r} was made on a model of {means.shape[1]} blocks, not of n_layers={n_layers}"
            )
        n_layers = means.shape[1]
        rows = {Site(block, "resid_pre").name: means[position, block] for block in range(n_layers)}
        if chosen.exists() and (position, layer) == published:
            direction = vector(read_torch(chosen, WHAT), f"{str(chosen)!r}")
            details["direction_difference"] = _difference(direction, means[position, layer], str(path))
    return direction_set(
        rows,
        model=name,
        architecture=architecture,
        n_layers=n_layers,
        source_format="refusal-direction",
        selected_site=site,
        details=details,
    )


def selection_order(evaluations: Sequence[dict[str, Any]], n_layers: int) -> list[tuple[int, int]]:
    """Return the (position, layer) pairs that pass the published selection, best first.

    >>> row = {"position": -1, "layer": 1, "refusal_score": -3.0, "steering_score": 1.0, "kl_div_score": 0.05}
    >>> selection_order(
    ...     [row, row | {"layer": 2, "refusal_score": -9.0}, row | {"layer": 3, "refusal_score": -99.0}], n_layers=4
    ... )
    [(-1, 2), (-1, 1)]
    """
    kept = []
    for row in evaluations:
        scores = [row[key] for key in ("refusal_score", "steering_score", "kl_div_score")]
        if row["layer"] >= int(n_layers * 0.8) or any(s is None or math.isnan(float(s)) for s in scores):
            continue
        refusal, steering, divergence = map(float, scores)
        if divergence <= 0.1 and steering >= 0:
            kept.append((refusal, (int(row["position"]), int(row["layer"]))))
    return [pair for _, pair in sorted(kept, key=lambda item: item[0])]


def _mean_diffs(path: Path) -> Tensor | None:
    found = [p for p in (path / "generate_directions" / "mean_diffs.pt", path / "mean_diffs.pt") if p.exists()]
    if not found:
        return None
    value = read_torch(found[0], WHAT)
    if not isinstance(value, Tensor) or value.ndim != 3 or 0 in value.shape or not value.is_floating_point():
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise LensSteerError(
            f"{str(found[0])!r} holds {shape}: one floating-point tensor [n_positions, n_layers, d_model] is needed"
        )
    if not bool(torch.isfinite(value).all()):
        raise LensSteerError(f"{str(found[0])!r} holds values that are not finite")
    return value.detach()


def _indices(
    path: Path, means: Tensor | None, position: int | None, layer: int | None
) -> tuple[int, int, tuple[int, int], dict[str, Detail]]:
    """Return the chosen position and layer, the published pair, and the result of repeating the selection.

    The chosen ones are those asked for or, without them, the published ones. The result is a dict with
    ``selection_reproduced``, True if the scores select the published pair; it is empty without scores.
    """
    metadata, scores = path / "direction_metadata.json", path / "select_direction" / "direction_evaluations.json"
    order = _order(scores, means) if scores.exists() and means is not None else []
    if metadata.exists():
        facts = read_json(metadata, WHAT)
        indices = [facts.get(key) for key in ("pos", "layer")]
        if not all(isinstance(index, int) for index in indices):
            raise LensSteerError(f"{str(metadata)!r} must say pos and layer as whole numbers, found {facts}")
        published = (int(facts["pos"]), int(facts["layer"]))
    elif order:
        published = order[0]
    elif position is None or layer is None:
        raise LensSteerError(
            f"{str(metadata)!r} does not exist: give position=… (from the end, such as -1) and layer=…"
        )
    else:
        published = (position, layer)
    chosen = (published[0] if position is None else position, published[1] if layer is None else layer)
    if means is not None and not (-means.shape[0] <= chosen[0] < 0 and 0 <= chosen[1] < means.shape[1]):
        raise LensSteerError(
            f"position {chosen[0]} and layer {chosen[1]} are out of range: the run has positions "
            f"{-means.shape[0]} to -1 and layers 0 to {means.shape[1] - 1}"
        )
    if chosen[0] >= 0 or chosen[1] < 0:
        raise LensSteerError(
            f"position {chosen[0]}, layer {chosen[1]}: a position counts from the prompt's end (-1 its last "
            "token), a layer from 0"
        )
    evaluated: dict[str, Detail] = {"selection_reproduced": order[0] == published} if order else {}
    return chosen[0], chosen[1], published, evaluated


def _order(scores: Path, means: Tensor) -> list[tuple[int, int]]:
    with decoding(existing(scores, WHAT)):
        return selection_order(json.loads(scores.read_text(encoding="utf-8")), means.shape[1])


def _difference(direction: Tensor, expected: Tensor, path: str) -> float:
    """Return ‖direction − mean_diffs[pos, layer]‖ / ‖mean_diffs[pos, layer]‖ of what should be the same vector."""
    if direction.shape != expected.shape:
        raise LensSteerError(
            f"{path!r} does not fit together: direction.pt has {len(direction)} numbers, mean_diffs.pt a width of "
            f"{len(expected)}"
        )
    apart, length = (direction.double() - expected.double()).norm(), expected.double().norm()
    found = float(apart / length.clamp_min(torch.finfo(torch.float64).tiny))
    if found > MAX_DISAGREEMENT:
        raise LensSteerError(
            f"{path!r}: direction.pt is not mean_diffs.pt at this position and layer (they differ by {found:.1e} "
            "of its length): give the run's own position and layer"
        )
    return found
