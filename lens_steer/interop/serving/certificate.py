"""The certificate of a serving engine under one plan: what was compared with the hooked model, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lens_steer._display import Shown
from lens_steer._io.atomic import whole_file
from lens_steer.errors import LensSteerError

UNSTEERED = "none"


@dataclass(frozen=True, kw_only=True)
class EngineCertificate(Shown, view="files"):
    """The comparison of a serving engine with the hooked model, under one plan or without one.

    Attributes:
        engine, engine_version: The engine.
        model, dtype: The model.
        plan: The method and the parameters of the plan; the method is ``none`` for the unsteered model.
        digest: The hash of the plan; empty without one.
        prompts, n_prompts: The name of the prompt set and the number of prompts.
        n_positions: The number of tokens whose log-probabilities were compared.
        largest_difference, mean_difference: The absolute differences of log-probabilities, engine against hooked model,
            in nats.
        largest_allowed, mean_allowed: The bounds on them.
        mean_change: The mean absolute change of these log-probabilities by the plan, on the hooked model.
        mean_from_unsteered: The mean absolute difference between the engine and the unsteered model.
        equal_tokens: The share of equal tokens in the freely written answers.
        largest_gap: Where two answers first part, how much less probable the hooked model holds the engine's token, at
            most, in nats; 0 if all answers are equal.
    """

    engine: str
    engine_version: str
    model: str
    dtype: str
    plan: dict[str, Any]
    digest: str
    prompts: str
    n_prompts: int
    n_positions: int
    largest_difference: float
    mean_difference: float
    largest_allowed: float
    mean_allowed: float
    mean_change: float
    mean_from_unsteered: float
    equal_tokens: float
    largest_gap: float

    def __repr__(self) -> str:
        return (
            f"EngineCertificate({self.verdict}: {self.plan['method']} of {self.model} by {self.engine}, "
            f"log-probabilities differ by {self.largest_difference:.1e} at most)"
        )

    @property
    def tells(self) -> bool:
        """Return True if the plan changes enough here for an ignored adapter to be found out."""
        return self.mean_change > 2 * self.mean_allowed

    @property
    def faults(self) -> tuple[str, ...]:
        """Return what is wrong with the engine, in words; nothing if it passes."""
        found = []
        if not self.largest_difference <= self.largest_allowed or not self.mean_difference <= self.mean_allowed:
            found.append(
                f"log-probabilities differ by {self.mean_difference:.2g} nats in the mean and "
                f"{self.largest_difference:.2g} at most (allowed: {self.mean_allowed:g} and {self.largest_allowed:g})"
            )
        if self.digest and self.tells and not self.mean_difference < self.mean_from_unsteered / 2:
            found.append(
                "they are no nearer to the steered model's than to the unsteered one's "
                f"({self.mean_from_unsteered:.2g} nats): it ignores the adapter, or takes another one"
            )
        if not self.largest_gap <= self.largest_allowed:
            found.append(
                f"its answers go on with tokens that the hooked model holds for {self.largest_gap:.2g} nats less "
                f"probable than its own ({100 * self.equal_tokens:.1f} % of the tokens are equal)"
            )
        return tuple(found)

    @property
    def verdict(self) -> str:
        """Return ``pass`` or ``fail``."""
        return "fail" if self.faults else "pass"

    def row(self) -> dict[str, Any]:
        """Return all fields, whether the certificate tells an ignored adapter, and the verdict."""
        return asdict(self) | {"tells": self.tells, "verdict": self.verdict}


def require_all(certificates: Sequence[EngineCertificate]) -> None:
    """Refuse an engine with a certificate that fails.

    Raises:
        LensSteerError: If one fails; the message names the plan and says what is wrong.
    """
    for certificate in certificates:
        if certificate.verdict != "pass":
            own = {k: v for k, v in certificate.plan.items() if k not in ("n_sites", "positions")}
            under = ", ".join(f"{name}={value}" for name, value in own.items())
            raise LensSteerError(
                f"engine={certificate.engine!r} does not do what the hooks do ({under}): "
                f"{'; '.join(certificate.faults)}; nothing of it was kept: use engine='hf'"
            )


def keep_records(folder: str | Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write certificates into a folder, one file for each plan.

    The name of a file is the beginning of the plan's hash, or ``unsteered``. So an interrupted run adds to what is
    there, and the certificates of shards come together when their folders are joined.

    Args:
        folder: The folder; it is not made without a certificate.
        records: The certificates as plain values (:meth:`EngineCertificate.row`).
    """
    for record in records:
        path = Path(folder) / f"{record['digest'][:16] or 'unsteered'}.json"
        if not path.exists():
            with whole_file(path) as work:
                work.write_text(json.dumps(dict(record), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
