"""Views of recorded activations: their number, their sites, and the length of the vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.geometry.calibration import PromptStatistics
from lens_steer.inference.class_means import Moments
from lens_steer.inference.record import Activations
from lens_steer.notebook.views import html
from lens_steer.notebook.views.pieces import Page, Table, page_of, table_of

POOLED = {
    "last": "the last prompt token", "response": "the mean over a response's tokens",
    "thought": "the mean over a thought's tokens", "answer": "the mean over an answer's tokens, thoughts apart",
    "token": "one token of a response", "prompt token": "one token of a prompt",
    "thought token": "one token of a thought", "answer token": "one token of an answer, thoughts apart",
}  # fmt: skip


@table_of.register
def _(acts: Activations) -> Table:
    """Return one row for each prompt (or token) and site, by class, with one float32 column for each dimension."""
    row = "token" if acts.pooling.endswith("token") else "prompt"
    counts, n_sites = [acts.n_positive, acts.n_negative], len(acts.sites)
    columns = {
        "class": np.repeat(["positive", "negative"], [n * n_sites for n in counts]),
        row: np.concatenate([np.repeat(np.arange(n), n_sites) for n in counts]),
        "site": np.tile(np.asarray(acts.sites), sum(counts)),
    }
    vectors = torch.cat([acts.positive.flatten(end_dim=1), acts.negative.flatten(end_dim=1)])
    return Table(columns, tuple(columns), vectors.numpy())


@page_of.register
def _(acts: Activations) -> Page:
    shown = html.spread(len(acts.sites))
    rows = [_lengths(acts.sites[k], acts.positive[:, k].double(), acts.negative[:, k].double()) for k in shown]
    dtype = str(acts.positive.dtype).removeprefix("torch.")
    facts = {
        "one vector is": f"{POOLED.get(acts.pooling, acts.pooling)}, d_model {acts.d_model}, {dtype}",
        "positive": acts.n_positive,
        "negative": acts.n_negative,
        "sites": _range(acts.sites),
        "prompts": f"{acts.prompt_hash[:12]}…",
    }
    told = html.note("mean length, and how far apart the class means are:")
    return Page(repr(acts), facts, (told, html.depth(rows, len(acts.sites))))


def _lengths(
    site: str, positive: Float[Tensor, "n_positive d_model"], negative: Float[Tensor, "n_negative d_model"]
) -> dict[str, Any]:
    apart = (positive.mean(dim=0) - negative.mean(dim=0)).norm()
    length = [float(x.norm(dim=-1).mean()) for x in (positive, negative)]
    return {
        "site": site,
        "length, positive": length[0],
        "length, negative": length[1],
        "distance of means": float(apart),
    }


@table_of.register
def _(moments: Moments) -> Table:
    """Return one row for each mean (of raw or of unit vectors), class and site: a float64 column for each dimension."""
    kinds = {
        ("raw", "positive"): moments.mean_positive,
        ("raw", "negative"): moments.mean_negative,
        ("unit", "positive"): moments.unit_mean_positive,
        ("unit", "negative"): moments.unit_mean_negative,
    }
    n = len(moments.sites)
    columns = {
        "mean_of": [k for k, _ in kinds for _ in range(n)],
        "class": [c for _, c in kinds for _ in range(n)],
        "site": list(moments.sites) * len(kinds),
    }
    return Table(columns, tuple(columns), torch.cat(list(kinds.values())).numpy())


@page_of.register
def _(moments: Moments) -> Page:
    rows = [
        {
            "site": moments.sites[k],
            "length of mean, positive": float(moments.mean_positive[k].norm()),
            "length of mean, negative": float(moments.mean_negative[k].norm()),
            "distance of means": float((moments.mean_positive[k] - moments.mean_negative[k]).norm()),
        }
        for k in html.spread(len(moments.sites))
    ]
    facts = {
        "a mean is over": POOLED.get(moments.pooling, moments.pooling),
        "sites": _range(moments.sites),
        "prompts": f"{moments.prompt_hash[:12]}…",
    }
    return Page(repr(moments), facts, (html.depth(rows, len(moments.sites)),))


@table_of.register
def _(found: PromptStatistics) -> Table:
    """Return one row for each prompt and site, by class; sites are numbered from 0 in network order."""
    columns: dict[str, list[Any]] = {name: [] for name in ("class", "prompt", "site_row", "projection", "norm")}
    for side in ("positive", "negative"):
        projection, norm = getattr(found, f"projection_{side}"), getattr(found, f"norm_{side}")
        prompts, n_sites = projection.shape
        columns["class"] += [side] * (prompts * n_sites)
        columns["prompt"] += np.repeat(np.arange(prompts), n_sites).tolist()
        columns["site_row"] += np.tile(np.arange(n_sites), prompts).tolist()
        columns["projection"] += projection.flatten().tolist()
        columns["norm"] += norm.flatten().tolist()
    return Table(columns, ("class", "prompt", "site_row"))


def _range(sites: Sequence[str]) -> str:
    return f"{len(sites)}: {sites[0]} … {sites[-1]}" if len(sites) > 2 else ", ".join(sites)
