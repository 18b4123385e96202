"""Watch a boundary token by token while the model runs: the projection at one site and the decision of a gate there.

Nothing is changed: the hooks only read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_steer._display import Shown
from lens_steer.errors import LensSteerError, expect
from lens_steer.geometry.boundary import Boundary
from lens_steer.inference.clock import Clock
from lens_steer.models import sites
from lens_steer.models.fits import check_fits
from lens_steer.models.loading import info_of
from lens_steer.operators.addition import unit_direction
from lens_steer.operators.exact import exact, prepared
from lens_steer.operators.projection import beyond, check_gate
from lens_steer.steer.hooks import example, following

REGIONS = ("prompt", "generated")
MAX_SHOWN = 50  # the most prompts that the notebook's view shows


@dataclass(frozen=True, eq=False)
class Reading:
    """The readings of some tokens of one forward, on the CPU.

    Attributes:
        call: The number of the call in which each token ran.
        row: The row of each token in this call.
        position: The position of each token in its row; padding does not count.
        generated: Whether each token belongs to an answer.
        token_id: The id of each token.
        projection: The projection ρ of each token.
        fired: Whether the gate fired for each token.
    """

    call: Int[Tensor, " token"]
    row: Int[Tensor, " token"]
    position: Int[Tensor, " token"]
    generated: Bool[Tensor, " token"]
    token_id: Int[Tensor, " token"]
    projection: Float[Tensor, " token"]
    fired: Bool[Tensor, " token"]


@dataclass(eq=False)
class Monitor(Shown, view="tokens"):
    """The record of the tokens that ran inside a block of :func:`monitor`.

    In a notebook it shows the text of the answers, coloured by projection.

    Attributes:
        boundary: The boundary whose direction and threshold are used.
        gate: ``below``: the gate fires where ρ < m. ``above``: it fires where ρ > m.
        tokenizer: The tokenizer of the model.
    """

    boundary: Boundary
    gate: str
    tokenizer: Any
    _readings: list[Reading] = field(default_factory=list)
    _calls: dict[object, int] = field(default_factory=dict)
    _next: dict[tuple[int, int], int] = field(default_factory=dict)  # (call, row) → first unread position

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each token, prompt by prompt.

        The keys are ``row`` and ``call`` (both from 0, in the order of calls), ``position`` (from 0 at the prompt's
        first token), ``region`` (``prompt`` or ``generated``), ``token``, ``token_id``, ``projection`` and ``fired``.
        """
        seen = self._joined()
        if seen is None:
            return []
        row = seen.row + self._firsts(seen)[seen.call]
        order = (row * (int(seen.position.max()) + 1) + seen.position).argsort()
        texts = {token: self.tokenizer.decode([token]) for token in seen.token_id.unique().tolist()}
        columns = (row, seen.call, seen.position, seen.generated, seen.token_id, seen.projection, seen.fired)
        return [
            {
                "row": r,
                "call": call,
                "position": position,
                "region": REGIONS[generated],
                "token": texts[token],
                "token_id": token,
                "projection": projection,
                "fired": fired,
            }
            for r, call, position, generated, token, projection, fired in zip(
                *(c[order].tolist() for c in columns), strict=True
            )
        ]

    def of(self, row: int) -> list[dict[str, Any]]:
        """Return the rows of one prompt.

        Raises:
            LensSteerError: If no prompt of this number ran.
        """
        found = [token for token in self.rows() if token["row"] == row]
        if not found:
            raise LensSteerError(f"row={row}: no such prompt ran inside the block, which saw {self.n_prompts}")
        return found

    def fire_rate(self, region: str | None = None) -> float | None:
        """Return the share of the tokens for which the gate fired; None if no token ran.

        Args:
            region: ``prompt`` or ``generated``; None counts the tokens of both.

        Raises:
            LensSteerError: If the region is unknown.
        """
        if region not in (None, *REGIONS):
            raise LensSteerError(f"region={region!r}: use one of {', '.join(REGIONS)}, or None for both")
        seen = self._joined()
        fired = torch.zeros(0) if seen is None else seen.fired
        if seen is not None and region is not None:
            fired = fired[seen.generated == (region == "generated")]
        return float(exact(fired).mean()) if len(fired) else None

    @property
    def n_prompts(self) -> int:
        """Return the number of prompts that ran."""
        return len(self._next)

    def add(
        self,
        call: object,
        rows: Int[Tensor, " batch"],
        position: Int[Tensor, "batch pos"],
        generated: Bool[Tensor, "batch pos"],
        tokens: Int[Tensor, "batch pos"],
        projection: Float[Tensor, "batch pos"],
        fired: Bool[Tensor, "batch pos"],
        counted: Bool[Tensor, "batch pos"],
    ) -> None:
        """Keep the tokens of one forward, each position of a call's row once.

        A token runs again if the model generates without a cache, or if it is part of the history of a later turn. The
        monitor keeps only its first reading: for each row of a call it remembers the first position not read yet, and
        drops every token before it.
        """
        number = self._calls.setdefault(call, len(self._calls))
        keys = [(number, row) for row in rows.tolist()]
        first = torch.tensor([self._next.get(key, 0) for key in keys])
        new = counted & (position >= first[:, None])
        for key, last in zip(keys, torch.where(new, position, -1).amax(dim=1).tolist(), strict=True):
            if last >= 0:
                self._next[key] = last + 1
        row = rows[:, None].expand_as(position)[new]
        rest = (values[new] for values in (position, generated, tokens, projection, fired))
        self._readings.append(Reading(torch.full_like(row, number), row, *rest))

    def _joined(self) -> Reading | None:
        """Return all readings as one; None where no token was read."""
        if not self._next:
            return None
        self._readings = [Reading(*(torch.cat([getattr(r, f.name) for r in self._readings]) for f in fields(Reading)))]
        return self._readings[0]

    def _firsts(self, seen: Reading) -> Int[Tensor, " call"]:
        """Return the number of the first prompt of each call.

        Calls count their rows from 0. The first prompt of a call therefore has as its number the sum of the sizes of
        all earlier calls, where the size of a call is its largest row plus one.
        """
        sizes = torch.zeros(len(self._calls), dtype=torch.long)
        sizes.scatter_reduce_(0, seen.call, seen.row + 1, "amax")
        return sizes.cumsum(dim=0) - sizes

    def __repr__(self) -> str:
        rate = self.fire_rate()
        fired = (
            "nothing ran" if rate is None else f"fired on {100 * rate:.1f} % of {len(self._readings[0].fired)} tokens"
        )
        return (
            f"Monitor({self.boundary.site}: {self.n_prompts} prompts, gate {self.gate} {self.boundary.threshold:.4g} "
            f"{fired})"
        )


@contextmanager
def monitor(model: Any, boundary: Boundary, *, gate: str = "below") -> Iterator[Monitor]:
    """Record the projection at a boundary's site and the decision of its gate, for every token that runs in the block.

    The projection is ``ρ = h·v̂``. The gate fires where ``ρ < m``, or with ``gate="above"`` where ``ρ > m``. Both are
    strict, as in the gate of StTP and StMP.

    Padding is left out, and so are the tokens that a batch computes for an answer that has ended. The last token of an
    answer that was cut short is never fed to the model, so it has no projection. A token that is computed again
    (without a cache, or as a conversation's history) is recorded the first time. A recording
    (:func:`lens_steer.record`) runs the model only as far as its last site; the monitor sees nothing beyond it.

    Entered inside ``with steering(model, plan):``, the monitor sees what the plan wrote at the site. Entered outside,
    it sees the activation before the plan writes. It works with every engine. Sweeps, which steer by themselves, refuse
    to run inside the block.

    Rows count on from one call of :func:`lens_steer.generate` to the next. In a forward that you run yourself, every
    token counts as part of a prompt, and padding is known from the attention mask that the model is called with. Inside
    :func:`lens_steer.inference.clock.running` prompts and answers are distinguished.

    Args:
        model: A model from :func:`lens_steer.load_model`, or its Hugging Face twin.
        boundary: A boundary made on this model, by :func:`lens_steer.boundary` or as a probe.
        gate: ``"below"`` or ``"above"``.

    Yields:
        The monitor, which holds every token read so far.

    Raises:
        LensSteerError: If the gate is unknown, or if the boundary belongs to another model or has a direction of length
            zero. Inside the block: if a forward is not fed token ids, or continues from a cache of your own.

    >>> import lens_steer as ls
    >>> model, found = ls.load_model("organism/qwen2"), ls.boundary(ls.load_calibration("figures/calibration"))
    >>> with monitor(model, found) as seen:
    ...     answers = ls.generate(model, ["What is 4 plus 3?"], max_new_tokens=4)
    >>> [token["token"] for token in seen.of(0) if token["region"] == "generated"]
    ['7', '.']
    """
    expect("boundary", boundary, Boundary, "make it with ls.boundary(calibration) or ls.fit_probe(acts, site)")
    found = Monitor(boundary, check_gate(gate), info_of(model).tokenizer)
    with _reading(model, found):
        yield found


@contextmanager
def _reading(model: Any, into: Monitor) -> Iterator[None]:
    """Let a monitor read a model, or its twin, for the length of the block."""
    info, boundary = info_of(model), into.boundary
    check_fits(boundary, model)
    sites.resolve([boundary.site], info.layout)
    unit, clock = unit_direction(prepared(boundary.direction, example(model, boundary.site))), Clock("all")
    read = partial(_read, clock=clock, unit=unit, into=into, end_tokens=info.end_tokens)
    with following(model, clock, [(boundary.site, read)], "monitor", partial(_reading, into=into), reads=True):
        yield


def _read(
    activation: Float[Tensor, "batch pos d_model"],
    hook: Any = None,
    *,
    clock: Clock,
    unit: Float[Tensor, " d_model"],
    into: Monitor,
    end_tokens: tuple[int, ...],
) -> None:
    """Read the activation of the running forward at the site; this is the hook."""
    n, width = activation.shape[:2]
    if clock.started and clock.layout is None and clock.begin:
        raise LensSteerError(
            "the monitor does not know the prompts that this forward goes on from: run it through "
            "lens_steer.generate, or inside 'with lens_steer.inference.clock.running(batch):'"
        )
    tokens = clock.tokens(width) if clock.started else None
    if tokens is None or tokens.shape != (n, width):
        raise LensSteerError(
            "the monitor does not know which tokens this forward is fed: give the model token ids, from its first "
            "block on, or run it through lens_steer.generate"
        )
    counted = clock.counted(width, end_tokens)
    counted = torch.ones(n, width, dtype=torch.bool) if counted is None else counted.cpu()
    if clock.layout is None:
        call, rows = object(), torch.arange(n)
        position = counted.cumsum(dim=1) - 1
        generated = torch.zeros_like(counted)
    else:
        call, rows = clock.layout.call, clock.layout.rows.cpu()
        position, offset = (count.cpu() for count in clock.layout.counts(clock.begin, clock.begin + width))
        generated = offset >= 0
    rho = activation.detach().to(unit.dtype) @ unit
    fired = beyond(rho, into.boundary.threshold, into.gate)
    into.add(call, rows, position, generated, tokens.cpu(), rho.cpu(), fired.cpu(), counted)
