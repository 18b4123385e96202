"""Mechanistic study of activation steering on TransformerLens models.

Each public name is imported when it is first used, so ``import lens_steer`` is fast and loads neither TransformerLens
nor matplotlib nor scikit-learn. The names and their modules stand in ``__init__.pyi``.
"""

from typing import Any

import lazy_loader

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("lens-steer")
    if name not in __all__:
        raise AttributeError(f"module 'lens_steer' has no attribute {name!r}")
    return _public(name)
