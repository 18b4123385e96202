"""Effects of a plan while the model runs: gate-fire rates and displacements of the steered tokens, site by site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer._display import Shown
from lens_steer.operators.catalogue import compare, operator
from lens_steer.operators.exact import exact

if TYPE_CHECKING:
    from lens_steer.steer.plans import SteeringPlan

MOST_WAITING = 1024  # a tally reads its flags when it holds more than this many unread ones


@dataclass
class EffectLog(Shown, view="tokens"):
    """A log of what a plan did, site by site.

    Pass an empty log to :func:`lens_steer.steering` and read it after the block. Measuring costs about as much as
    steering does.

    Attributes:
        totals: The sums over the steered tokens, keyed by site and by name.
    """

    totals: dict[str, dict[str, float]] = field(default_factory=dict)

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
        sums = {"tokens": did.fired.numel(), "fired": int(did.fired.sum())}
        sums |= {name: float(getattr(did, name).sum()) for name in ("displacement", "radial", "angular")}
        sums["length"] = float(exact(before).norm(dim=-1).sum())
        total = self.totals.setdefault(site, dict.fromkeys(sums, 0))
        for name, value in sums.items():
            total[name] += value

    @property
    def gate_fire_rate(self) -> float | None:
        """Return the share of the steered tokens, over all sites, for which the gate fired; None if nothing ran."""
        tokens = sum(t["tokens"] for t in self.totals.values())
        return sum(t["fired"] for t in self.totals.values()) / tokens if tokens else None

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each site.

        A row holds the number of steered tokens, the gate-fire rate, and the means over these tokens of the
        displacement, its radial and angular parts, and the length before steering.
        """
        return [
            {
                "site": site,
                "tokens": t["tokens"],
                "gate_fire_rate": t["fired"] / t["tokens"],
                **{name: t[name] / t["tokens"] for name in ("displacement", "radial", "angular", "length")},
            }
            for site, t in self.totals.items()
            if t["tokens"]
        ]

    def __repr__(self) -> str:
        rate = self.gate_fire_rate
        fired = "nothing ran" if rate is None else f"gate fired on {100 * rate:.1f} % of the steered tokens"
        return f"EffectLog({len(self.totals)} sites, {fired})"


@dataclass(eq=False)
class Tally:
    """A tally of what is needed to warn, at the end of a plan's block, that the plan did nothing.

    Once one activation has changed, no further activation is compared.

    Attributes:
        forwards: The number of forwards that ran, on either engine.
        steered: The number of these forwards in which at least one token is at the plan's positions.
        changed: Whether a hook returned a changed activation.
        fired: Whether a gate fired. Gates are evaluated only until an activation has changed.
    """

    forwards: int = 0
    steered: int = 0
    changed: bool = False
    fired: bool = False
    # Unread flags on the device; the bool is True for "an activation changed" and False for "a gate fired".
    _waiting: list[tuple[Bool[Tensor, ""], bool]] = field(default_factory=list, repr=False)

    def see(
        self,
        before: Float[Tensor, "batch pos d_model"],
        after: Float[Tensor, "batch pos d_model"],
        fires: Callable[[Tensor], Tensor] | None,
        selected: Bool[Tensor, "batch pos"] | None,
    ) -> None:
        """Compare the activation that a hook received with the one that it returns.

        The comparison stays on the device: reading a flag there would wait for all queued work. On a GPU this method
        only queues the comparison, and :meth:`settle` reads the result later. On the CPU it is read at once.
        """
        self._waiting.append(((before != after).any(), True))
        if fires is not None and not self.fired:
            fired = fires(before)
            self._waiting.append(((fired if selected is None else fired & selected).any(), False))
        if before.device.type == "cpu" or len(self._waiting) > MOST_WAITING:
            self.settle()

    def told(self, plan: SteeringPlan, *, tell: bool) -> str | None:
        """Return the warning about a plan that did nothing.

        Args:
            plan: The plan of the block that ends.
            tell: Whether to warn also where tokens were steered and no activation changed.

        Returns:
            The text of the warning. None where no forward ran or the plan changed something, and, unless ``tell``,
            where the plan steered at least one token.
        """
        if not self.forwards or self.changed:
            return None
        if not self.steered:
            return f"the plan {plan.method!r} steered no token: nothing stood at the positions {plan.positions!r}"
        if not tell:
            return None
        if not self.fired and all(operator(step.operator).gate for step in plan.steps):
            why = "no gate fired on any steered token; look at its threshold, or steer at other sites"
        else:
            given = ", ".join(f"{name}={value}" for name, value in plan.parameters.items()) or "the operator"
            small = "an angle of 0 or 360, a coefficient of 0, or a step too small for the model's dtype"
            why = f"{given} is the identity here ({small})"
        return f"the plan {plan.method!r} changed no activation: {why}"

    def settle(self) -> None:
        """Read the flags that are waiting; called where the device has been waited for anyway."""
        for flag, is_change in self._waiting:
            self.changed |= is_change and bool(flag)
            self.fired |= not is_change and bool(flag)
        self._waiting.clear()
