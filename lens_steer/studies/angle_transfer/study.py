"""The study: steering that was set on prompts of one source is tried on prompts of another.

Selective Steering has three parts that come from prompts: direction and plane, the sites, and the angle. Each source
has a calibration of its own. An angle is chosen on *select* prompts: the one of the largest fall of the refusal score
among those whose KL along the model's own answers to harmless prompts keeps to a budget. On the *report* prompts of
every source three settings then stand side by side, each from single forward passes:

- all three parts from another source, as somebody steers who found them there;
- that source's direction and sites, and the angle chosen again on prompts of the source itself;
- all three from the source itself.

The null is the same turn, at the same sites, in random planes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer._io.rowstore import Row, RowStore
from lens_steer.data import ContrastSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.budgeted import ANGLES, BUDGET, check_angles, within
from lens_steer.evaluation.pieces import kept_calibration
from lens_steer.evaluation.protocol import check_splits
from lens_steer.geometry.calibration import Calibration, calibrate
from lens_steer.inference.record_sides import record_sides
from lens_steer.models.loading import info_of
from lens_steer.stats.clusters import Clusters
from lens_steer.studies.angle_transfer.asked import COLUMNS, Asked

DRAWS = 19  # random planes; fewer cannot be beaten at p = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class Turned:
    """What steering that was set on ``fitted`` does on the report prompts of ``on``.

    Attributes:
        fitted, on: The names of the two sources.
        angle: The angle chosen on select prompts of ``fitted``; None where none has an effect within the budget.
        again: The angle chosen on select prompts of ``on``, with the direction, plane and sites of ``fitted``.
        falls: The fall of each harmful prompt's refusal score at ``angle``, in nats; 0 without an angle.
        falls_again: The same at ``again``.
        falls_own: The same under the steering that was set on ``on`` itself.
        clusters: The groups of these prompts.
        left_out: Prompts that are left out because the steering was set on them, too.
    """

    fitted: str
    on: str
    angle: float | None
    again: float | None
    falls: Float[np.ndarray, " n"]
    falls_again: Float[np.ndarray, " n"]
    falls_own: Float[np.ndarray, " n"]
    clusters: Clusters
    left_out: int


@dataclass(frozen=True, eq=False)
class AngleTransfer:
    """The results of the study.

    Attributes:
        model: The name of the model.
        budget: The budget of the side effect, in nats a token.
        sites: The number of discriminative sites of each source.
        costs: The KL on each source's own harmless report prompts at its own angle; None without one.
        turned: One entry a pair of sources, a source with itself included.
        random: For each source the falls of its own report prompts in random planes, at its sites and its angle; no
            draws without an angle.
    """

    model: str
    budget: float
    sites: Mapping[str, int]
    costs: Mapping[str, float | None]
    turned: tuple[Turned, ...]
    random: Mapping[str, Float[np.ndarray, "draws n"]]

    def pair(self, fitted: str, on: str) -> Turned:
        """Return the entry of two sources."""
        return next(t for t in self.turned if (t.fitted, t.on) == (fitted, on))


def angle_transfer(
    model: Any,
    sources: Mapping[str, ContrastSet],
    out: str | Path,
    *,
    values: Sequence[float] = ANGLES,
    budget: float = BUDGET,
    draws: int = DRAWS,
    openings: Sequence[str] | None = None,
    seed: int = 0,
    engine: str = ENGINE,
    max_new_tokens: int = 48,
    progress: bool = True,
) -> AngleTransfer:
    """Calibrate on every source, choose an angle, and steer the prompts of every source; an interrupted run goes on.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        sources: The contrasts by name, each with fit, select and report prompts of both classes.
        out: The folder of the rows and of the calibrations.
        values: The angles in degrees.
        budget: The largest mean KL on harmless select prompts, in nats a token.
        draws: The number of random planes of each source.
        openings: See :func:`lens_steer.metrics.refusal_score.refusal_tokens`.
        seed: The seed of the calibrations and of the random planes.
        engine, max_new_tokens: See :func:`lens_steer.generate`.
        progress: Whether to show bars.

    Raises:
        LensSteerError: If there are fewer than two sources, one lacks prompts, the budget is not above 0, there is no
            angle that turns anything, ``draws`` is below 1, or the folder holds another run.
    """
    angles = check(sources, values, budget, draws)
    recorded: dict[str, Tensor] = {}
    calibrations = {
        name: _calibrated(model, of, Path(out) / "calibrations" / name, recorded, seed, engine)
        for name, of in sources.items()
    }
    how: dict[str, Any] = {"openings": openings, "engine": engine}
    asked = Asked(model, sources, calibrations, how, max_new_tokens)
    identity = {
        "sources": {name: of.hashes for name, of in sources.items()},
        "bases": {name: c.basis.tolist() for name, c in calibrations.items()},
        "sites": {name: list(c.discriminative_sites) for name, c in calibrations.items()},
        "openings": None if openings is None else list(openings),
        "max_new_tokens": max_new_tokens,
        "engine": engine,
    }
    texts = ("fitted", "on")
    stored = RowStore(out, "select", COLUMNS, texts, identity | {"values": list(angles)})
    rows = stored.run({name: partial(asked.select, name, angles) for name in sources}, progress=progress)
    chosen = {(a, b): _within(rows, a, b, angles, budget) for a in sources for b in sources}
    told = {f"{a} on {b}": angle for (a, b), angle in chosen.items()}
    stored = RowStore(out, "report", COLUMNS, texts, identity | {"angles": told, "draws": draws, "seed": seed})
    parts = {name: partial(asked.report, name, chosen, draws, seed) for name in sources}
    rows = stored.run(parts, progress=progress)
    return AngleTransfer(
        info_of(model).name,
        budget,
        {name: len(c.discriminative_sites) for name, c in calibrations.items()},
        {name: None if (a := chosen[name, name]) is None else _mean_kl(rows, name, name, a) for name in sources},
        tuple(_turned(rows, sources, a, b, chosen) for a in sources for b in sources),
        {name: _in_random_planes(rows, name, chosen[name, name], draws) for name in sources},
    )


def check(sources: Mapping[str, ContrastSet], values: Sequence[float], budget: float, draws: int) -> tuple[float, ...]:
    """Return the angles at which something is turned; refuse sources and numbers with which nothing can be compared.

    Raises:
        LensSteerError: See :func:`angle_transfer`.
    """
    if len(sources) < 2:
        raise LensSteerError(f"sources holds {len(sources)}: give at least two contrasts, by name")
    for name, of in sources.items():
        try:
            check_splits(of)
        except LensSteerError as error:
            raise LensSteerError(f"source {name!r}: {error}") from None
    for a, b in product(sources, sources):
        if not _unseen(sources[a], sources[b]).any():
            raise LensSteerError(
                f"the steering of source {a!r} is set on every report prompt of {b!r}: drop one of them"
            )
    if draws < 1:
        raise LensSteerError(f"draws={draws}: give at least 1 random plane")
    return check_angles(values, budget)


def _calibrated(
    model: Any, of: ContrastSet, folder: Path, recorded: dict[str, Tensor], seed: int, engine: str
) -> Calibration:
    activations = record_sides(model, of.fit, recorded, engine=engine)
    return kept_calibration(folder, activations, lambda: calibrate(activations, seed=seed), seed=seed)


def _scores(rows: Sequence[Row], fitted: str, on: str, angle: float | None, draw: int = 0) -> Float[np.ndarray, " n"]:
    """Return the refusal score of each harmful prompt at an angle; without steering for None."""
    found = {
        int(r["prompt"]): float(r["score"])
        for r in rows
        if (r["fitted"], r["on"], r["value"], r["draw"]) == (fitted, on, angle, draw) and r["score"] is not None
    }
    return np.array([found[i] for i in sorted(found)])


def _falls(rows: Sequence[Row], fitted: str, on: str, angle: float, draw: int = 0) -> Float[np.ndarray, " n"]:
    return _scores(rows, fitted, on, None, draw) - _scores(rows, fitted, on, angle, draw)


def _mean_kl(rows: Sequence[Row], fitted: str, on: str, angle: float) -> float:
    """Return the mean KL of harmless prompts at an angle."""
    own = (fitted, on, angle)
    return float(np.mean([r["kl"] for r in rows if (r["fitted"], r["on"], r["value"]) == own and r["kl"] is not None]))


def _within(rows: Sequence[Row], fitted: str, on: str, angles: Sequence[float], budget: float) -> float | None:
    """Return the angle under the budget (:func:`lens_steer.evaluation.budgeted.within`); None without one."""
    own = [r for r in rows if (r["fitted"], r["on"]) == (fitted, on)]
    if not own:  # the source has no site
        return None
    effect = np.array([_falls(own, fitted, on, a).mean() for a in angles])
    at = within(effect, np.array([_mean_kl(own, fitted, on, a) for a in angles]), budget)
    return None if at is None else angles[at]


def _unseen(fitted: ContrastSet, on: ContrastSet) -> Bool[np.ndarray, " n"]:
    """Return which harmful report prompts the steering was not set on."""
    seen = {*fitted.fit.positive.hashes, *fitted.select.positive.hashes}
    return np.array([h not in seen for h in on.report.positive.hashes])


def _turned(
    rows: Sequence[Row],
    sources: Mapping[str, ContrastSet],
    fitted: str,
    on: str,
    chosen: Mapping[tuple[str, str], float | None],
) -> Turned:
    unseen, prompts = _unseen(sources[fitted], sources[on]), sources[on].report.positive
    settings = ((fitted, chosen[fitted, fitted]), (fitted, chosen[fitted, on]), (on, chosen[on, on]))
    falls = [np.zeros(len(unseen)) if a is None else _falls(rows, source, on, a) for source, a in settings]
    return Turned(
        fitted=fitted,
        on=on,
        angle=settings[0][1],
        again=settings[1][1],
        falls=falls[0][unseen],
        falls_again=falls[1][unseen],
        falls_own=falls[2][unseen],
        clusters=[p.group for p, kept in zip(prompts, unseen, strict=True) if kept],
        left_out=int((~unseen).sum()),
    )


def _in_random_planes(rows: Sequence[Row], name: str, angle: float | None, draws: int) -> Float[np.ndarray, "draws n"]:
    made = [] if angle is None else [_falls(rows, name, name, angle, draw) for draw in range(1, draws + 1)]
    return np.stack(made) if made else np.zeros((0, 0))
