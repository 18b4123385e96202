"""Calibration of the two benign steerings.

STEER-COMPLIANCE uses a principal component of complying against refusing answers. STEER-JSON uses the mean difference
of prompts with and without a request for JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import Contrast, ContrastSet, Prompt
from lens_steer.errors import LensSteerError
from lens_steer.geometry.directions import candidate_directions, class_means
from lens_steer.geometry.planes import principal_component
from lens_steer.inference.attach import SiteFunction
from lens_steer.inference.batching import Batch
from lens_steer.inference.forward import read_sites
from lens_steer.inference.record import Activations, check_sides, record
from lens_steer.models.fits import reference
from lens_steer.models.loading import info_of
from lens_steer.studies.externalities.steerings import METHODS, ComplianceCalibration, JsonCalibration, paper_blocks


def oriented_component(
    positive: Float[Tensor, "n d_model"], negative: Float[Tensor, "n d_model"], *, method: str = "center"
) -> tuple[Float[Tensor, " d_model"], float]:
    """Return the first principal component of paired samples, and its share of the variance, in float64.

    ``center`` takes the component of both classes together about their common mean. ``pairwise`` takes the component of
    each pair about its midpoint, ``±(x_i⁺ − x_i⁻)/2``. The sign is chosen so that the mean difference of the pairs
    projects on the component with a value ≥ 0. Where that value is exactly 0, the entry of largest magnitude is
    positive. (The released code takes the sign that most pairs have.)

    Raises:
        LensSteerError: If the method is unknown, if there are fewer than two pairs, or if all samples are alike.

    Source: Steering Externalities (arXiv 2602.04896), section on STEER-COMPLIANCE, has ``center``; the released code of
    CAST (arXiv 2409.05907) has ``pairwise`` as its default.

    >>> shift = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    >>> common = torch.tensor([[0.0, 9.0], [0.0, -9.0]])
    >>> [oriented_component(common + shift, common - shift, method=m)[0].abs().tolist() for m in METHODS]
    [[0.0, 1.0], [1.0, 0.0]]
    """
    if method not in METHODS:
        raise LensSteerError(f"method={method!r}: use one of {', '.join(METHODS)}")
    if len(positive) < 2:
        raise LensSteerError(f"{len(positive)} pairs: a principal component needs at least two")
    x, y = positive.double(), negative.double()
    rows = torch.cat([x, y]) if method == "center" else torch.cat([x - y, y - x]) / 2
    spread = rows - rows.mean(dim=0)
    if float(spread.norm()) <= 1e-9 * float(rows.norm()):
        raise LensSteerError(
            "all activations are alike: the two classes have the same responses, or the site sees none of them"
        )
    axis, shares = principal_component(rows, center=method == "center")
    along = float((x - y).mean(dim=0) @ axis)
    return (axis if along >= 0 else -axis), float(shares[0])


def calibrate_compliance(
    model: Any,
    contrast: ContrastSet | Contrast,
    *,
    method: str = "center",
    blocks: Sequence[int] | None = None,
    engine: str = ENGINE,
    progress: bool = True,
) -> ComplianceCalibration:
    """Compute the directions of STEER-COMPLIANCE from prompts with a complying and with a refusing continuation.

    The function records the output of every block, averaged over the tokens of each continuation, and takes the
    :func:`oriented_component` at each block.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        contrast: A split, or a contrast set, of which the fit split is read. Positive: prompts with complying
            responses. Negative: the same prompts, row by row, with refusing responses.
        method: ``center`` (as the paper describes it) or ``pairwise`` (the default of the released code).
        blocks: Blocks to steer; None uses :func:`paper_blocks`.
        engine, progress: See :func:`lens_steer.record`.

    Raises:
        LensSteerError: If the sides are not paired, if a response is missing, if the method is unknown, if the model
            does not have a block, or for the reasons of :func:`lens_steer.record`.

    >>> import lens_steer as ls
    >>> calibrate_compliance(ls.load_model("organism/qwen2"), ls.load_contrast("organism/compliance"), progress=False)
    ComplianceCalibration(organism/qwen2: center, 128 pairs, blocks 5, 6, 7, 8, 9 of 12)
    """
    pair = _paired(contrast)
    if method not in METHODS:
        raise LensSteerError(f"method={method!r}: use one of {', '.join(METHODS)}")
    apart = next(
        (i for i, (a, b) in enumerate(zip(pair.positive, pair.negative, strict=True)) if a.messages != b.messages), None
    )
    if apart is not None:
        raise LensSteerError(f"pair {apart} has two different prompts: both sides need the same ones, row by row")
    n_layers = info_of(model).n_layers
    chosen = paper_blocks(n_layers) if blocks is None else tuple(blocks)
    if not chosen or not all(0 <= b < n_layers for b in chosen):
        raise LensSteerError(f"blocks={list(chosen)}: name at least one of the model's, 0 to {n_layers - 1}")
    acts = record(model, pair, "resid_post", pooling="response", engine=engine, progress=progress)
    found = [oriented_component(acts.positive[:, i], acts.negative[:, i], method=method) for i in range(n_layers)]
    directions = torch.stack([d for d, _ in found])
    gaps = torch.einsum("nsd,sd->ns", acts.positive.double() - acts.negative.double(), directions)
    steered = tuple(acts.sites[b] for b in sorted(set(chosen)))
    return ComplianceCalibration(
        acts.sites,
        directions.float(),
        *_means(acts),
        len(pair.positive),
        acts.prompt_hash,
        method,
        steered,
        torch.tensor([s for _, s in found]),
        (gaps > 0).float().mean(dim=0),
        response_lengths(model, [*pair.positive, *pair.negative], acts.sites, engine=engine),
        **reference(acts),
    )


def calibrate_json(
    model: Any, contrast: ContrastSet | Contrast, *, engine: str = ENGINE, progress: bool = True
) -> JsonCalibration:
    """Compute the directions of STEER-JSON from instructions with and without a request for JSON.

    At the last prompt token of every block's output: ``v = mean(x_i⁺ − x_i⁻)``, ``u = v/‖v‖``, ``z̄ = mean⟨x_i⁺, u⟩``.

    Args:
        model, engine, progress: See :func:`calibrate_compliance`.
        contrast: Positive: prompts with the request. Negative: prompts without it.

    Raises:
        LensSteerError: If the sides have different lengths, if the class means do not differ at some block, or for the
            reasons of :func:`lens_steer.record`.

    Source: Steering Externalities (arXiv 2602.04896), Eq. 4.

    >>> import lens_steer as ls
    >>> calibrate_json(ls.load_model("organism/qwen2"), ls.load_contrast("organism/json"), progress=False)
    JsonCalibration(organism/qwen2: 148 pairs, 12 blocks)
    """
    pair = _paired(contrast)
    acts = record(model, pair, "resid_post", engine=engine, progress=progress)
    means = class_means(acts.positive, acts.negative)
    directions = candidate_directions(*means)
    if not bool(directions.any(dim=1).all()):
        raise LensSteerError(
            "the two classes have the same mean at some block: the prompts of both sides end alike; check the two sides"
        )
    target, without = ((m * directions).sum(dim=1).float() for m in means)
    lengths = torch.cat([acts.positive, acts.negative]).norm(dim=-1).mean(dim=0)
    return JsonCalibration(
        acts.sites,
        directions.float(),
        *_means(acts),
        len(pair.positive),
        acts.prompt_hash,
        target,
        without,
        lengths,
        **reference(acts),
    )


def response_lengths(
    model: Any, prompts: Sequence[Prompt], names: Sequence[str], *, engine: str = ENGINE
) -> Float[Tensor, " n_sites"]:
    """Return the mean length of a response token's vector at each site, over all tokens of all fixed responses."""
    total, count = torch.zeros(len(names), dtype=torch.float64), 0

    def adders(batch: Batch) -> dict[str, SiteFunction]:
        nonlocal count
        count += sum(batch.response_lengths)
        inside = batch.in_response.cpu()
        return {name: partial(_add_lengths, total=total, index=i, inside=inside) for i, name in enumerate(names)}

    read_sites(model, prompts, adders, engine=engine, with_response=True)
    return (total / count).float()


def _add_lengths(activation: Tensor, hook: Any = None, *, total: Tensor, index: int, inside: Tensor) -> None:
    """Add the lengths of a batch's response tokens to a running total; this is a forward hook."""
    total[index] += activation.float().norm(dim=-1).cpu()[inside].double().sum()


def _paired(contrast: ContrastSet | Contrast) -> Contrast:
    pair = contrast.fit if isinstance(contrast, ContrastSet) else contrast
    check_sides(pair)
    if len(pair.positive) != len(pair.negative):
        raise LensSteerError(
            f"{len(pair.positive)} positive and {len(pair.negative)} negative prompts: the two sides are paired "
            "row by row, give as many of each"
        )
    return pair


def _means(acts: Activations) -> tuple[Tensor, Tensor]:
    """Return at each site the mean of the two class means, and the length of their difference."""
    positive, negative = class_means(acts.positive, acts.negative)
    return ((positive + negative) / 2).float(), (positive - negative).norm(dim=-1).float()
