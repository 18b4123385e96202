"""Whether what was made on one model may be used on another."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from lens_steer.errors import LensSteerError
from lens_steer.models.loading import info_of
from lens_steer.models.templates import tell_difference


@runtime_checkable
class MadeFor(Protocol):
    """What knows the model that it was made for: a calibration, a plan."""

    @property
    def model(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def d_model(self) -> int: ...


def check_fits(made: MadeFor, model: Any) -> None:
    """Refuse a calibration or a plan that was made on another model; tell (once, logged) where its prompts had another chat template, other arguments or another date.

    Raises:
        LensSteerError: d_model, the number of blocks or the architecture differ.
    """
    info = info_of(model)
    for name in ("d_model", "n_layers", "architecture"):
        a, b = getattr(made, name), getattr(info, name)
        if a != b:
            raise LensSteerError(
                f"the {type(made).__name__} was made on {made.model!r} ({name} {a}) and the model {info.name!r} has {name} {b}: calibrate on this model"
            )
    tell_difference(made, info.template, vars(model).setdefault("lens_told", set()))
