"""The measurements of the study, as rows: refusal scores of harmful prompts, and the KL of harmless ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from lens_steer._io.rowstore import Row
from lens_steer.data import ContrastSet, PromptSet
from lens_steer.evaluation.conditions import plan_at_value
from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.planes import random_plane
from lens_steer.inference.generation import answers
from lens_steer.metrics.kl import mean_kl_by_value
from lens_steer.metrics.refusal_score import refusal_scores_by_value

COLUMNS = ("fitted", "on", "value", "draw", "prompt", "score", "kl")


@dataclass(frozen=True, eq=False)
class Asked:
    """The measurements, and what they are made with.

    Attributes:
        model: The model.
        sources, calibrations: The contrasts and their calibrations, by name.
        how: The arguments ``openings`` and ``engine`` of
            :func:`lens_steer.metrics.refusal_score.refusal_scores_by_value`.
        max_new_tokens: The longest unsteered answer along which the KL is measured.
        kept: The unsteered answers, by the hash of their prompts.
    """

    model: Any
    sources: Mapping[str, ContrastSet]
    calibrations: Mapping[str, Calibration]
    how: Mapping[str, Any]
    max_new_tokens: int
    kept: dict[str, list[str]] = field(default_factory=dict)

    def select(self, name: str, angles: Sequence[float]) -> list[Row]:
        """Return the scores of all sources' harmful select prompts at every angle, and the KL of the harmless ones."""
        rows, seen = list[Row](), dict[str, list[Row]]()
        for on, of in self.sources.items():
            if self._sites(name):
                rows += self._scores(name, on, of.select.positive, angles)
                harmless = of.select.negative
                seen[harmless.hash] = seen.get(harmless.hash) or self._kls(name, on, harmless, angles)
                rows += [row | {"on": on} for row in seen[harmless.hash]]
        return rows

    def report(self, name: str, angles: Mapping[tuple[str, str], float | None], draws: int, seed: int) -> list[Row]:
        """Return the scores of every source's harmful report prompts at the chosen angles, and in random planes."""
        rows = list[Row]()
        for on, of in self.sources.items():
            own = sorted({a for a in (angles[name, name], angles[name, on]) if a is not None})
            rows += self._scores(name, on, of.report.positive, own) if own else []
        own = angles[name, name]
        if own is not None:
            part = self.sources[name].report
            rows += self._kls(name, name, part.negative, [own])
            for draw in range(1, draws + 1):
                basis = random_plane(self.calibrations[name].d_model, seed=seed + draw)
                rows += self._scores(name, name, part.positive, [own], draw=draw, basis=basis)
        return rows

    def _sites(self, name: str) -> tuple[str, ...]:
        return self.calibrations[name].discriminative_sites

    def _scores(
        self, name: str, on: str, prompts: PromptSet, angles: Sequence[float], *, draw: int = 0, **turned: Any
    ) -> list[Row]:
        build = partial(plan_at_value, "selective", self.calibrations[name], {"at": self._sites(name), **turned})
        plain, steered = refusal_scores_by_value(self.model, build, angles, prompts, **self.how)
        own = {"fitted": name, "on": on, "draw": draw, "kl": None}
        rows = [own | {"value": None, "prompt": i, "score": float(x)} for i, x in enumerate(plain)]
        table = enumerate(steered)
        return rows + [
            own | {"value": v, "prompt": i, "score": float(x)}
            for i, row in table
            for v, x in zip(angles, row, strict=True)
        ]

    def _kls(self, name: str, on: str, prompts: PromptSet, angles: Sequence[float]) -> list[Row]:
        build = partial(plan_at_value, "selective", self.calibrations[name], {"at": self._sites(name)})
        how = {"engine": self.how["engine"]}
        kl = mean_kl_by_value(self.model, build, angles, prompts, self._answers(prompts), **how)
        own = {"fitted": name, "on": on, "draw": 0, "score": None}
        return [
            own | {"value": v, "prompt": i, "kl": None if np.isnan(x) else float(x)}
            for i, row in enumerate(kl)
            for v, x in zip(angles, row, strict=True)
        ]

    def _answers(self, prompts: PromptSet) -> list[str]:
        if prompts.hash not in self.kept:
            how = {"max_new_tokens": self.max_new_tokens, "engine": self.how["engine"]}
            self.kept[prompts.hash] = answers(self.model, prompts, **how).texts
        return self.kept[prompts.hash]
