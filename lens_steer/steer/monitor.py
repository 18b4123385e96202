"""Watching a boundary token by token while the model runs: the projection at one site and what a gate there would
decide.

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
from lens_steer.inference.positions import Clock
from lens_steer.models import sites
from lens_steer.models.fits import check_fits
from lens_steer.models.loading import info_of
from lens_steer.operators.addition import prepared, unit_direction
from lens_steer.operators.projection import GATES
from lens_steer.steer.hooks import example, following

REGIONS = ("prompt", "generated")
MAX_SHOWN = 50  # prompts in the notebook's view


@dataclass(frozen=True, eq=False)
class Reading:
    """Some tokens of one forward, on the CPU: the call, the row in it and the position of each, whether it is an
    answer's, its id, ρ and the gate's decision.
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
    """What :func:`monitor` saw; shows itself in a notebook as the answers' text, coloured by projection.

    Attributes:
        boundary: whose direction and threshold they are.
        gate: ``below``: it fires where ρ < m; ``above``: where ρ > m.
        tokenizer: of the model.
    """

    boundary: Boundary
    gate: str
    tokenizer: Any
    _readings: list[Reading] = field(default_factory=list)
    _calls: dict[object, int] = field(default_factory=dict)
    _next: dict[tuple[int, int], int] = field(default_factory=dict)  # by call and row, the first position not seen yet

    def rows(self) -> list[dict[str, Any]]:
        """One row a token, prompt by prompt: ``row`` and ``call`` (both from 0, in the order of calls), ``position``
        (from 0 at the prompt's first token), ``region`` (``prompt`` or ``generated``), ``token``, ``token_id``,
        ``projection``, ``fired``.
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
        """The rows of one prompt.

        Raises:
            LensSteerError: no prompt of that number ran.
        """
        found = [token for token in self.rows() if token["row"] == row]
        if not found:
            raise LensSteerError(f"row={row}: no such prompt ran inside the block, which saw {self.n_prompts}")
        return found

    def fire_rate(self, region: str | None = None) -> float | None:
        """Share of the tokens for which the gate fired, of all or of one region's; None if none ran.

        Raises:
            LensSteerError: an unknown region.
        """
        if region not in (None, *REGIONS):
            raise LensSteerError(f"region={region!r}: use one of {', '.join(REGIONS)}, or None for both")
        seen = self._joined()
        fired = torch.zeros(0) if seen is None else seen.fired
        if seen is not None and region is not None:
            fired = fired[seen.generated == (region == "generated")]
        return float(fired.double().mean()) if len(fired) else None

    @property
    def n_prompts(self) -> int:
        """How many prompts ran."""
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
        """Keep one forward's tokens, but none that its call has seen before: computed again without a cache, or as the
        history of a later turn.
        """
        number = self._calls.setdefault(call, len(self._calls))
        keys = [(number, row) for row in rows.tolist()]
        first = torch.tensor([self._next.get(key, 0) for key in keys])
        new = counted & (position >= first[:, None])
        for key, last in zip(keys, torch.where(new, position, -1).amax(dim=1).tolist(), strict=True):
            if last >= 0:
                self._next[key] = last + 1
        row = rows[:, None].expand_as(position)[new]
        self._readings.append(
            Reading(
                torch.full_like(row, number),
                row,
                position[new],
                generated[new],
                tokens[new],
                projection[new],
                fired[new],
            )
        )

    def _joined(self) -> Reading | None:
        """All readings as one, or None where no token was read."""
        if not self._next:
            return None
        self._readings = [Reading(*(torch.cat([getattr(r, f.name) for r in self._readings]) for f in fields(Reading)))]
        return self._readings[0]

    def _firsts(self, seen: Reading) -> Int[Tensor, " call"]:
        """The number of each call's first prompt."""
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
    """Record ``ρ = h·v̂`` at the boundary's site, and whether a gate at its threshold fires, for every token that runs
    inside a ``with`` block.

    The gate fires where ``ρ < m``, or with ``gate="above"`` where ``ρ > m``, both strict, as that of StTP and StMP
    does. Padding is left out, and so is what a batch computes for an answer that has ended. The last token of an answer
    that was cut short is never fed to the model, so it has no projection. A token that is computed again (without a
    cache, or as a conversation's history) is recorded the first time. A recording runs only as far as its last site:
    beyond it nothing is seen.

    Entered inside ``with steering(model, plan):`` it sees what the plan wrote at the site; entered outside it sees what
    was there before. On every engine. Sweeps, which steer by themselves, refuse to run inside the block.

    Rows count on from one call of :func:`lens_steer.generate` to the next. In a forward of one's own every row counts
    as a prompt's (padding is known by the attention mask that the model is called with); inside
    :func:`lens_steer.inference.positions.running` prompts and answers are told apart there too.

    Args:
        model: from :func:`lens_steer.load_model`, or its Hugging Face twin.
        boundary: made on this model, by :func:`lens_steer.boundary` or a probe.
        gate: ``"below"`` or ``"above"``.

    Raises:
        LensSteerError: an unknown gate, a boundary of another model or with a direction of length zero. Inside the
            block: a forward that is not fed token ids, or that goes on from a cache of one's own.

    >>> import lens_steer as ls
    >>> model, found = ls.load_model("organism/qwen2"), ls.boundary(ls.load_calibration("figures/calibration"))
    >>> with monitor(model, found) as seen:
    ...     answers = ls.generate(model, ["What is 4 plus 3?"], max_new_tokens=4)
    >>> [token["token"] for token in seen.of(0) if token["region"] == "generated"]
    ['7', '.']
    """
    expect("boundary", boundary, Boundary, "make it with ls.boundary(calibration) or ls.fit_probe(acts, site)")
    if gate not in GATES:
        raise LensSteerError(f"gate={gate!r}: use one of {', '.join(GATES)}")
    found = Monitor(boundary, gate, info_of(model).tokenizer)
    with _reading(model, found):
        yield found


@contextmanager
def _reading(model: Any, into: Monitor) -> Iterator[None]:
    """Let a monitor read a model, or its twin."""
    info, boundary = info_of(model), into.boundary
    check_fits(boundary, model)
    sites.resolve([boundary.site], n_layers=info.n_layers, architecture=info.architecture)
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
    """The hook: what the running forward has at the site."""
    n, width = activation.shape[:2]
    if clock.started and clock.layout is None and clock.begin:
        raise LensSteerError(
            "the monitor does not know the prompts that this forward goes on from: run it through "
            "lens_steer.generate, or inside "
            "'with lens_steer.inference.positions.running(batch):'"
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
    fired = (rho < into.boundary.threshold) if into.gate == "below" else (rho > into.boundary.threshold)
    into.add(call, rows, position, generated, tokens.cpu(), rho.cpu(), fired.cpu(), counted)
