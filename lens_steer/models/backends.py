"""Which class of TransformerLens holds a model: a HookedTransformer where it can, otherwise a TransformerBridge."""

from __future__ import annotations

import logging
from typing import Any

from lens_steer.errors import LensSteerError
from lens_steer.models.hooked_transformer import NotHeldError, hooked_config

log = logging.getLogger(__name__)

BACKENDS = ("auto", "hooked", "bridge", "hf")


def choose_backend(
    config: Any, name: str, backend: str, n_devices: int, only_bridge: str
) -> tuple[str, dict[str, Any] | None]:
    """Choose the backend, and map the configuration for a HookedTransformer.

    Args:
        config, name: The configuration and the name of a model whose architecture is known by name.
        backend, n_devices: See :func:`lens_steer.load_model`.
        only_bridge: What was asked for that no HookedTransformer can have; empty if nothing was.

    Returns:
        ``hooked`` with the mapped configuration, or ``bridge`` with None if it was requested or if nothing else can
        hold the model.

    Raises:
        LensSteerError: If the backend does not exist, cannot hold the model, or cannot have what was asked for.

    >>> from lens_steer.models.location import locate, read_config
    >>> choose_backend(read_config("organism/llama", locate("organism/llama")), "organism/llama", "bridge", 1, "")
    ('bridge', None)
    """
    if only_bridge:
        if backend == "hooked" or n_devices > 1:
            told = f"n_devices={n_devices}" if n_devices > 1 else "backend='hooked'"
            raise LensSteerError(
                f"{told} and {only_bridge} do not go together: only a TransformerBridge can have those, use "
                "backend='bridge' and one device_map"
            )
        backend = "bridge"
    if _backend(backend, n_devices) == "bridge":
        return "bridge", None
    try:
        return "hooked", hooked_config(config, name)
    except NotHeldError as error:
        if backend == "hooked" or n_devices > 1:
            raise
        log.warning("%s (backend='auto' does)", error)
        return "bridge", None


def _backend(backend: str, n_devices: int) -> str:
    """Return ``hooked`` or ``bridge``: the requested backend, if it exists."""
    try:
        from transformer_lens import HookedTransformer  # noqa: F401
    except ImportError:
        if backend == "hooked":
            raise LensSteerError(
                "backend='hooked' needs TransformerLens 3, this environment has a newer one: use "
                "backend='bridge', or pip install 'transformer-lens<4'"
            ) from None
        backend = "bridge"
    if backend == "bridge" and n_devices > 1:
        raise LensSteerError(
            f"n_devices={n_devices}: splitting so is supported for backend='hooked' only, give device_map='auto'"
        )
    return "bridge" if backend == "bridge" else "hooked"
