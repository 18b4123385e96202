"""Figure of a probe's boundary in a plane, with the tokens that StMP and StTP move across it (arXiv 2604.08169)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.figures.core import (
    BLACK,
    GREEN,
    GREY,
    NEGATIVE,
    POSITIVE,
    PURPLE,
    TWO_COLUMNS,
    Drawing,
    Drawn,
    Target,
    canvas,
    figure,
)
from lens_steer.figures.probe_tokens import view
from lens_steer.figures.probes import POOLINGS, site_label
from lens_steer.inference.record import Activations
from lens_steer.operators.projection import mirror_projection, past_threshold, target_projection
from lens_steer.probes.probe import Probe
from lens_steer.stats.estimates import percent
from lens_steer.steer.methods.projections import CAP_IN_SIGMAS

CLASSES = {"positive": (POSITIVE, "o"), "negative": (NEGATIVE, "x")}
MOVES = {"StMP": (GREEN, "^", "after StMP, α = 1"), "StTP": (PURPLE, "s", "after StTP, α = 0")}
MAX_MOVED, MAX_DOTS = 60, 250  # the most tokens that are drawn: moved ones, and of each class


def boundary_plane_drawing(probe: Probe, fit: Activations, tokens: Activations, *, seed: int = 0) -> Drawing:
    """Build the data of :func:`boundary_plane`.

    There is one row for each token that is drawn (``part`` is ``token``), and one for each moved token and operator,
    with the token's earlier place. The x axis is ``v̂·h``. The y axis is the first principal component of the samples
    of ``fit``, both classes together, after their part along v̂ is removed.

    Args:
        probe: The probe whose boundary is drawn.
        fit: The samples that the probe was fitted on.
        tokens: Single held-out tokens, at least at the probe's site.
        seed: The seed of the draw of tokens that are shown.

    Raises:
        LensSteerError: If the probe's site was not recorded, or if the samples lie on one line.
    """
    samples = torch.cat(fit.at(probe.site))
    axis, shares = _second_axis(probe, samples)
    seen = {"x": [np.array([probe.threshold, probe.mean_positive])], "y": []}
    for side in fit.at(probe.site):
        for k, values in (("x", probe.project(side)), ("y", side @ axis)):
            seen[k].append(values.numpy())
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    gated: list[Tensor] = []
    counts: dict[str, int] = {}
    for side, found in zip(CLASSES, tokens.at(probe.site), strict=True):
        fires = past_threshold(found, probe.direction, threshold=probe.threshold)
        counts |= {f"n_{side}": len(found), f"gated_{side}": int(fires.sum())}
        drawn = found[np.sort(rng.permutation(len(found))[:MAX_DOTS])]
        rows += [{"part": "token", "class": side} | place for place in _places(probe, axis, drawn)]
        gated.append(drawn[past_threshold(drawn, probe.direction, threshold=probe.threshold)])
    before = torch.cat(gated)
    side_of = np.repeat(list(CLASSES), [len(g) for g in gated])
    chosen = np.sort(rng.permutation(len(before))[:MAX_MOVED])
    before = before[chosen]
    m, v, top = probe.threshold, probe.direction, probe.mean_positive
    moved = {
        "StMP": mirror_projection(before, v, threshold=m, cap=top + CAP_IN_SIGMAS * probe.std_positive),
        "StTP": target_projection(before, v, threshold=m, target=top),
    }
    for name, after in moved.items():
        for side, was, now in zip(
            side_of[chosen], _places(probe, axis, before), _places(probe, axis, after), strict=True
        ):
            rows.append({"part": name, "class": str(side)} | now | {"from_x": was["x"], "from_y": was["y"]})
    for k, values in seen.items():
        found = [[float(r[k]) for r in rows if r["part"] == part] for part in ("token", *MOVES)]
        values += [np.array(one) for one in found if one]
    views = {k: view(values) for k, values in seen.items()}
    far = [r for r in rows if r["part"] == "token" and not all(views[k][0] <= r[k] <= views[k][1] for k in views)]
    notes = {
        "model": probe.model,
        "site": probe.site,
        "pooling": probe.pooling,
        "tokens": tokens.pooling,
        "threshold": m,
        "view": views,
        "mu_positive": top,
        "share_x": shares[0],
        "share_y": shares[1],
        "n_drawn": sum(r["part"] == "token" for r in rows),
        "n_moved": len(before),
        "out_of_view": len(far),
        **counts,
    }
    return Drawing.of("boundary_plane", rows, notes, names=("part", "class", "x", "y", "from_x", "from_y"))


def _second_axis(
    probe: Probe, samples: Float[Tensor, "n d_model"]
) -> tuple[Float[Tensor, " d_model"], tuple[float, float]]:
    """Return the plane's second axis, and the share of the samples' variance along the first and the second.

    Raises:
        LensSteerError: If the samples lie on one line.
    """
    unit = probe.direction.double()
    centred = samples.double() - samples.double().mean(dim=0)
    along = centred @ unit
    rest = centred - along[:, None] * unit
    _, singular, right = torch.linalg.svd(rest, full_matrices=False)
    total = float(centred.square().sum())
    if not float(singular[0]) > 0:
        raise LensSteerError(
            f"the samples at {probe.site} lie on one line: there is no second axis to draw; record more prompts"
        )
    axis = right[0] * torch.sign(right[0][right[0].abs().argmax()])
    return axis.float(), (float(along.square().sum()) / total, float(singular[0].square()) / total)


def _places(probe: Probe, axis: Float[Tensor, " d_model"], h: Float[Tensor, "n d_model"]) -> list[dict[str, float]]:
    return [{"x": a, "y": b} for a, b in zip(probe.project(h).tolist(), (h @ axis).tolist(), strict=True)]


@figure
def boundary_plane(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw held-out tokens of both classes, the boundary, and the places to which StMP and StTP move gated tokens.

    The left panel shows StMP, the right one StTP.
    """
    notes = drawing.notes
    fig, axes, legend = canvas(ax, 1, 2, figsize=(TWO_COLUMNS, 3.2), sharex=True, sharey=True)
    for axis, (name, (color, marker, _)) in zip(axes, MOVES.items(), strict=True):
        moved = [(r["from_x"], r["from_y"], r["x"], r["y"]) for r in drawing.rows() if r["part"] == name]
        for a, b, c, d in moved:
            axis.plot([a, c], [b, d], color=color, lw=0.35, alpha=0.6, zorder=1)  # type: ignore[list-item]
        for side, (own, dot) in CLASSES.items():
            part = drawing.where(part="token", **{"class": side})
            axis.plot(part["x"], part["y"], color=own, marker=dot, ls="", ms=2.2, mew=0.5, alpha=0.55, zorder=2)
        look = {"color": color, "marker": marker, "mfc": "none", "ls": "", "ms": 3.2, "mew": 0.6, "zorder": 3}
        axis.plot([m[2] for m in moved], [m[3] for m in moved], **look)
        axis.set_title(MOVES[name][2].removeprefix("after "))
        axis.axvline(notes["threshold"], color=BLACK, lw=0.9)
        axis.axvline(notes["mu_positive"], color=GREY, lw=0.9, ls=(0, (1, 1.5)))
        axis.set(xlim=notes["view"]["x"], ylim=notes["view"]["y"])
        axis.set_xlabel(f"along the probe's normal ({percent(notes['share_x'], form='.1f')} %)")
    axes[0].set_ylabel(f"first component of the rest ({percent(notes['share_y'], form='.1f')} %)")
    handles = [
        axes[0].plot([], [], color=color, marker=dot, ls="", ms=4, label=_gate(notes, side))[0]
        for side, (color, dot) in CLASSES.items()
    ]
    handles += [
        axes[0].plot([], [], color=color, marker=marker, mfc="none", ls="-", lw=0.5, ms=4, label=label)[0]
        for color, marker, label in MOVES.values()
    ]
    handles += [
        axes[0].plot([], [], color=BLACK, lw=0.9, label="boundary m")[0],
        axes[0].plot([], [], color=GREY, lw=0.9, ls=(0, (1, 1.5)), label="μ⁺ (fit)")[0],
    ]
    how = {"loc": "outside lower center", "ncols": 3, "columnspacing": 1.6, "title_fontsize": 7}
    made = legend(handles=handles, title=_counts(notes), **how)
    made.get_title().set_multialignment("center")
    return fig, list(axes)


def _counts(notes: Any) -> str:
    what = "responses" if notes["tokens"] == "token" else "prompts"
    text = (
        f"{site_label(notes['site'])}; tokens of held-out {what}, {notes['n_drawn']} of them drawn, "
        f"{notes['n_moved']} of the gated ones moved"
    )
    if notes["out_of_view"]:
        text += f", {notes['out_of_view']} out of view"
    return f"{text}\npercentages: share of the variance of the samples fitted on ({POOLINGS[notes['pooling']]})"


def _gate(notes: Any, side: str) -> str:
    return f"{side}: {notes[f'gated_{side}']} of {notes[f'n_{side}']} tokens below m"
