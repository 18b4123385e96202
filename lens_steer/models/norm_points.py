"""Hook points at the outputs of the norms of a HookedTransformer, which has none there.

Its ``hook_normalized`` fires before the gain. A TransformerBridge already has these hook points.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lens_steer.models.layout import NORM_KINDS


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
        for kind in NORM_KINDS:
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
