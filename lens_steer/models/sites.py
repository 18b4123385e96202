"""Sites: the tensors of a block, under one set of names for every backend.

Names follow TransformerLens. Within one block, in network order::

    blocks.{l}.hook_resid_pre    the input of the block
    blocks.{l}.ln1.hook_out      the output of the norm before attention, gain included
    blocks.{l}.ln1_post.hook_out the output of the norm after attention (Gemma-2 and 3)
    blocks.{l}.hook_attn_out     what attention adds to the stream (on Gemma-2 and 3 the output of the norm after it)
    blocks.{l}.hook_resid_mid    the residual stream after attention
    blocks.{l}.ln2.hook_out      the output of the norm before the MLP, gain included
    blocks.{l}.ln2_post.hook_out the output of the norm after the MLP (Gemma-2 and 3)
    blocks.{l}.hook_mlp_out      what the MLP adds to the stream (on Gemma-2 and 3 the output of the norm after it)
    blocks.{l}.hook_resid_post   the output of the block

A HookedTransformer has no hook point at the output of a norm (``hook_normalized`` fires before the gain), so
:func:`add_norm_outputs` adds one. A TransformerBridge already has these hook points.
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
# kind → Hugging Face module of the branch, and the norm after it (which only some families have)
BRANCHES = {"attn_out": ("self_attn", "ln1_post"), "mlp_out": ("mlp", "ln2_post")}
NETWORK_ORDER = ("resid_pre", "ln1", "ln1_post", "attn_out", "resid_mid", "ln2", "ln2_post", "mlp_out", "resid_post")
_TWO = {"ln1": "input_layernorm", "ln2": "post_attention_layernorm"}
_FOUR = {
    "ln1": "input_layernorm",
    "ln1_post": "post_attention_layernorm",
    "ln2": "pre_feedforward_layernorm",
    "ln2_post": "post_feedforward_layernorm",
}
# The Hugging Face module of each norm, by model type. A family that is missing here is not supported.
NORM_MODULES: dict[str, dict[str, str]] = {
    **dict.fromkeys(("qwen2", "qwen3", "llama", "mistral"), _TWO),
    **dict.fromkeys(("gemma2", "gemma3_text"), _FOUR),
}
# Families that also normalise queries and keys. These norms act on single heads after a projection, so they are no
# sites.
QK_NORMS = ("qwen3", "gemma3_text")
GROUPS = ("norm_out", "norm_in", "resid", *NETWORK_ORDER)
_NAME = re.compile(
    r"blocks\.(\d+)\.(?:hook_(resid_pre|resid_mid|resid_post|attn_out|mlp_out)|(ln1|ln1_post|ln2|ln2_post)\.hook_out)"
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
        return self.kind not in STREAM and self.kind not in BRANCHES

    @property
    def is_input(self) -> bool:
        """True if the tensor is the input of :meth:`module` and not its output."""
        return self.kind in ("resid_pre", "resid_mid")

    def module(self, architecture: str) -> str:
        """Return the path of the Hugging Face module whose output (or input, see :attr:`is_input`) is the tensor.

        ``resid_mid`` is the input of the norm before the MLP. It can be read there but not written, because the
        residual stream also bypasses that norm.

        Raises:
            LensSteerError: If the architecture is unknown or has no such tensor.
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
        """Describe the tensor in the terms of Hugging Face.

        >>> Site(3, "resid_pre").described("llama"), Site(3, "ln2").described("gemma2")
        ('input of model.layers.3', 'output of model.layers.3.pre_feedforward_layernorm')
        """
        return f"{'input' if self.is_input else 'output'} of {self.module(architecture)}"


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


def parse_module(module: str, architecture: str) -> Site:
    """Return the norm site of a Hugging Face module path, the form of names in published calibrations.

    Raises:
        LensSteerError: If the module is not a norm of the architecture.

    >>> parse_module("model.layers.20.input_layernorm", "gemma2").name
    'blocks.20.ln1.hook_out'
    """
    match = re.fullmatch(r"(?:.*\.)?layers\.(\d+)\.(\w+)", module)
    kinds = {path: kind for kind, path in NORM_MODULES.get(architecture, {}).items()}
    if match is None or match[2] not in kinds:
        raise LensSteerError(f"module {module!r} is not a norm of architecture {architecture!r}")
    return Site(int(match[1]), kinds[match[2]])


def resolve(spec: str | Sequence[str], *, n_layers: int, architecture: str) -> tuple[str, ...]:
    """Return site names in network order for a group, a name, or a list of names and groups.

    The groups are ``norm_out`` (every norm output), ``norm_in`` (the inputs of the norms before attention and before
    the MLP, which are ``resid_pre`` and ``resid_mid`` of each block), ``resid`` (every distinct point of the residual
    stream: the input of the first block, then ``resid_mid`` and ``resid_post`` of each block), and each kind
    (``resid_post``, ``ln1``, …), which means this kind at every block. In a string, commas separate several names.

    Raises:
        LensSteerError: If the model does not have a site of the list, or if the list is empty.

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
        elif item == "norm_in":
            kinds = ("resid_pre", "resid_mid")
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
    """Return the blocks to which the sites belong, sorted and without repetition."""
    return tuple(sorted({parse(name).block for name in names}))


def point(name: str, architecture: str) -> str:
    """Return the hook point of a site.

    On Gemma-2 and 3 the tensor that a branch adds to the stream *is* the output of the norm after the branch. Both
    names therefore share one hook point, so that reads and writes run in the same order on every backend.

    >>> point("blocks.1.hook_attn_out", "gemma2"), point("blocks.1.hook_attn_out", "llama")
    ('blocks.1.ln1_post.hook_out', 'blocks.1.hook_attn_out')
    """
    site = parse(name)
    after = BRANCHES[site.kind][1] if site.kind in BRANCHES else ""
    return Site(site.block, after).name if after in NORM_MODULES.get(architecture, {}) else name


def cached_columns(kwargs: dict[str, Any]) -> int:
    """Return the number of columns in the key–value cache with which a block is called.

    The cache is either TransformerLens's cache entry or Hugging Face's cache; without a cache the number is 0.
    """
    entry, cache = kwargs.get("past_kv_cache_entry"), kwargs.get("past_key_values")
    if entry is not None:
        return int(entry.past_keys.shape[1])
    return 0 if cache is None else int(cache.get_seq_length())


class _SharedNorm:
    """A forward hook that sends the output of a norm through a hook point, once per forward.

    A HookedTransformer block calls ``ln1`` three times with the same tensor, for queries, keys and values. Within one
    call of the block, the second and third calls return the result of the first, so hooks at the site run only once.
    Outside of a block nothing is shared.
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
    """Give every block norm of a HookedTransformer a hook point ``hook_out`` at its output.

    Norms that already have this hook point are left as they are.
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
