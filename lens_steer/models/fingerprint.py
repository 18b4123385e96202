"""What tells whether a model was changed after loading: a hash of its weights, and the number of its hooks."""

from __future__ import annotations

from typing import Any

import torch

LIBRARIES = ("transformer_lens.", "transformers.")


def fingerprint(model: Any) -> tuple[int, int]:
    """Return a hash of the model's weights and the number of its PyTorch hooks (:func:`n_hooks`).

    The hash changes when a parameter is replaced, or when it is edited in place and the twin does not share it. The
    number changes when a module gets or loses a PyTorch hook.
    """
    twin = vars(model).get("lens_twin")
    shared = set() if twin is None else {_storage(p) for p in twin.parameters()}
    weights = hash(tuple((id(p), _storage(p), 0 if _storage(p) in shared else p._version) for p in model.parameters()))
    return weights, n_hooks(model)


def n_hooks(model: Any) -> int:
    """Return the number of PyTorch hooks of a model's modules.

    Hooks at hook points and hooks of the libraries are not counted: TransformerLens's Bridge adds some on its first
    forward, and ``run_with_cache`` makes Transformers add some that capture outputs.

    >>> import torch
    >>> module = torch.nn.Identity()
    >>> handle = module.register_forward_pre_hook(lambda module, args: None)
    >>> n_hooks(module)
    1
    """
    from transformer_lens.hook_points import HookPoint

    hooks = [
        hook
        for m in model.modules()
        if not isinstance(m, HookPoint)
        for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
    ]
    return sum(not str(getattr(getattr(h, "func", h), "__module__", "")).startswith(LIBRARIES) for h in hooks)


def _storage(parameter: torch.Tensor) -> int:
    """Return the address of the memory of which a parameter is a view."""
    return parameter.untyped_storage().data_ptr()
