"""Equal divergence: every method of a comparison at the divergence that the reference has at its choice.

The curves and the matches are kept in files, so a run can be resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lens_steer._io.rowstore import Row, RowStore
from lens_steer.data import ContrastSet
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.equal_divergence import Curve, Match, curve, match
from lens_steer.evaluation.grids import Grid, plan_hash
from lens_steer.evaluation.selection import Setting
from lens_steer.evaluation.sweep_protocol import NEGATIVE
from lens_steer.inference.teacher_forcing import with_responses

REFERENCE = "selective"  # every other condition of a comparison is compared with this one


def match_divergence(
    model: Any,
    contrast: ContrastSet,
    grids: Sequence[Grid],
    select: Sequence[Setting],
    choices: Mapping[str, Any],
    rows: Sequence[Row],
    out: str | Path,
    identity: dict[str, Any],
    engine: str,
    progress: bool,
    *,
    tied: bool = False,
) -> tuple[list[Curve], float, dict[str, Match]]:
    """Measure every method's divergence on the select split's harmless prompts, and match that of the reference.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        contrast: The contrast of the comparison.
        grids: The grids of the methods; those without values have no curve.
        select, choices: The settings on the select split, and each condition's choice.
        rows: The rows of the select split, with the unsteered answers along which the divergence is measured.
        out, identity, engine, progress: See :func:`lens_steer.evaluation.sweeps.run`; curves and matches are kept in
            ``kl.csv`` and ``matches.csv``.
        tied: Whether the reference's choice is a tie at nothing, from which no divergence is taken.

    Returns:
        The curves, the divergence that is matched (nats per token), and the match of each condition. There is no match
        where the reference's choice changes nothing, or is a tie at nothing (the divergence is then 0).
    """
    prompts = contrast.select.negative
    answers = {int(r["prompt"]): str(r["text"]) for r in rows if r["condition"] == NONE and r["side"] == NEGATIVE}
    responses = [answers[i] for i in range(len(prompts))]
    swept = [g for g in grids if None not in g.values]
    store = RowStore(
        out,
        "kl",
        ("condition", "variant", "value", "kl"),
        ("condition", "variant"),
        {
            **identity,
            "responses": with_responses(prompts, responses).hash,
            "grids": {g.name: [list(g.values), plan_hash(g)] for g in swept},
        },
    )

    def part(grid: Grid) -> list[Row]:
        found = curve(model, grid, prompts, responses, engine=engine)
        return [
            {"condition": grid.condition, "variant": grid.variant, "value": v, "kl": kl}
            for v, kl in zip(found.values, found.kl, strict=True)
        ]

    kl_rows = store.run({f"{i:03}": lambda g=g: part(g) for i, g in enumerate(swept)}, progress=progress)
    curves = []
    for g in swept:
        mine = [r for r in kl_rows if (r["condition"], r["variant"]) == (g.condition, g.variant)]
        curves.append(Curve(g, tuple(float(r["value"]) for r in mine), tuple(float(r["kl"]) for r in mine)))
    if tied:
        return curves, 0.0, {}
    chosen = choices[REFERENCE]
    own = next(c for c in curves if c.grid.condition == REFERENCE)
    target = dict(zip(own.values, own.kl, strict=True))[float(chosen.value)]
    if target <= 0:
        return curves, target, {}

    def matched(condition: str) -> list[Row]:
        found = [
            m
            for c in curves
            if c.grid.condition == condition
            for m in match(model, c, target, prompts, responses, engine=engine)
        ]
        best = _best(found, select)
        grid = best.grid
        return [
            {
                "condition": condition,
                "variant": "" if grid is None else grid.variant,
                "value": None if grid is None else grid.values[0],
                "kl": best.kl,
                "reason": best.reason,
            }
        ]

    conditions = dict.fromkeys(c.grid.condition for c in curves if c.grid.condition != REFERENCE)
    kept = RowStore(
        out,
        "matches",
        ("condition", "variant", "value", "kl", "reason"),
        ("condition", "variant", "reason"),
        {**identity, "target": target, "curves": [[c.grid.name, list(c.kl)] for c in curves]},
    )
    matches: dict[str, Match] = {}
    for row in kept.run({f"{i:03}": lambda c=c: matched(c) for i, c in enumerate(conditions)}, progress=progress):
        grid = next((g for g in swept if (g.condition, g.variant) == (row["condition"], row["variant"])), None)
        matches[row["condition"]] = Match(
            None if grid is None or row["value"] is None else grid.at(row["value"]), row["kl"], row["reason"]
        )
    return curves, target, matches


def _best(found: Sequence[Match], select: Sequence[Setting]) -> Match:
    """Return the match that lies next to the setting with the most compliance on select.

    If there is no match at all, return one of the reasons.
    """
    met = [m for m in found if m.grid is not None]
    if not met:
        return max(found, key=lambda m: len(m.reason))

    def nearby(m: Match) -> float:
        assert m.grid is not None
        value = float(m.grid.values[0] or 0.0)
        same = [
            s for s in select if (s.condition, s.variant) == (m.grid.condition, m.grid.variant) and s.value is not None
        ]
        turns = m.grid.turns
        return min(same, key=lambda s: _apart(float(s.value or 0.0), value, turns)).measured["positive_right"].value

    return max(met, key=nearby)


def _apart(a: float, b: float, turns: bool) -> float:
    """Return the distance of two values, of angles around the circle.

    >>> _apart(350.0, 10.0, True), _apart(350.0, 10.0, False)
    (20.0, 340.0)
    """
    straight = abs(a - b)
    return min(straight % 360, -straight % 360) if turns else straight
