"""Mechanistic study of activation steering on TransformerLens models.

Names are imported when they are first used, so ``import lens_steer`` is quick and loads neither TransformerLens nor matplotlib nor
scikit-learn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lens_steer.activations import Activations as Activations
    from lens_steer.activations import record as record
    from lens_steer.artifacts import load_calibration as load_calibration
    from lens_steer.artifacts import save_calibration as save_calibration
    from lens_steer.errors import LensSteerError as LensSteerError
    from lens_steer.generation import generate as generate
    from lens_steer.geometry.calibration import Calibration as Calibration
    from lens_steer.geometry.calibration import calibrate as calibrate
    from lens_steer.hooks import SteeringPlan as SteeringPlan
    from lens_steer.hooks import adaptive_angular as adaptive_angular
    from lens_steer.hooks import selective_steering as selective_steering
    from lens_steer.hooks import standard_angular as standard_angular
    from lens_steer.hooks import steering as steering
    from lens_steer.models import load_model as load_model
    from lens_steer.prompts import Contrast as Contrast
    from lens_steer.prompts import ContrastSet as ContrastSet
    from lens_steer.prompts import Prompt as Prompt
    from lens_steer.prompts import PromptSet as PromptSet
    from lens_steer.prompts import load_contrast as load_contrast
    from lens_steer.prompts import load_prompts as load_prompts

_HOMES = {
    "Activations": "activations",
    "Calibration": "geometry.calibration",
    "Contrast": "prompts",
    "ContrastSet": "prompts",
    "LensSteerError": "errors",
    "Prompt": "prompts",
    "PromptSet": "prompts",
    "SteeringPlan": "hooks",
    "adaptive_angular": "hooks",
    "calibrate": "geometry.calibration",
    "generate": "generation",
    "load_calibration": "artifacts",
    "load_contrast": "prompts",
    "load_model": "models",
    "load_prompts": "prompts",
    "record": "activations",
    "save_calibration": "artifacts",
    "selective_steering": "hooks",
    "standard_angular": "hooks",
    "steering": "hooks",
}
__all__ = [
    "Activations",
    "Calibration",
    "Contrast",
    "ContrastSet",
    "LensSteerError",
    "Prompt",
    "PromptSet",
    "SteeringPlan",
    "adaptive_angular",
    "calibrate",
    "generate",
    "load_calibration",
    "load_contrast",
    "load_model",
    "load_prompts",
    "record",
    "save_calibration",
    "selective_steering",
    "standard_angular",
    "steering",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lens_steer' has no attribute {name!r}")
    return getattr(import_module(f"lens_steer.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
