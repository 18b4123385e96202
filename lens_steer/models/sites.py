"""Sites: the tensors of a block, under one set of names for every backend.

Names follow TransformerLens. Within one block, in network order::

    blocks.{l}.hook_resid_pre    the input of the block
    blocks.{l}.ln1.hook_out      the output of the norm before attention, gain included
    blocks.{l}.ln1_post.hook_out the output of the norm after attention (Gemma-2 and 3, OLMo-2, …)
    blocks.{l}.hook_attn_out     what attention adds to the stream (where there is a norm after it, that norm's output)
    blocks.{l}.hook_resid_mid    the residual stream after attention
    blocks.{l}.ln2.hook_out      the output of the norm before the MLP, gain included
    blocks.{l}.hook_router_logits the logits of the experts, ``[batch, pos, n_experts]``; they can only be read
    blocks.{l}.ln2_post.hook_out the output of the norm after the MLP
    blocks.{l}.hook_mlp_out      what the MLP adds to the stream (where there is a norm after it, that norm's output)
    blocks.{l}.hook_resid_post   the output of the block

A block has only some of them (:class:`lens_steer.models.layout.Block`): a parallel block has no stream between
attention and MLP, and one norm can feed both. A few families multiply what a branch adds by a number; their
``attn_out`` and ``mlp_out`` are the tensors before that.

A HookedTransformer has no hook point at the output of a norm; :mod:`lens_steer.models.norm_points` adds one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lens_steer.errors import LensSteerError
from lens_steer.models.layout import BRANCHES, NORM_KINDS, ROUTER_LOGITS, Block, Layout

STREAM = ("resid_pre", "resid_mid", "resid_post")
AFTER = {out: post for _, out, post in BRANCHES}  # the norm after each branch, which only some families have
NETWORK_ORDER = (
    "resid_pre", "ln1", "ln1_post", "attn_out", "resid_mid", "ln2", ROUTER_LOGITS, "ln2_post", "mlp_out", "resid_post",
)  # fmt: skip
GROUPS = ("norm_out", "norm_in", "resid", *NETWORK_ORDER)
_NAME = re.compile(
    r"blocks\.(\d+)\.(?:hook_(resid_pre|resid_mid|resid_post|attn_out|mlp_out|router_logits)|(ln1|ln1_post|ln2|ln2_post)\.hook_out)"
)


@dataclass(frozen=True)
class Site:
    """One tensor of one block.

    Attributes:
        block: The index of the block, from 0.
        kind: The kind of the tensor, one of :data:`NETWORK_ORDER`.

    >>> Site(3, "ln2").name, Site(3, "resid_post").name
    ('blocks.3.ln2.hook_out', 'blocks.3.hook_resid_post')
    """

    block: int
    kind: str

    @property
    def name(self) -> str:
        return f"blocks.{self.block}.{self.kind}.hook_out" if self.is_norm else f"blocks.{self.block}.hook_{self.kind}"

    @property
    def order(self) -> tuple[int, int]:
        """The sort key that puts sites in the order of a forward pass."""
        return self.block, NETWORK_ORDER.index(self.kind)

    @property
    def is_norm(self) -> bool:
        return self.kind in NORM_KINDS

    @property
    def is_input(self) -> bool:
        """True if the tensor is the input of :meth:`module` and not its output."""
        return self.kind in ("resid_pre", "resid_mid")

    def module(self, layout: Layout) -> str:
        """Return the path of the Hugging Face module whose output (or input, see :attr:`is_input`) is the tensor.

        ``resid_mid`` is the input of the norm before the MLP (or of the MLP, if no norm is before it). It can be read
        there but not written, because the residual stream also bypasses that module.

        Raises:
            LensSteerError: If the block has no such tensor.
        """
        if self.block >= len(layout.blocks):
            raise LensSteerError(f"site {self.name!r} does not exist: the model has {len(layout.blocks)} blocks")
        block = layout.blocks[self.block]
        if self.kind in ("resid_pre", "resid_post"):
            return layout.paths[self.block]
        others = {"resid_mid": block.middle, ROUTER_LOGITS: "" if block.router is None else block.router.module}
        path = others[self.kind] if self.kind in others else block.path.get(self.kind, "")
        if not path:
            raise LensSteerError(
                f"site {self.name!r} does not exist: block {self.block} has {', '.join(kinds_of(block))}"
            )
        return f"{layout.paths[self.block]}.{path}"

    def described(self, layout: Layout) -> str:
        """Describe the tensor in the terms of Hugging Face.

        >>> from lens_steer.models.layout import known_layout
        >>> Site(3, "resid_pre").described(known_layout("llama", 4))
        'input of model.layers.3'
        >>> Site(3, "ln2").described(known_layout("gemma2", 4))
        'output of model.layers.3.pre_feedforward_layernorm'
        """
        place = self.output(layout)
        what = "input" if self.is_input else f"output {place}" if place else "output"
        return f"{what} of {self.module(layout)}"

    def output(self, layout: Layout) -> int:
        """Return which of the outputs of :meth:`module` the tensor is: the first one, except for some routers."""
        router = layout.blocks[self.block].router if self.kind == ROUTER_LOGITS else None
        return 0 if router is None else router.output


def kinds_of(block: Block) -> tuple[str, ...]:
    """Return the kinds of tensors of width ``d_model`` that a block has, in network order.

    >>> from lens_steer.models.layout import known_layout
    >>> kinds_of(known_layout("llama", 1).blocks[0])
    ('resid_pre', 'ln1', 'attn_out', 'resid_mid', 'ln2', 'mlp_out', 'resid_post')
    """
    there = {"resid_pre", "resid_post", *block.path} | ({"resid_mid"} if block.middle else set())
    return tuple(kind for kind in NETWORK_ORDER if kind in there)


def parse(name: str) -> Site:
    """Return the site of a name.

    Raises:
        LensSteerError: If the name is not the name of a site.

    >>> parse("blocks.7.ln1.hook_out")
    Site(block=7, kind='ln1')
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise LensSteerError(
            f"site {name!r} is unknown: use a name such as blocks.3.ln1.hook_out, or one of {', '.join(GROUPS)}"
        )
    return Site(int(match[1]), match[2] or match[3])


def width_at(site: Site, layout: Layout, d_model: int) -> int:
    """Return the width of a tensor: the number of experts for the logits of a router, else ``d_model``.

    >>> from lens_steer.models.layout import known_layout
    >>> width_at(Site(0, "ln1"), known_layout("llama", 3), 128)
    128
    """
    router = layout.blocks[site.block].router if site.kind == ROUTER_LOGITS else None
    return d_model if router is None else router.experts


def check_writable(names: Iterable[str]) -> None:
    """Refuse to write at a site that is no tensor of the stream's width.

    Raises:
        LensSteerError: If a site is a router's.

    >>> check_writable(["blocks.0.hook_resid_pre"])
    """
    for name in names:
        if parse(name).kind == ROUTER_LOGITS:
            raise LensSteerError(
                f"site {name!r} cannot be written: the logits of a router are no vectors of the stream; steer what the "
                "router reads (the site before it in 'lens-steer sites')"
            )


def parse_module(module: str, layout: Layout) -> Site:
    """Return the norm site of a Hugging Face module path, the form of names in published calibrations.

    Raises:
        LensSteerError: If the module is not a norm of the model.

    >>> from lens_steer.models.layout import known_layout
    >>> parse_module("model.layers.20.input_layernorm", known_layout("gemma2", 26)).name
    'blocks.20.ln1.hook_out'
    """
    match = re.fullmatch(rf"(?:.*\.)?{re.escape(layout.layers.split('.')[-1])}\.(\d+)\.(.+)", module)
    if match is not None and int(match[1]) < len(layout.blocks):
        block = layout.blocks[int(match[1])]
        for kind in block.norms:
            if block.path[kind] == match[2]:
                return Site(int(match[1]), kind)
    raise LensSteerError(
        f"module {module!r} is not a norm of the model, whose blocks are {layout.layers}.0 to "
        f"{len(layout.blocks) - 1} with {', '.join(layout.blocks[0].path[kind] for kind in layout.blocks[0].norms)}"
    )


def resolve(spec: str | Sequence[str], layout: Layout) -> tuple[str, ...]:
    """Return site names in network order for a group, a name, or a list of names and groups.

    The groups are ``norm_out`` (every norm output), ``norm_in`` (the inputs of the norms before attention and before
    the MLP, which are ``resid_pre`` and ``resid_mid`` of each block), ``resid`` (every distinct point of the residual
    stream: the input of the first block, then ``resid_mid`` and ``resid_post`` of each block), and each kind
    (``resid_post``, ``ln1``, …), which means this kind at every block that has it. In a string, commas separate several
    names.

    Raises:
        LensSteerError: If the model does not have a site of the list, or if the list is empty.

    >>> from lens_steer.models.layout import known_layout
    >>> resolve("ln1", known_layout("qwen2", 2))
    ('blocks.0.ln1.hook_out', 'blocks.1.ln1.hook_out')
    """
    items = [part.strip() for part in spec.split(",")] if isinstance(spec, str) else list(spec)
    there = {Site(index, kind) for index, block in enumerate(layout.blocks) for kind in kinds_of(block)}
    there |= {Site(index, ROUTER_LOGITS) for index, block in enumerate(layout.blocks) if block.router is not None}
    kinds = [kind for kind in NETWORK_ORDER if any(site.kind == kind for site in there)]
    has = f"{len(layout.blocks)} blocks with {', '.join(kinds)}"
    found: set[Site] = set()
    for item in items:
        if not isinstance(item, str):
            raise LensSteerError(
                f"sites={spec!r}: {item!r} is no name, give such as 'blocks.3.ln1.hook_out', one of "
                f"{', '.join(GROUPS)}, or a list of names"
            )
        if item in GROUPS:
            wanted = {site for site in there if _in_group(site, item, layout)}
            if not wanted:
                why = " (no mixture of experts, or its router was not found)" if item == ROUTER_LOGITS else ""
                raise LensSteerError(f"sites {item!r} do not exist in this model, which has {has}{why}")
        else:
            wanted = {parse(item)}
            if not wanted <= there:
                raise LensSteerError(f"site {item!r} does not exist in this model, which has {has}")
        found |= wanted
    if not found:
        raise LensSteerError(f"sites={spec!r} names no site: use one of {', '.join(GROUPS)} or a list of names")
    return tuple(site.name for site in sorted(found, key=lambda s: s.order))


def _in_group(site: Site, group: str, layout: Layout) -> bool:
    """Return True if a site belongs to a group of :data:`GROUPS`, see :func:`resolve`."""
    if group == "norm_out":
        return site.is_norm
    if group == "norm_in":
        norm = {"resid_pre": "ln1", "resid_mid": "ln2"}.get(site.kind)
        return norm in layout.blocks[site.block].norms
    if group == "resid":
        return site.kind in ("resid_mid", "resid_post") or site == Site(0, "resid_pre")
    return site.kind == group


def blocks_of(names: Iterable[str]) -> tuple[int, ...]:
    """Return the blocks to which the sites belong, sorted and without repetition."""
    return tuple(sorted({parse(name).block for name in names}))


def point(name: str, layout: Layout) -> str:
    """Return the hook point of a site.

    Where a norm stands after a branch, the tensor that the branch adds to the stream *is* the output of that norm. Both
    names therefore share one hook point, so that reads and writes run in the same order on every backend.

    >>> from lens_steer.models.layout import known_layout
    >>> point("blocks.1.hook_attn_out", known_layout("gemma2", 2))
    'blocks.1.ln1_post.hook_out'
    >>> point("blocks.1.hook_attn_out", known_layout("llama", 2))
    'blocks.1.hook_attn_out'
    """
    site = parse(name)
    after, there = AFTER.get(site.kind, ""), site.block < len(layout.blocks)
    return Site(site.block, after).name if there and after in layout.blocks[site.block].norms else name


def cached_columns(given: Iterable[Any]) -> int:
    """Return the number of columns in the key–value cache among the arguments with which a block is called.

    The cache is either TransformerLens's cache entry or Hugging Face's cache; without a cache the number is 0.

    >>> cached_columns([None, 3])
    0
    """
    for value in given:
        if hasattr(value, "past_keys"):
            return int(value.past_keys.shape[1])
        if hasattr(value, "get_seq_length"):
            return int(value.get_seq_length())
    return 0
