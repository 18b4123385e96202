"""Mechanistic study of activation steering on TransformerLens models.

Each public name is imported when it is first used, so ``import lens_steer`` is fast and loads neither TransformerLens
nor matplotlib nor scikit-learn. To make a name public, add one import for type checkers below.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lens_steer.data import Contrast as Contrast
    from lens_steer.data import ContrastSet as ContrastSet
    from lens_steer.data import Prompt as Prompt
    from lens_steer.data import PromptSet as PromptSet
    from lens_steer.data import load_contrast as load_contrast
    from lens_steer.data import load_prompts as load_prompts
    from lens_steer.errors import LensSteerError as LensSteerError
    from lens_steer.figures.saving import draw as draw
    from lens_steer.geometry.boundary import Boundary as Boundary
    from lens_steer.geometry.boundary import boundary as boundary
    from lens_steer.geometry.calibration import Calibration as Calibration
    from lens_steer.geometry.calibration import calibrate as calibrate
    from lens_steer.geometry.files import load_calibration as load_calibration
    from lens_steer.geometry.files import save_calibration as save_calibration
    from lens_steer.geometry.rules import discriminative_by_rule as discriminative_by_rule
    from lens_steer.geometry.rules import with_rule as with_rule
    from lens_steer.geometry.summary import summarise as summarise
    from lens_steer.inference.dialogue import Dialogue as Dialogue
    from lens_steer.inference.dialogue import converse as converse
    from lens_steer.inference.generation import generate as generate
    from lens_steer.inference.record import Activations as Activations
    from lens_steer.inference.record import record as record
    from lens_steer.inference.record_tokens import record_tokens as record_tokens
    from lens_steer.inference.rendering import tokens as tokens
    from lens_steer.metrics.token_divergence import TokenDivergence as TokenDivergence
    from lens_steer.metrics.token_divergence import token_divergence as token_divergence
    from lens_steer.models.loading import hf_twin as hf_twin
    from lens_steer.models.loading import load_model as load_model
    from lens_steer.notebook.dials import dial as dial
    from lens_steer.probes.io import load_probe as load_probe
    from lens_steer.probes.io import save_probe as save_probe
    from lens_steer.probes.probe import Probe as Probe
    from lens_steer.probes.probe import fit_probe as fit_probe
    from lens_steer.steer.effects import EffectLog as EffectLog
    from lens_steer.steer.hooks import steering as steering
    from lens_steer.steer.methods import act_add as act_add
    from lens_steer.steer.methods import adaptive_angular as adaptive_angular
    from lens_steer.steer.methods import directional_ablation as directional_ablation
    from lens_steer.steer.methods import fixed_coefficient as fixed_coefficient
    from lens_steer.steer.methods import mean_phase_rotation as mean_phase_rotation
    from lens_steer.steer.methods import mirror_projection as mirror_projection
    from lens_steer.steer.methods import phase_collapse as phase_collapse
    from lens_steer.steer.methods import projection_clamp as projection_clamp
    from lens_steer.steer.methods import selective_steering as selective_steering
    from lens_steer.steer.methods import standard_angular as standard_angular
    from lens_steer.steer.methods import target_projection as target_projection
    from lens_steer.steer.methods import unit_addition as unit_addition
    from lens_steer.steer.monitor import Monitor as Monitor
    from lens_steer.steer.monitor import monitor as monitor
    from lens_steer.steer.plans import SteeringPlan as SteeringPlan
    from lens_steer.steer.plans import load_plan as load_plan
    from lens_steer.steer.plans import save_plan as save_plan


def _homes() -> dict[str, str]:
    """Return the module of each public name, by parsing the imports above, which only type checkers run."""
    body = ast.parse(Path(__file__).read_text(encoding="utf-8")).body
    imports = next(node for node in body if isinstance(node, ast.If)).body
    return {
        alias.name: str(line.module) for line in imports if isinstance(line, ast.ImportFrom) for alias in line.names
    }


_HOMES = _homes()
__all__ = sorted(_HOMES)  # noqa: PLE0605  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("lens-steer")
    if name not in _HOMES:
        raise AttributeError(f"module 'lens_steer' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
