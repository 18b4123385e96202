"""The angle of Selective Steering: the largest effect on select among those within a budget of side effects, one turn.

The *effect* is the mean fall of the refusal score of harmful prompts. The *side effect* is the mean divergence
``KL(unsteered ‖ steered)`` along the unsteered model's own answers to harmless prompts, in nats a token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lens_steer._defaults import ENGINE
from lens_steer._io.rowstore import Row, RowStore
from lens_steer.data import Contrast
from lens_steer.evaluation.budgeted import within
from lens_steer.evaluation.grids import Grid, plan_hash
from lens_steer.evaluation.sweep_protocol import NEGATIVE, POSITIVE
from lens_steer.metrics.kl import mean_kl_by_value
from lens_steer.metrics.refusal_score import refusal_scores_by_value

COLUMNS = ("side", "prompt", "value", "measured")


@dataclass(frozen=True, eq=False)
class Curve:
    """What steering does to each prompt of the select split, at each angle.

    Attributes:
        values: The angles in degrees.
        falls: The fall of the refusal score of each harmful prompt.
        kl: The divergence of each harmless prompt, in nats a token; NaN for an empty answer.
    """

    values: tuple[float, ...]
    falls: Float[np.ndarray, "n_harmful values"]
    kl: Float[np.ndarray, "n_harmless values"]

    @property
    def effect(self) -> Float[np.ndarray, " values"]:
        """Return the mean fall of the refusal score at each angle."""
        return self.falls.mean(axis=0)

    @property
    def cost(self) -> Float[np.ndarray, " values"]:
        """Return the mean divergence at each angle."""
        return np.nanmean(self.kl, axis=0)

    def within(self, budget: float) -> float | None:
        """Return the angle under a budget (:func:`lens_steer.evaluation.budgeted.within`); None where there is none.

        >>> curve = Curve((90.0, 180.0), np.array([[1.0, 4.0]]), np.array([[0.1, 0.4]]))
        >>> curve.within(0.2), curve.within(0.5), curve.within(0.05)
        (90.0, 180.0, None)
        """
        at = within(self.effect, self.cost, budget)
        return None if at is None else self.values[at]


def curve(
    model: Any,
    grid: Grid,
    contrast: Contrast,
    responses: Sequence[str],
    out: str | Path,
    *,
    openings: Sequence[str] | None = None,
    engine: str = ENGINE,
    identity: dict[str, Any] | None = None,
    progress: bool = True,
) -> Curve:
    """Measure a grid of angles on single turns; an interrupted run goes on.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        grid: The method with its angles.
        contrast: The prompts of the select split.
        responses: The unsteered model's answer to each harmless prompt.
        out: The folder of the rows, ``curve_select.csv``.
        openings: See :func:`lens_steer.metrics.refusal_score.refusal_tokens`.
        engine, identity, progress: See :func:`lens_steer.evaluation.sweeps.run`.
    """
    assert grid.build is not None
    build, values = grid.build, tuple(float(v) for v in grid.values if v is not None)
    store = RowStore(
        out,
        "curve_select",
        COLUMNS,
        ("side",),
        {
            **(identity or {}),
            "plan": plan_hash(grid),
            "values": list(values),
            "prompts": [contrast.positive.hash, contrast.negative.hash],
            "responses": hashlib.sha256(repr(list(responses)).encode()).hexdigest(),
            "openings": None if openings is None else list(openings),
        },
    )

    def rows(side: str, table: Float[np.ndarray, "n values"]) -> list[Row]:
        return [
            {"side": side, "prompt": i, "value": v, "measured": None if np.isnan(x) else float(x)}
            for i, row in enumerate(table)
            for v, x in zip(values, row, strict=True)
        ]

    def harmful() -> list[Row]:
        plain, steered = refusal_scores_by_value(
            model, build, values, contrast.positive, openings=openings, engine=engine
        )
        return rows(POSITIVE, plain[:, None] - steered)

    def harmless() -> list[Row]:
        return rows(NEGATIVE, mean_kl_by_value(model, build, values, contrast.negative, responses, engine=engine))

    found = store.run({POSITIVE: harmful, NEGATIVE: harmless}, progress=progress)

    def table(side: str) -> Float[np.ndarray, "n values"]:
        measured = [np.nan if r["measured"] is None else float(r["measured"]) for r in found if r["side"] == side]
        return np.array(measured).reshape(-1, len(values))

    return Curve(values, table(POSITIVE), table(NEGATIVE))
