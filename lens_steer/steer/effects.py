"""What a plan did while the model ran: gate-fire rates and displacements, site by site, over the steered tokens
only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer._display import Shown
from lens_steer.operators.catalogue import compare, operator

if TYPE_CHECKING:
    from lens_steer.steer.plans import SteeringPlan

MOST_WAITING = 1024  # flags that are not read yet


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
        """One row a site: tokens, gate-fire rate, and means of displacement, its radial and angular part, and the
        length before.
        """
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


@dataclass(eq=False)
class Tally:
    """As much as it takes to say, when a plan's block ends, that the plan did nothing; once an activation has changed
    nothing more is looked at.

    Attributes:
        forwards: that ran, on whichever engine.
        steered: of them, with a token that has the plan's positions.
        changed: whether any activation was given back changed.
        fired: whether a gate was seen to fire; looked at only until something changed.
    """

    forwards: int = 0
    steered: int = 0
    changed: bool = False
    fired: bool = False
    _waiting: list[tuple[Bool[Tensor, ""], bool]] = field(
        default_factory=list, repr=False
    )  # flags on a device, and which they are

    def see(
        self,
        before: Float[Tensor, "batch pos d_model"],
        after: Float[Tensor, "batch pos d_model"],
        fires: Callable[[Tensor], Tensor] | None,
        selected: Bool[Tensor, "batch pos"] | None,
    ) -> None:
        """Compare what one hook was given with what it gives back. On a device this only queues work; :meth:`settle`
        reads what came of it.
        """
        self._waiting.append(((before != after).any(), True))
        if fires is not None and not self.fired:
            fired = fires(before)
            self._waiting.append(((fired if selected is None else fired & selected).any(), False))
        if before.device.type == "cpu" or len(self._waiting) > MOST_WAITING:
            self.settle()

    def told(self, plan: SteeringPlan, *, tell: bool) -> str | None:
        """What to say of a plan that did nothing; with ``tell`` also where it steered tokens and changed none. None
        where nothing ran or it did something.
        """
        if not self.forwards or self.changed:
            return None
        if not self.steered:
            return f"the plan {plan.method!r} steered no token: no prompt has the positions {plan.positions!r}"
        if not tell:
            return None
        if not self.fired and all(operator(step.operator).gate for step in plan.steps):
            why = "no gate fired on any steered token; look at its threshold, or steer at other sites"
        else:
            given = ", ".join(f"{name}={value}" for name, value in plan.parameters.items()) or "the operator"
            why = (
                f"{given} is the identity here (an angle of 0 or 360, a coefficient of 0, or a step too small for the "
                "model's dtype)"
            )
        return f"the plan {plan.method!r} changed no activation: {why}"

    def settle(self) -> None:
        """Read the flags of a forward, where the device has been waited for anyway."""
        for flag, is_change in self._waiting:
            self.changed |= is_change and bool(flag)
            self.fired |= not is_change and bool(flag)
        self._waiting.clear()
