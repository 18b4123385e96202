"""The record of a trait study: probes, both searches, gates and dialogues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lens_steer._display import Shown
from lens_steer.probes.probe import Probe
from lens_steer.stats.estimates import Estimate
from lens_steer.studies.traits.calibration import TraitCalibration
from lens_steer.studies.traits.search import TraitResult


@dataclass(frozen=True, eq=False)
class TraitReport(Shown, view="studies"):
    """All results of one trait study.

    Attributes:
        calibrated: Probes, and the answers on which they were fitted.
        pooled: The search with probes of averaged answers.
        token: The search at the same sites with probes of single tokens.
        token_probes: Probes of single tokens, by site.
        gates: (``pooled`` or ``token``, site, ``aligned`` or ``misaligned``) → share of the tokens of the unsteered
            model's held-out answers for which the gate fires.
        dialogues: One row per answer; empty without dialogues.
    """

    calibrated: TraitCalibration
    pooled: TraitResult
    token: TraitResult
    token_probes: Mapping[str, Probe]
    gates: Mapping[tuple[str, str, str], Estimate]
    dialogues: tuple[Mapping[str, Any], ...]

    def __repr__(self) -> str:
        return (
            f"TraitReport({len(self.pooled.choices)} conditions, probes at {len(self.calibrated.probes)} sites, "
            f"{len(self.dialogues)} answers in dialogues)"
        )
