"""Sites: which tensor at which block, under one set of names for every backend.

Names follow TransformerLens. Within one block, in network order::

    blocks.{l}.hook_resid_pre    the block's input
    blocks.{l}.ln1.hook_out      output of the norm before attention, gain included
    blocks.{l}.hook_attn_out     what attention adds to the stream (on Gemma-2 and 3 the norm after it)
    blocks.{l}.ln1_post.hook_out output of the norm after attention (Gemma-2 and 3)
    blocks.{l}.hook_resid_mid    the stream after attention
    blocks.{l}.ln2.hook_out      output of the norm before the MLP, gain included
    blocks.{l}.hook_mlp_out      what the MLP adds to the stream (on Gemma-2 and 3 the output of the norm after the MLP)
    blocks.{l}.ln2_post.hook_out output of the norm after the MLP (Gemma-2 and 3)
    blocks.{l}.hook_resid_post   the block's output

A HookedTransformer has no hook point at a norm's output (``hook_normalized`` fires before the gain), so
:func:`add_norm_outputs` adds one; a TransformerBridge has them already.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lens_steer.errors import LensSteerError

STREAM = ("resid_pre", "resid_mid", "resid_post")
BRANCHES = {"attn_out": ("self_attn", "ln1_post"), "mlp_out": ("mlp", "ln2_post")}  # module; the norm after it, if any
NETWORK_ORDER = ("resid_pre", "ln1", "ln1_post", "attn_out", "resid_mid", "ln2", "ln2_post", "mlp_out", "resid_post")
_TWO = {"ln1": "input_layernorm", "ln2": "post_attention_layernorm"}
_FOUR = {
    "ln1": "input_layernorm",
    "ln1_post": "post_attention_layernorm",
    "ln2": "pre_feedforward_layernorm",
    "ln2_post": "post_feedforward_layernorm",
}
# Hugging Face module of each norm, by model type. A family missing here is not supported.
NORM_MODULES: dict[str, dict[str, str]] = {
    **dict.fromkeys(("qwen2", "qwen3", "llama", "mistral"), _TWO),
    **dict.fromkeys(("gemma2", "gemma3_text"), _FOUR),
}
QK_NORMS = (
    "qwen3",
    "gemma3_text",
)  # families with norms of queries and keys besides, behind a projection to heads: no sites
GROUPS = ("norm_out", "resid", *NETWORK_ORDER)
_NAME = re.compile(
    r"blocks\.(\d+)\.(?:hook_(resid_pre|resid_mid|resid_post|attn_out|mlp_out)|(ln1|ln1_post|ln2|ln2_post)\.hook_out)"
)


@dataclass(frozen=True)
class Site:
    """One tensor of one block.

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
        """Sorts sites as a forward pass meets them."""
        return self.block, NETWORK_ORDER.index(self.kind)

    @property
    def is_norm(self) -> bool:
        return self.kind not in STREAM and self.kind not in BRANCHES

    @property
    def is_input(self) -> bool:
        """Whether the tensor is the input of :meth:`module`, not its output."""
        return self.kind in ("resid_pre", "resid_mid")

    def module(self, architecture: str) -> str:
        """The Hugging Face module path whose output (or input, :attr:`is_input`) is the tensor.

        ``resid_mid`` is the input of the norm before the MLP. It can be read there but not written: the stream goes
        past that norm too.

        Raises:
            LensSteerError: the architecture has no such tensor, or is unknown.
        """
        norms = NORM_MODULES.get(architecture, {})
        kind = self.kind
        if kind in ("resid_pre", "resid_post"):
            return f"model.layers.{self.block}"
        if kind in BRANCHES:
            module, norm_after = BRANCHES[kind]
            return f"model.layers.{self.block}.{norms.get(norm_after, module)}"
        kind = "ln2" if kind == "resid_mid" else kind
        if kind not in norms:
            raise LensSteerError(f"site {self.name!r} has no Hugging Face module in architecture {architecture!r}")
        return f"model.layers.{self.block}.{norms[kind]}"

    def described(self, architecture: str) -> str:
        """The tensor in Hugging Face's terms.

        >>> Site(3, "resid_pre").described("llama"), Site(3, "ln2").described("gemma2")
        ('input of model.layers.3', 'output of model.layers.3.pre_feedforward_layernorm')
        """
        return f"{'input' if self.is_input else 'output'} of {self.module(architecture)}"


def parse(name: str) -> Site:
    """The site of a name; raises :class:`LensSteerError` for anything else.

    >>> parse("blocks.7.ln1.hook_out")
    Site(block=7, kind='ln1')
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise LensSteerError(
            f"site {name!r} is unknown: use a name such as blocks.3.ln1.hook_out, or one of {', '.join(GROUPS)}"
        )
    return Site(int(match[1]), match[2] or match[3])


def parse_module(module: str, architecture: str) -> Site:
    """The norm site of a Hugging Face module path, as published calibrations name it.

    >>> parse_module("model.layers.20.input_layernorm", "gemma2").name
    'blocks.20.ln1.hook_out'
    """
    match = re.fullmatch(r"(?:.*\.)?layers\.(\d+)\.(\w+)", module)
    kinds = {path: kind for kind, path in NORM_MODULES.get(architecture, {}).items()}
    if match is None or match[2] not in kinds:
        raise LensSteerError(f"module {module!r} is not a norm of architecture {architecture!r}")
    return Site(int(match[1]), kinds[match[2]])


def resolve(spec: str | Sequence[str], *, n_layers: int, architecture: str) -> tuple[str, ...]:
    """Site names in network order from a group, a name, or a list of names and groups.

    Groups: ``norm_out`` (every norm output), ``resid`` (every distinct point of the stream: the first block's input,
    then each ``resid_mid`` and ``resid_post``), or one kind (``resid_post``, ``ln1``, …) at every block. A comma
    separates several.

    Raises:
        LensSteerError: a name that the model does not have.

    >>> resolve("ln1", n_layers=2, architecture="qwen2")
    ('blocks.0.ln1.hook_out', 'blocks.1.ln1.hook_out')
    """
    norms = tuple(NORM_MODULES.get(architecture, ()))
    items = [part.strip() for part in spec.split(",")] if isinstance(spec, str) else list(spec)
    found: set[Site] = set()
    for item in items:
        if not isinstance(item, str):
            raise LensSteerError(
                f"sites={spec!r}: {item!r} is no name, give such as 'blocks.3.ln1.hook_out', one of "
                f"{', '.join(GROUPS)}, or a list of names"
            )
        if item == "norm_out":
            kinds: tuple[str, ...] = norms
        elif item == "resid":
            kinds = ("resid_mid", "resid_post")
            found.add(Site(0, "resid_pre"))
        elif item in NETWORK_ORDER:
            kinds = (item,)
        else:
            site = parse(item)
            if site.block >= n_layers or (site.is_norm and site.kind not in norms):
                raise LensSteerError(f"site {item!r} does not exist in this model ({architecture}, {n_layers} blocks)")
            found.add(site)
            continue
        if any(Site(0, kind).is_norm and kind not in norms for kind in kinds):
            raise LensSteerError(
                f"sites {item!r} do not exist in architecture {architecture!r}, which has the norms {norms}"
            )
        found |= {Site(block, kind) for block in range(n_layers) for kind in kinds}
    if not found:
        raise LensSteerError(f"sites={spec!r} names no site: use one of {', '.join(GROUPS)} or a list of names")
    return tuple(site.name for site in sorted(found, key=lambda s: s.order))


def blocks_of(names: Iterable[str]) -> tuple[int, ...]:
    """The blocks that the sites belong to, sorted, each once."""
    return tuple(sorted({parse(name).block for name in names}))


def point(name: str, architecture: str) -> str:
    """The hook point of a site. On Gemma-2 and 3 what a branch adds *is* the output of the norm after it: one tensor,
    one point under both names, so that what reads and writes it comes in one order on every backend.

    >>> point("blocks.1.hook_attn_out", "gemma2"), point("blocks.1.hook_attn_out", "llama")
    ('blocks.1.ln1_post.hook_out', 'blocks.1.hook_attn_out')
    """
    site = parse(name)
    after = BRANCHES[site.kind][1] if site.kind in BRANCHES else ""
    return Site(site.block, after).name if after in NORM_MODULES.get(architecture, {}) else name


def cached_columns(kwargs: dict[str, Any]) -> int:
    """How many columns the key–value cache that a block is called with already holds: TransformerLens's entry, or
    Hugging Face's cache.
    """
    entry, cache = kwargs.get("past_kv_cache_entry"), kwargs.get("past_key_values")
    if entry is not None:
        return int(entry.past_keys.shape[1])
    return 0 if cache is None else int(cache.get_seq_length())


class _SharedNorm:
    """Forward hook that sends a norm's output through a hook point, once per forward.

    A HookedTransformer block calls ``ln1`` three times with the very same tensor, for queries, keys and values. Within
    one call of the block the second and third get the first one's result, so a hook fires once and costs once; outside
    of a block nothing is shared.
    """

    def __init__(self) -> None:
        self._inside = False
        self._input: torch.Tensor | None = None
        self._output: torch.Tensor | None = None

    def enter(self, block: nn.Module, args: tuple[Any, ...]) -> None:
        self._inside, self._input, self._output = True, None, None

    def leave(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._inside, self._input, self._output = False, None, None

    def __call__(self, norm: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        if self._inside and self._input is args[0] and self._output is not None:
            return self._output
        result: torch.Tensor = norm.hook_out(output)  # type: ignore[operator]
        if self._inside:
            self._input, self._output = args[0], result
        return result


def _through_hook_point(norm: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    return norm.hook_out(output)  # type: ignore[operator,no-any-return]


def add_norm_outputs(model: Any) -> None:
    """Give every block norm of a HookedTransformer a hook point ``hook_out`` at its output; does nothing where it
    exists.
    """
    from transformer_lens.hook_points import HookPoint

    added = False
    for block in model.blocks:
        for kind in ("ln1", "ln1_post", "ln2", "ln2_post"):
            norm = getattr(block, kind, None)
            if norm is None or hasattr(norm, "hook_out"):
                continue
            norm.hook_out = HookPoint()
            if kind == "ln1":
                shared = _SharedNorm()
                norm.register_forward_hook(shared)
                block.register_forward_pre_hook(shared.enter)
                block.register_forward_hook(shared.leave)
            else:
                norm.register_forward_hook(_through_hook_point)
            added = True
    if added:
        model.setup()
