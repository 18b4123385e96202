"""All that steering a trait found: probes, both searches, gates, dialogues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lens_steer._display import Shown
from lens_steer.probes.probe import Probe
from lens_steer.stats import Estimate
from lens_steer.studies.traits.calibration import TraitCalibration
from lens_steer.studies.traits.search import TraitResult


@dataclass(frozen=True, eq=False)
class TraitReport(Shown, view="studies"):
    """All that was found.

    Attributes:
        calibrated: probes and the answers they were fitted on.
        pooled: the search with probes of averaged answers.
        token: the search at the same sites with probes of single tokens.
        token_probes: those.
        gates: (``pooled`` or ``token``, site, ``aligned`` or ``misaligned``) → share of the tokens of the unsteered
            model's held-out answers for which the gate fires.
        dialogues: one row an answer; empty without dialogues.
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
