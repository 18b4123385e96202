"""The model on which an artifact was made, and the check that the artifact fits another model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lens_steer.errors import LensSteerError
from lens_steer.models.info import ModelInfo
from lens_steer.models.layout import Layout, WithLayout
from lens_steer.models.loading import info_of
from lens_steer.models.sites import parse, width_at
from lens_steer.models.templates import ChatTemplate, tell_difference


@dataclass(frozen=True, eq=False, kw_only=True)
class ModelRef(WithLayout):
    """The model on which an artifact (activations, a calibration, a boundary or a probe) was made.

    Attributes:
        model: The name of the model, as it was loaded.
        architecture: The model type of Hugging Face.
        n_layers: The number of blocks.
        template: The chat template of the prompts, with its arguments and its date; None if it was not recorded.
        own_layout: See :class:`lens_steer.models.layout.WithLayout`.
    """

    model: str
    architecture: str
    n_layers: int
    template: ChatTemplate | None = None
    own_layout: Layout | None = None


def reference(source: Any) -> dict[str, Any]:
    """Return the fields of a :class:`ModelRef` for a loaded model, or for an artifact that was made on one.

    Args:
        source: The description of a model (:class:`lens_steer.models.info.ModelInfo`), or a :class:`ModelRef`.

    >>> made = ModelRef(model="organism/qwen2", architecture="qwen2", n_layers=12)
    >>> reference(made)
    {'model': 'organism/qwen2', 'architecture': 'qwen2', 'n_layers': 12, 'template': None, 'own_layout': None}
    """
    name = source.name if isinstance(source, ModelInfo) else source.model
    return {
        "model": name,
        "architecture": source.architecture,
        "n_layers": source.n_layers,
        "template": source.template,
        "own_layout": source.own_layout,
    }


def check_fits(made: Any, model: Any) -> None:
    """Refuse a calibration or a plan that was made on another model.

    If its prompts had another chat template, other template arguments or another date, a warning is logged once.

    Raises:
        LensSteerError: If d_model, the number of blocks or the architecture differ.
    """
    info = info_of(model)
    site = None if getattr(made, "site", None) is None else parse(made.site)
    width = info.d_model if site is None or site.block >= info.n_layers else width_at(site, info.layout, info.d_model)
    for name in ("d_model", "n_layers", "architecture"):
        a, b = getattr(made, name), width if name == "d_model" else getattr(info, name)
        if a != b:
            raise LensSteerError(
                f"the {type(made).__name__} was made on {made.model!r} ({name} {a}) and the model {info.name!r} "
                f"has {name} {b}: calibrate on this model"
            )
    tell_difference(made, info.template, vars(model).setdefault("lens_told", set()))
