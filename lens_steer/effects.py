"""What a plan did while the model ran: gate-fire rates and displacements, site by site, over the steered tokens only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer.operators.catalogue import compare
from lens_steer.shown import Shown


@dataclass
class Totals:
    """Sums over the steered tokens of one site."""

    tokens: int = 0
    fired: int = 0
    displacement: float = 0.0
    radial: float = 0.0
    angular: float = 0.0
    length: float = 0.0


@dataclass
class EffectLog(Shown, view="tokens"):
    """Hand one to :func:`lens_steer.steering` and read it afterwards; measuring costs about as much as steering does.

    Attributes:
        totals: by site.
    """

    totals: dict[str, Totals] = field(default_factory=dict)

    def add(
        self,
        site: str,
        before: Float[Tensor, "batch pos d_model"],
        after: Float[Tensor, "batch pos d_model"],
        fired: Bool[Tensor, "batch pos"],
        selected: Bool[Tensor, "batch pos"] | None,
    ) -> None:
        """Count the steered tokens of one forward at one site."""
        if selected is not None:
            before, after, fired = before[selected], after[selected], fired[selected]
        did = compare(before, after, fired)
        total = self.totals.setdefault(site, Totals())
        total.tokens += did.fired.numel()
        total.fired += int(did.fired.sum())
        total.displacement += float(did.displacement.sum())
        total.radial += float(did.radial.sum())
        total.angular += float(did.angular.sum())
        total.length += float(before.double().norm(dim=-1).sum())

    @property
    def gate_fire_rate(self) -> float | None:
        """Share of the steered tokens, over all sites, for which the gate fired; None if nothing ran."""
        tokens = sum(t.tokens for t in self.totals.values())
        return sum(t.fired for t in self.totals.values()) / tokens if tokens else None

    def rows(self) -> list[dict[str, Any]]:
        """One row a site: tokens, gate-fire rate, and means of displacement, its radial and angular part, and the length before."""
        return [
            {
                "site": site,
                "tokens": t.tokens,
                "gate_fire_rate": t.fired / t.tokens,
                **{name: getattr(t, name) / t.tokens for name in ("displacement", "radial", "angular", "length")},
            }
            for site, t in self.totals.items()
            if t.tokens
        ]

    def __repr__(self) -> str:
        rate = self.gate_fire_rate
        fired = "nothing ran" if rate is None else f"gate fired on {100 * rate:.1f} % of the steered tokens"
        return f"EffectLog({len(self.totals)} sites, {fired})"
