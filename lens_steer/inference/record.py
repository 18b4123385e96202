"""Recording of the activations of two contrasted prompt sets at a list of sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from lens_steer._defaults import ENGINE
from lens_steer._display import Shown
from lens_steer.data import Contrast, ContrastSet, PromptSet
from lens_steer.errors import LensSteerError, expect
from lens_steer.inference import batching
from lens_steer.inference.attach import SiteFunction
from lens_steer.inference.class_means import Moments, Recording, StreamMeans, Sums, recording
from lens_steer.inference.engines import check_engine
from lens_steer.inference.forward import read_sites
from lens_steer.inference.pooling import FORCED, Pooling, check_poolable, checked_pooling, pool_weights, segments_of
from lens_steer.models import sites
from lens_steer.models.layout import ROUTER_LOGITS
from lens_steer.models.loading import ModelInfo, info_of
from lens_steer.models.proved import errors_of


@dataclass(frozen=True)
class Activations(Recording, Shown, view="activations"):
    """Activations of both classes at a list of sites, on the CPU in float32.

    Attributes:
        sites: The names of the sites, in network order.
        positive, negative: One vector per prompt and site, or per token and site.
        groups_positive, groups_negative: The group of each row (:attr:`~lens_steer.data.Prompt.group`): rows of one
            group belong together. Empty if the groups are not known.
    """

    sites: tuple[str, ...]
    positive: Float[Tensor, "n_positive n_sites d_model"]
    negative: Float[Tensor, "n_negative n_sites d_model"]
    groups_positive: tuple[str, ...] = ()
    groups_negative: tuple[str, ...] = ()

    @property
    def d_model(self) -> int:
        return self.positive.shape[-1]

    def __repr__(self) -> str:
        width = "width" if any(sites.parse(name).kind == ROUTER_LOGITS for name in self.sites) else "d_model"
        what = f"{self.pooling} tokens averaged" if self.pooling in FORCED else f"single {self.pooling}s"
        what = "last token" if self.pooling == "last" else what
        return (
            f"Activations({len(self.positive)} positive, {len(self.negative)} negative, {len(self.sites)} sites of "
            f"{self.model}, {width} {self.d_model}, {what})"
        )

    def at(self, site: str) -> tuple[Float[Tensor, "n_positive d_model"], Float[Tensor, "n_negative d_model"]]:
        """Return the activations of both classes at one site.

        Raises:
            LensSteerError: If the site was not recorded.
        """
        if site not in self.sites:
            raise LensSteerError(f"site {site!r} was not recorded: recorded are {', '.join(self.sites[:3])}, …")
        index = self.sites.index(site)
        return self.positive[:, index], self.negative[:, index]

    @property
    def n_positive(self) -> int:
        return len(self.positive)

    @property
    def n_negative(self) -> int:
        return len(self.negative)


@overload
def record(
    model: Any,
    contrast: ContrastSet | Contrast,
    sites: str | Sequence[str] = ...,
    *,
    pooling: Pooling = ...,
    engine: str = ...,
    keep: Literal["all"] = ...,
    progress: bool = ...,
) -> Activations: ...
@overload
def record(
    model: Any,
    contrast: ContrastSet | Contrast,
    sites: str | Sequence[str] = ...,
    *,
    pooling: Pooling = ...,
    engine: str = ...,
    keep: Literal["moments"],
    progress: bool = ...,
) -> Moments: ...
def record(
    model: Any,
    contrast: ContrastSet | Contrast,
    sites: str | Sequence[str] = "norm_out",
    *,
    pooling: Pooling = "last",
    engine: str = ENGINE,
    keep: str = "all",
    progress: bool = True,
) -> Activations | Moments:
    """Record one vector per prompt and site.

    Prompts run in left-padded batches of similar length. Each forward stops after the last block that a site needs and
    skips the unembedding. Only the requested sites and positions are kept.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        contrast: A contrast, or a contrast set, of which the fit split is recorded.
        sites: ``"norm_out"``, ``"resid"``, one kind such as ``"resid_post"``, or a list of names.
        pooling: ``"last"``: the last prompt token. ``"response"``: the mean over the tokens of each prompt's fixed
            response. ``"thought"``, ``"answer"``: the mean over the tokens of the response that a reasoning model
            writes inside and outside of its thoughts (:mod:`lens_steer.inference.segments`).
        engine: ``"tl"``: the model itself runs. ``"hf"``: its Hugging Face twin runs, with equal values. A serving
            engine has no activations, so ``"vllm"`` is ``"hf"`` here.
        keep: ``"all"``: every vector is kept. ``"moments"``: only class means are kept, in memory that does not grow
            with the number of prompts (:class:`lens_steer.inference.class_means.Moments`).
        progress: If True, a progress bar is shown.

    Returns:
        :class:`Activations` for ``keep="all"``, :class:`~lens_steer.inference.class_means.Moments` for
            ``keep="moments"``.

    Raises:
        LensSteerError: If a side is empty, a site is unknown, a prompt is longer than the context, a response (or its
            thought or answer, where that is recorded) is missing, or activations are not finite.
    """
    checked_pooling(pooling)
    expect(
        "contrast",
        contrast,
        (ContrastSet, Contrast),
        "prompts of two classes, such as ls.load_contrast(positive=…, negative=…)",
    )
    pair = contrast.fit if isinstance(contrast, ContrastSet) else contrast
    check_sides(pair)
    check_engine(engine)
    info = info_of(model)
    names = _resolve(info, sites)
    if keep not in ("all", "moments"):
        raise LensSteerError(f"keep={keep!r}: use 'all' or 'moments'")
    sides = (pair.positive, pair.negative)
    total = sum(map(len, sides))
    with tqdm(total=total, desc="record", unit="prompt", disable=not progress, leave=False) as bar:
        if keep == "moments":
            return _moments(model, pair, names, pooling, engine, bar)
        beside = _stream_sites(info, names)
        width_of(info, names)
        sums = [Sums(len(beside), info.d_model) for _ in sides]
        positive, negative = (
            record_prompts(model, side, names, pooling=pooling, engine=engine, bar=bar, beside=(beside, kept))
            for side, kept in zip(sides, sums, strict=True)
        )
    means = [kept.means(beside, side.name)[0] for side, kept in zip(sides, sums, strict=True) if beside]
    return Activations(
        names,
        positive,
        negative,
        tuple(p.group for p in pair.positive),
        tuple(p.group for p in pair.negative),
        **recording(info, pair, pooling),
        proof=errors_of(model),
        hashes_positive=pair.positive.hashes,
        hashes_negative=pair.negative.hashes,
        stream=StreamMeans(beside, *means) if beside else None,
    )


def _moments(model: Any, pair: Contrast, names: tuple[str, ...], pooling: Pooling, engine: str, bar: Any) -> Moments:
    """Record the class means at every site, batch by batch."""
    info, means = info_of(model), []
    beside, n = _stream_sites(info, names), len(names)
    everything = (*names, *beside)
    for side in (pair.positive, pair.negative):
        sums = Sums(len(everything), width_of(info, everything))
        stream(model, side, everything, sums.keep, pooling=pooling, engine=engine, bar=bar)
        means.append(sums.means(everything, side.name))
    positive, negative = means
    return Moments(
        names,
        positive[0, :n],
        negative[0, :n],
        positive[1, :n],
        negative[1, :n],
        len(pair.positive),
        len(pair.negative),
        **recording(info, pair, pooling),
        proof=errors_of(model),
        hashes_positive=pair.positive.hashes,
        hashes_negative=pair.negative.hashes,
        stream=StreamMeans(beside, positive[0, n:], negative[0, n:]) if beside else None,
    )


def _stream_sites(info: ModelInfo, names: Sequence[str]) -> tuple[str, ...]:
    """Return every block's input site, if all recorded sites are norm outputs and every block has one.

    If a block has no recorded norm output, or if a recorded site lies in the residual stream, return an empty tuple.
    """
    parsed = [sites.parse(name) for name in names]
    in_stream = any(site.kind in sites.STREAM for site in parsed)
    every_block = {site.block for site in parsed if site.is_norm} == set(range(info.n_layers))
    return _resolve(info, "resid_pre") if every_block and not in_stream else ()


def record_prompts(
    model: Any,
    prompts: PromptSet,
    site_names: Sequence[str],
    *,
    pooling: Pooling = "last",
    engine: str = ENGINE,
    bar: Any = None,
    beside: tuple[Sequence[str], Sums] | None = None,
) -> Float[Tensor, "n_prompts n_sites d_model"]:
    """Record the activations of one prompt set at resolved site names; see :func:`record`.

    ``beside`` gives further sites, and the :class:`~lens_steer.inference.class_means.Sums` to which their activations
    are added; no vector of them is kept.
    """
    out, n = torch.empty(len(prompts), len(site_names), width_of(info_of(model), site_names)), len(site_names)

    def store(rows: Tensor, index: int, values: Tensor) -> None:
        if index < n or beside is None:
            out[rows, index] = values
        else:
            beside[1].keep(rows, index - n, values)

    further = () if beside is None else beside[0]
    stream(model, prompts, (*site_names, *further), store, pooling=pooling, engine=engine, bar=bar)
    _check_finite(out, site_names, prompts.name)
    return out


def stream(
    model: Any,
    prompts: PromptSet,
    site_names: Sequence[str],
    keep: Callable[[Tensor, int, Tensor], None],
    *,
    pooling: Pooling = "last",
    engine: str = ENGINE,
    bar: Any = None,
) -> None:
    """Run prompts and pass the activations of each batch on as soon as they are computed.

    They are passed to ``keep(rows, index of the site, vectors [batch, d_model] in float32)``.
    """
    check_poolable(model, prompts, pooling)
    segments = segments_of(model, pooling)

    def collectors(batch: batching.Batch) -> dict[str, SiteFunction]:
        rows, collect = torch.tensor(batch.rows), partial(_collect, weights=pool_weights(batch, pooling, segments))
        return {name: partial(collect, keep=partial(keep, rows, k)) for k, name in enumerate(site_names)}

    read_sites(model, prompts, collectors, engine=engine, with_response=pooling in FORCED, bar=bar)


def check_sides(pair: Contrast) -> None:
    """Refuse a contrast with an empty side."""
    for name, side in (("positive", pair.positive), ("negative", pair.negative)):
        if not len(side):
            raise LensSteerError(
                f"the contrast's {name} side is empty: recording needs prompts with and without the feature"
            )


def width_of(info: ModelInfo, names: Sequence[str]) -> int:
    """Return the width of the vectors at some sites.

    Raises:
        LensSteerError: If they have different widths, as the logits of a router and the stream have.

    >>> import lens_steer as ls
    >>> width_of(ls.load_model("organism/qwen2").lens_info, ["blocks.0.hook_resid_pre"])
    128
    """
    found = {sites.width_at(site, info.layout, info.d_model): site.name for site in map(sites.parse, names)}
    if len(found) > 1:
        told = ", ".join(f"{name} has {width}" for width, name in found.items())
        raise LensSteerError(f"sites of different widths cannot be recorded together ({told}): record them apart")
    return next(iter(found), info.d_model)


def _resolve(info: ModelInfo, spec: str | Sequence[str]) -> tuple[str, ...]:
    return sites.resolve(spec, info.layout)


def _collect(
    activation: Float[Tensor, "batch pos d_model"],
    hook: Any = None,
    *,
    keep: Callable[[Tensor], None],
    weights: Float[Tensor, "batch pos"] | None,
) -> None:
    """Pass on the last token, or the weighted mean over tokens, in float32; this is a forward hook."""
    if weights is None:
        keep(activation[:, -1].float().cpu())
    else:
        keep(einsum(activation.float().cpu(), weights, "batch pos d_model, batch pos -> batch d_model"))


def _check_finite(recorded: Float[Tensor, "n_prompts n_sites d_model"], names: Sequence[str], source: str) -> None:
    # The check runs in pieces, because the comparison allocates a copy of its input. The results are written into one
    # tensor that exists before the loop: small tensors that stay alive between the pieces would keep the allocator from
    # reusing their memory.
    bad = torch.empty(recorded.shape[:2], dtype=torch.bool)
    for piece, found in zip(recorded.split(256), bad.split(256), strict=True):
        found.copy_(~torch.isfinite(piece).all(dim=-1))
    if bad.any():
        prompt, site = (int(i) for i in bad.nonzero()[0])
        raise LensSteerError(
            f"activations of prompt {prompt} of {source!r} at {names[site]} are not finite "
            f"({int(bad.sum())} of {bad.numel()} vectors): load the model in float32 or bfloat16, and check its weights"
        )
