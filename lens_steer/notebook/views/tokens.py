"""Views by token: a text whose tokens are coloured by a measured value, and the effects of a plan on steered tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lens_steer.metrics.token_divergence import TokenDivergence
from lens_steer.notebook.views import html
from lens_steer.notebook.views.pieces import Page, Table, page_of, table_of
from lens_steer.steer import monitor
from lens_steer.steer.effects import EffectLog
from lens_steer.steer.monitor import Monitor

BELOW, ABOVE, UNKNOWN = (0, 114, 178), (213, 94, 0), (187, 187, 187)  # blue, vermilion (Okabe-Ito), grey
STRONGEST = 0.8  # the most weight of a colour, so that black text on it stays readable
RESPONSES = 5  # the most responses of a divergence that are shown


def colour(distance: float, far: float) -> str:
    """Return a colour from blue at −far over white at 0 to vermilion at far; grey if the distance is not finite.

    >>> colour(0.0, 1.0), colour(float("nan"), 1.0)
    ('#ffffff', '#bbbbbb')
    """
    if not math.isfinite(distance):
        return "#{:02x}{:02x}{:02x}".format(*UNKNOWN)
    weight = STRONGEST * min(1.0, abs(distance) / far)
    return "#{:02x}{:02x}{:02x}".format(*(round(255 + weight * (c - 255)) for c in (BELOW if distance < 0 else ABOVE)))


def token(text: str, distance: float, far: float, hint: str, *, underlined: bool = False) -> str:
    """Return a token in black on its colour, which is readable on light and dark backgrounds.

    The hint appears where the pointer rests on the token.
    """
    line = ";text-decoration:underline" if underlined else ""
    return (
        f"<span style='background:{colour(distance, far)};color:black{line}' "
        f"title='{html.escaped(hint)}'>{html.escaped(text)}</span>"
    )


def swatch(label: str, distance: float, far: float) -> str:
    """Return a label on a colour, for the legend."""
    return f"<span style='background:{colour(distance, far)};color:black'> {html.escaped(label)} </span>"


@table_of.register
def _(seen: Monitor) -> Table:
    """Return one row for each token."""
    return Table.of(seen.rows(), "row", "position")


@page_of.register
def _(seen: Monitor) -> Page:
    prompts = _by_row(seen.rows())
    shown = {
        r: [t for t in p if t["region"] == "generated"] or p for r, p in list(prompts.items())[: monitor.MAX_SHOWN]
    }
    m = seen.boundary.threshold
    finite = (abs(t["projection"] - m) for p in shown.values() for t in p if math.isfinite(t["projection"]))
    far = max(finite, default=0.0) or 1.0
    texts = _texts({row: _projected(tokens, m, far) for row, tokens in shown.items()}, len(prompts), "prompts")
    ends = [swatch(f"{m + sign * far:.3g}", sign * far, far) for sign in (-1, 1)]
    legend = (
        f"<div><small>projection: {ends[0]} {swatch(f'white at the threshold {m:.4g}', 0.0, far)} {ends[1]}; "
        "underlined: the gate fires</small></div>"
    )
    return Page(repr(seen), {}, (texts, legend if shown else ""))


def _by_row(tokens: Sequence[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for read in tokens:
        found.setdefault(read["row"], []).append(read)
    return found


def _texts(texts: Mapping[int, str], n: int, what: str) -> str:
    """Return texts beside their row numbers, one on each line, and how many of ``n`` are left out."""
    more = html.note(f"… and {n - len(texts)} more {what}") if n > len(texts) else ""
    lines = "".join(f"<div>{row}: {text}</div>" for row, text in texts.items())
    return f'<div style="white-space:pre-wrap">{lines}{more}</div>'


def _projected(tokens: Sequence[dict[str, Any]], threshold: float, far: float) -> str:
    """Return the text of the tokens on their colours.

    Where positions are not consecutive, as between two answers of a dialogue, an ellipsis stands for the tokens left
    out.
    """
    parts = []
    for i, read in enumerate(tokens):
        if i and read["position"] != tokens[i - 1]["position"] + 1:
            parts.append(" … ")
        projection = read["projection"]
        parts.append(token(read["token"], projection - threshold, far, f"{projection:.4g}", underlined=read["fired"]))
    return "".join(parts)


@table_of.register
def _(found: TokenDivergence) -> Table:
    """Return one row for each token of a response."""
    return Table.of(found.rows(), "row", "position")


@page_of.register
def _(found: TokenDivergence) -> Page:
    responses = _by_row(found.rows())
    shown = dict(list(responses.items())[:RESPONSES])
    far = max((t["kl"] for r in shown.values() for t in r), default=0.0) or 1.0
    coloured = {
        row: "".join(token(t["token"], t["kl"], far, f"{t['kl']:.3g} nats") for t in tokens)
        for row, tokens in shown.items()
    }
    legend = (
        f"<div><small>KL of the steered from the original model: {swatch('0', 0.0, far)} "
        f"{swatch(f'{far:.3g} nats', far, far)}</small></div>"
    )
    facts = {
        "mean KL (nats a token)": float(found.kl.mean()),
        "KL of the first token": found.by_position("kl", max_position=0)[0],
        "mean total variation": float(found.total_variation.mean()),
        "responses": f"{found.n_prompts}, {found.n_empty} of them empty",
        "tokens": len(found),
    }
    return Page(repr(found), facts, (_texts(coloured, len(responses), "responses"), legend))


@table_of.register
def _(log: EffectLog) -> Table:
    """Return one row for each site.

    The columns are the number of steered tokens, the share of them for which the gate fired, and means of the
    displacement, of its radial and angular parts, and of the length before steering.
    """
    return Table.of(log.rows(), "site")


@page_of.register
def _(log: EffectLog) -> Page:
    rows = log.rows()
    shown = [rows[k] for k in html.spread(len(rows))]
    grid = html.depth(shown, len(rows), what="site was steered")
    return Page(repr(log), {"gate-fire rate": log.gate_fire_rate}, (grid,))
