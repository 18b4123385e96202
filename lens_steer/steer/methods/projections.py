"""Methods that use a boundary (arXiv 2604.08169).

They are fixed steps in units of the class separation, and the projection-aware operators.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.errors import expect
from lens_steer.geometry.boundary import Boundary, boundary
from lens_steer.geometry.calibration import Calibration
from lens_steer.operators.projection import check_gate
from lens_steer.steer.methods.common import Number, Numbers, Positions, one_number
from lens_steer.steer.plans import SteeringPlan, Step, numbers

log = logging.getLogger(__name__)

Along = Float[Tensor, " d_model"] | None
CAP_IN_SIGMAS = 40.0  # the value of the released StMP


def fixed_coefficient(
    source: Calibration | Boundary, coefficient: Numbers = 1.0, *, positions: Positions = "all", along: Along = None
) -> SteeringPlan:
    """Make a plan of SwFC: ``h + α Δμ v̂`` at the boundary's site, for every token.

    α = 1 is one separation of the class means.

    Args:
        source: A probe (:func:`lens_steer.fit_probe`), another boundary, or a calibration, whose boundary is the
            midpoint of the class means.
        coefficient: The coefficient α, or one for each prompt.
        positions: The tokens to steer.
        along: A vector, for controls. Steps of the same size are written along it instead of along the direction.

    Source: arXiv 2604.08169, Eq. 3.

    >>> from lens_steer import load_calibration
    >>> fixed_coefficient(load_calibration("figures/calibration"), positions="prompt[-1]").positions
    'prompt[-1]'
    """
    found = _boundary(source)
    unit = found.direction if along is None else along / along.norm()
    parameters = {"direction": found.separation * unit, "coefficient": numbers("coefficient", coefficient)}
    step = Step("add", (found.site,), parameters)
    return SteeringPlan.of(found, "swfc", [step], positions)


def target_projection(
    source: Calibration | Boundary,
    coefficient: Numbers = 0.0,
    *,
    gate: str = "below",
    positions: Positions = "all",
    along: Along = None,
) -> SteeringPlan:
    """Make a plan of StTP: tokens with ``ρ < m`` get the projection ``s = μ⁺ + α σ⁺``.

    With ``gate="above"`` tokens with ``ρ > m`` get ``μ⁻ + α σ⁻``. A warning is logged if the target lies on the gated
    side of the threshold. See :func:`fixed_coefficient` for ``source`` and ``along``.

    Source: arXiv 2604.08169, Eq. 4; ``gate="above"`` is the released operators' ``direction="negative"``.

    >>> from lens_steer import load_calibration
    >>> target_projection(load_calibration("figures/calibration"), 6).row()["gate"]
    'below'
    """
    found, alpha = _boundary(source), numbers("coefficient", coefficient)
    if check_gate(gate) == "below":
        target, wrong_way = found.mean_positive + alpha * found.std_positive, -1.0
    else:
        target, wrong_way = found.mean_negative + alpha * found.std_negative, 1.0
    if bool(torch.as_tensor((target - found.threshold) * wrong_way > 0).any()):
        log.warning(
            "target projection %s lies on the gated side of the threshold %.4g: tokens are moved the wrong way",
            target,
            found.threshold,
        )
    step = Step("target", (found.site,), _gated(found, gate, along, target=target))
    told = alpha.tolist() if isinstance(alpha, Tensor) else alpha
    return SteeringPlan.of(found, "sttp", [step], positions, coefficient=told)


def mirror_projection(
    source: Calibration | Boundary,
    coefficient: Numbers = 1.0,
    *,
    gate: str = "below",
    cap_in_sigmas: Number | None = CAP_IN_SIGMAS,
    positions: Positions = "all",
    along: Along = None,
) -> SteeringPlan:
    """Make a plan of StMP: tokens with ``ρ < m`` (``gate="above"``: ``ρ > m``) are moved to ``ρ + 2α (m − ρ)``.

    α = ½ moves a token to the boundary, α = 1 mirrors it there, and a larger α moves it further. The new projection is
    at most ``μ⁺ + cap_in_sigmas σ⁺``, for both gates, as in the released operators. None removes this cap. A warning is
    logged if the cap lies below the threshold. See :func:`fixed_coefficient` for ``source`` and ``along``.

    Source: arXiv 2604.08169, Eq. 5.

    >>> from lens_steer import load_calibration
    >>> plan = mirror_projection(load_calibration("figures/calibration"), positions="generated")
    >>> plan.describe()["first_steered_token"]
    'token 0 of the answer'
    """
    found = _boundary(source)
    cap = None
    if cap_in_sigmas is not None:
        cap = found.mean_positive + one_number("cap_in_sigmas", cap_in_sigmas) * found.std_positive
        if cap < found.threshold:
            log.warning("cap %.4g lies below the threshold %.4g: tokens are moved the wrong way", cap, found.threshold)
    own = {"coefficient": numbers("coefficient", coefficient), "cap": cap}
    step = Step("mirror", (found.site,), _gated(found, gate, along, **own))
    return SteeringPlan.of(found, "stmp", [step], positions)


def _gated(found: Boundary, gate: str, along: Along, **own: Any) -> dict[str, Any]:
    """Return the parameters of a gated operator: those that both share, and its own."""
    control = {} if along is None else {"along": along}
    return {"direction": found.direction, "threshold": found.threshold, **own, "gate": check_gate(gate), **control}


def _boundary(source: Calibration | Boundary) -> Boundary:
    expect(
        "source",
        source,
        (Calibration, Boundary),
        "make a probe with ls.fit_probe(acts, site), or a calibration with ls.calibrate(acts)",
    )
    return source if isinstance(source, Boundary) else boundary(source)
