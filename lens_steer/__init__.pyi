"""The public names and the modules that define them; ``__init__.py`` imports each one when it is first used."""

from .data import Contrast as Contrast
from .data import ContrastSet as ContrastSet
from .data import Prompt as Prompt
from .data import PromptSet as PromptSet
from .data import load_contrast as load_contrast
from .data import load_prompts as load_prompts
from .errors import LensSteerError as LensSteerError
from .figures.saving import draw as draw
from .geometry.boundary import Boundary as Boundary
from .geometry.boundary import boundary as boundary
from .geometry.calibration import Calibration as Calibration
from .geometry.calibration import calibrate as calibrate
from .geometry.files import load_calibration as load_calibration
from .geometry.files import save_calibration as save_calibration
from .geometry.rules import discriminative_by_rule as discriminative_by_rule
from .geometry.rules import with_rule as with_rule
from .geometry.summary import summarise as summarise
from .inference.dialogue import Dialogue as Dialogue
from .inference.dialogue import converse as converse
from .inference.generation import generate as generate
from .inference.record import Activations as Activations
from .inference.record import record as record
from .inference.record_tokens import record_tokens as record_tokens
from .inference.rendering import tokens as tokens
from .metrics.token_divergence import TokenDivergence as TokenDivergence
from .metrics.token_divergence import token_divergence as token_divergence
from .models.loading import hf_twin as hf_twin
from .models.loading import load_model as load_model
from .notebook.dials import dial as dial
from .probes.io import load_probe as load_probe
from .probes.io import save_probe as save_probe
from .probes.probe import Probe as Probe
from .probes.probe import fit_probe as fit_probe
from .steer.effects import EffectLog as EffectLog
from .steer.hooks import steering as steering
from .steer.methods import act_add as act_add
from .steer.methods import adaptive_angular as adaptive_angular
from .steer.methods import directional_ablation as directional_ablation
from .steer.methods import fixed_coefficient as fixed_coefficient
from .steer.methods import mean_phase_rotation as mean_phase_rotation
from .steer.methods import mirror_projection as mirror_projection
from .steer.methods import phase_collapse as phase_collapse
from .steer.methods import projection_clamp as projection_clamp
from .steer.methods import selective_steering as selective_steering
from .steer.methods import standard_angular as standard_angular
from .steer.methods import target_projection as target_projection
from .steer.methods import unit_addition as unit_addition
from .steer.monitor import Monitor as Monitor
from .steer.monitor import monitor as monitor
from .steer.plans import SteeringPlan as SteeringPlan
from .steer.plans import load_plan as load_plan
from .steer.plans import save_plan as save_plan

__all__: list[str]
__version__: str
