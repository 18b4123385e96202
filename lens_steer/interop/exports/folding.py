"""Folding of a plan's steps into the weights of linear layers; a step folds exactly or is refused.

**Norms.** Only linear layers read the output n of a norm before attention or MLP. An affine map ``n ↦ n + U(Vn) + t``
of it (:mod:`lens_steer.operators.affine`) therefore folds into each of them:
``W(n + U V n + t) = Wn + (W U)(V n) + W t``. This is a low-rank change with ``A = V`` and ``B = W U``, and a bias
``W t``. For a selective rotation ``A = B_plane`` and ``B = W B_planeᵀ(R_θ − I)``.

**Outputs of layers.** The output ``y = Wz + b`` of a layer gets the map from the left: ``A = V W``, ``B = U``, bias
``U V b + t``.

**Residual stream.** The stream is not the output of a single layer. Only these steps on it fold:

- An addition: into the bias of the layer that wrote last.
- An ablation, if nothing can have written the direction back: everything before is orthogonal to it already.
- A rotation Q: the stream is kept unrotated. The output of every later norm is rotated for its readers, by ``D Q D⁻¹``
  with D the norm's gain (an RMSNorm divides ``y`` and ``Qy`` by the same length). Later layers write through ``Q⁻¹``,
  and the unembedding reads ``D Q D⁻¹`` of the last norm's output.
- Any affine map at the input of the first block: into the rows of the embedding.

If a norm stands between the layers and the stream (Gemma-2 and 3), neither the outputs of layers nor the stream fold,
apart from the input of the first block. All other steps are refused, site by site, with the reason. Products are
computed in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.geometry.planes import gram_error
from lens_steer.interop.exports.affine import affine_map, is_isometry, not_affine
from lens_steer.interop.exports.layers import EMBEDDING, FINAL_NORM, UNEMBEDDING, WRITERS, Layers
from lens_steer.models import sites
from lens_steer.models.fits import check_fits
from lens_steer.models.loading import hf_twin, info_of
from lens_steer.models.sites import NETWORK_ORDER, STREAM, Site
from lens_steer.operators.affine import AffineMap
from lens_steer.operators.catalogue import operator
from lens_steer.steer.plans import SteeringPlan, Step


@dataclass(frozen=True, eq=False)
class Factor:
    """The change of one layer: ``b a`` is added to its weight and, if there is one, ``bias`` to its bias.

    Attributes:
        module: The path of the layer in the Hugging Face model.
        a, b: The low-rank factors.
        bias: The constant that is added to the layer's output; None for none.
    """

    module: str
    a: Float64[Tensor, "rank in"]
    b: Float64[Tensor, "out rank"]
    bias: Float64[Tensor, " out"] | None = None


@dataclass(frozen=True)
class Refusal:
    """A step at a site that does not fold, and the reason."""

    site: str
    operator: str
    reason: str


@dataclass(frozen=True, eq=False)
class Folded:
    """A plan as changes of weights.

    Attributes:
        plan: The part of the plan that folded, which the changed weights carry out without hooks.
        factors: The changes by module path, in network order.
        refused: The steps that were left out.
        into: ``"lora"`` or ``"merged"``.
    """

    plan: SteeringPlan
    factors: Mapping[str, Factor]
    refused: tuple[Refusal, ...]
    into: str

    @property
    def gram_error(self) -> float | None:
        """Return max|BBᵀ − I| over the planes of the part that folded; None without a plane."""
        planes = [s.parameters[name] for s in self.plan.steps for name in operator(s.operator).planes]
        return max((gram_error(b.detach().cpu()) for b in planes), default=None)


def fold(plan: SteeringPlan, model: Any, *, into: str = "lora", partial: bool = False) -> Folded:
    """Return a plan as changes of the model's weights.

    Args:
        plan: A plan made for this model.
        model: A model of :func:`lens_steer.load_model`, or its Hugging Face twin.
        into: ``"lora"`` is an adapter, which cannot change the embedding. ``"merged"`` is the weights themselves, in
            which only some layers can have a bias.
        partial: True leaves out the steps that do not fold, if at least one does.

    Raises:
        LensSteerError: If the plan belongs to another model, if it does not fold (with ``partial``: if nothing of it
            folds; the message gives sites and reasons), or if it steers no site.

    >>> import lens_steer as ls
    >>> plan = ls.selective_steering(ls.load_calibration("figures/calibration"), 200, at="blocks.3.ln2.hook_out")
    >>> found = fold(plan, ls.load_model("organism/qwen2"))
    >>> [(name, tuple(f.a.shape), tuple(f.b.shape)) for name, f in found.factors.items()]
    [('model.layers.3.mlp.gate_proj', (2, 128), (448, 2)), ('model.layers.3.mlp.up_proj', (2, 128), (448, 2))]
    """
    info = info_of(model)
    check_fits(plan, model)
    for name in plan.sites:
        sites.resolve([name], info.layout)
    walk = _Walk(plan, Layers(hf_twin(model), info.architecture, into))
    factors = walk.run()
    steps = [replace(s, sites=tuple(n for n in s.sites if (i, n) in walk.folded)) for i, s in enumerate(plan.steps)]
    found = Folded(replace(plan, steps=tuple(s for s in steps if s.sites)), factors, tuple(walk.refused), into)
    if found.refused and (not partial or not found.plan.steps):
        raise LensSteerError(f"the plan {plan.method!r} does not fold{_reasons(found)}")
    if not plan.sites:
        raise LensSteerError(f"the plan {plan.method!r} matches no site: make it with at=… naming some")
    return found


def _reasons(found: Folded) -> str:
    """Return the text of an error message: each reason once, with its sites, and what to do."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for r in found.refused:
        by_reason.setdefault((r.operator, r.reason), []).append(r.site)
    told = [
        f" at {names[0]}{f' and {len(names) - 1} more sites' if len(names) > 1 else ''}: operator {operator!r} {reason}"
        for (operator, reason), names in by_reason.items()
    ]
    rest = (
        f" (partial=True exports the other {len(found.plan.sites)} sites)" if found.plan.steps else ": steer with hooks"
    )
    return ";".join(told) + rest


@dataclass
class _Walk:
    """A pass over the sites in network order that collects the changes of the layers.

    The folded model's residual stream is never rotated; ``turned`` is the map from it to the hooked model's stream. The
    readers of the stream (norms and unembedding) apply ``turned``, and the layers that write to it apply the inverse.
    A later addition to the stream goes into the bias of the layer that wrote last, so the changes of writing layers
    wait in ``pending`` until the end.

    Attributes:
        plan: The plan to fold.
        layers: The layers of the model.
        refused: The steps that do not fold.
        folded: The index of the step and the site of each step that folds.
        factors: The changes by module path.
        written: The maps that the parts of the stream were written through so far. An ablation folds only if none
            of them leaves anything along its direction.
        added: The constants that were added to the stream so far.
        pending: The map of a writing layer's output and a constant, by module path.
    """

    plan: SteeringPlan
    layers: Layers
    refused: list[Refusal] = field(default_factory=list)
    folded: set[tuple[int, str]] = field(default_factory=set)
    factors: dict[str, Factor] = field(default_factory=dict)
    written: list[AffineMap] = field(default_factory=list)
    added: list[Tensor] = field(default_factory=list)
    pending: dict[str, tuple[AffineMap, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.turned = AffineMap.identity(self.plan.d_model)  # maps the folded model's stream to the hooked model's

    def run(self) -> Mapping[str, Factor]:
        for block in range(self.plan.n_layers):
            for kind in NETWORK_ORDER:
                self._site(Site(block, kind))
        if self.turned.rank:
            self._read(UNEMBEDDING, self.turned.rescaled(self.layers.gain(FINAL_NORM)))
        for module, (written, besides) in self.pending.items():
            self._write(module, written, besides)
        order = [EMBEDDING, *(m for m in self.factors if m not in (EMBEDDING, UNEMBEDDING)), UNEMBEDDING]
        return {m: self.factors[m] for m in order if m in self.factors}

    def _site(self, site: Site) -> None:
        here = [(i, s) for i, s in enumerate(self.plan.steps) if site.name in s.sites]
        total = AffineMap.identity(self.plan.d_model)
        for index, step in here:
            reason = self._against(step, site, total)
            if reason is not None:
                self.refused.append(Refusal(site.name, step.operator, reason))
                continue
            self.folded.add((index, site.name))
            # An ablation of the stream folds only if nothing wrote the direction, so it changes nothing there.
            if not (operator(step.operator).removes and self._is_stream(site)):
                total = total.then(affine_map(step.operator, step.parameters))
        if site.kind in ("ln1", "ln2"):
            if self.turned.rank:
                total = self.turned.rescaled(self.layers.gain(site.module(self.layers.layout))).then(total)
            for module in self.layers.readers(site):
                self._read(module, total)
        elif site.kind in WRITERS:
            self.written.append(total)
            through = total.then(self.turned.inverse()) if self.turned.rank else total
            self.pending[str(self.layers.writer(site))] = (through, torch.zeros_like(total.shift))
        elif site.kind in STREAM:
            self._stream(site, total)

    def _is_stream(self, site: Site) -> bool:
        """Return True if a site is the residual stream after some layer has written to it."""
        return site.kind in STREAM and self.layers.writer(site) is not None

    def _stream(self, site: Site, total: AffineMap) -> None:
        writer = self.layers.writer(site)
        if writer is None:
            self.written.append(total)
            if not total.does_nothing:
                self._embed(total)
            return
        if total.rank:
            self.turned = self.turned.then(total.linear()).compressed()
        if total.shifts:
            self.added.append(total.shift)
            through, besides = self.pending[writer]
            self.pending[writer] = (through, besides + self.turned.inverse()(total.shift))

    def _against(self, step: Step, site: Site, before: AffineMap) -> str | None:
        """Return the reason why a step at a site does not fold, given the map of the steps ``before`` it at this site.

        None means that the step folds.
        """
        if self.plan.positions != "all":
            return f"acts at the positions {self.plan.positions!r} only, and weights act on every token"
        if (reason := not_affine(step.operator, step.parameters)) is not None:
            return reason
        if site.is_norm and not self.layers.readers(site):
            return "acts on a norm's output that goes into the stream: a sum, not a linear layer, reads it"
        if site.kind == "resid_pre" and site.block == 0:
            as_it_is = "acts on the embedding, which an adapter leaves as it is: export merged"
            return as_it_is if self.layers.into == "lora" else None
        if self.layers.norms_between and not site.is_norm:
            return (
                f"acts on what {self.layers.architecture!r} writes through a norm: no linear layer stands before the "
                "sum"
            )
        found = affine_map(step.operator, step.parameters)
        fed = self.layers.readers(site) or (str(self.layers.writer(site)),)
        if found.shifts and (without := self.layers.no_bias(fed)) is not None:
            return (
                f"adds a constant, for which {without} of {self.layers.architecture!r} has no bias: export an adapter"
            )
        return self._against_stream(step, found, before) if site.kind in STREAM else None

    def _against_stream(self, step: Step, found: AffineMap, before: AffineMap) -> str | None:
        if not found.rank:
            return None
        if operator(step.operator).removes:
            unit = found.down[0]
            added = (*self.added, before.shift)
            clean = all(m.annihilates(unit) for m in self.written) and all(
                abs(float(t @ unit)) <= 1e-6 * float(t.norm()) for t in added
            )
            if clean and not self.turned.rank and not before.rank:
                return None
            return (
                "acts on the stream, which holds the direction: ablate at block 0's input and all that attention and "
                "MLP write (directional_ablation(everywhere=True), exported merged)"
            )
        if not is_isometry(step.operator, step.parameters):
            return "changes the length of the stream, which every later norm divides by"
        blocks, layout = range(self.plan.n_layers), self.layers.layout
        norms = [FINAL_NORM, *(Site(b, norm).module(layout) for b in blocks for norm in ("ln1", "ln2"))]
        dead = next((n for n in norms if not bool(self.layers.gain(n).all())), None)
        told = f"turns the stream, and {dead} multiplies a coordinate by zero: no turning after it"
        return None if dead is None else told

    def _read(self, module: str, found: AffineMap) -> None:
        if found.does_nothing:
            return
        weight = self.layers.weight(module)
        self.factors[module] = Factor(
            module, found.down, weight @ found.up, weight @ found.shift if found.shifts else None
        )

    def _write(self, module: str, found: AffineMap, besides: Tensor) -> None:
        if found.does_nothing and not besides.any():
            return
        bias = self.layers.bias(module)
        moved = found.shift + besides + (0.0 if bias is None else found.up @ (found.down @ bias))
        self.factors[module] = Factor(
            module, found.down @ self.layers.weight(module), found.up, moved if moved.any() else None
        )

    def _embed(self, found: AffineMap) -> None:
        rows = self.layers.weight(EMBEDDING)
        a, b = found.up.T, rows @ found.down.T
        # A constant is one more rank: the same vector for every row of the embedding. The model multiplies the rows by
        # the embedding scale later, so the vector is divided by it.
        if found.shifts:
            a = torch.cat([a, found.shift[None] / self.layers.embedding_scale()])
            b = torch.cat([b, torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)
        self.factors[EMBEDDING] = Factor(EMBEDDING, a, b)
