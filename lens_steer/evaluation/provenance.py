"""The record of how a result was made, written beside its numbers and in every figure."""

from __future__ import annotations

from typing import Any

from lens_steer.geometry.calibration import versions
from lens_steer.models.loading import info_of


def provenance(model: Any | None, *, command: str, seed: int, **more: Any) -> dict[str, Any]:
    """Return the record of how a result was made, as plain values for JSON.

    Args:
        model: A model from :func:`lens_steer.load_model`; its name and its chat template are recorded. None where no
            model was used.
        command: The command line, or an empty text.
        seed: The seed of everything drawn.
        **more: What shaped this result besides, such as ``prompt_hashes``; it comes last, in the given order.

    >>> import lens_steer as ls
    >>> found = provenance(ls.load_model("organism/qwen2"), command="lens-steer report", seed=0, engine="hf")
    >>> list(found)
    ['command', 'seed', 'versions', 'model', 'chat_template', 'engine']
    """
    made = {"command": command, "seed": seed, "versions": versions()}
    if model is not None:
        info = info_of(model)
        made |= {"model": info.name, "chat_template": info.template.row()}
    return made | more
