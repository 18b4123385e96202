"""The parameters of operators, each specified once: the kind of its value, its unit, and its text on the command line.

Nothing here needs a tensor, so the command line can list its options before PyTorch is loaded. The default of a
parameter is stated only in the signature of the operator's function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["number", "direction", "plane", "choice"]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of an operator, or of a method that passes it on.

    Attributes:
        name: The name of the argument.
        kind: ``"number"``; ``"direction"``, a vector of ``d_model`` numbers; ``"plane"``, an orthonormal basis of two
            such rows; or ``"choice"``.
        unit: The unit of a number, such as ``"degrees"``; empty if it has none.
        by_row: True if the parameter may hold one number per row of a batch.
        choices: The values of a choice.
        help: The description on the command line; empty if the command line does not set the parameter.
        values: The accepted values in words; empty if ``help`` already names them.
    """

    name: str
    kind: Kind = "number"
    unit: str = ""
    by_row: bool = False
    choices: tuple[str | int, ...] = ()
    help: str = ""
    values: str = ""


BASIS = Parameter(name="basis", kind="plane")
DIRECTION = Parameter(name="direction", kind="direction")
ALONG = Parameter(name="along", kind="direction")
ANGLE = Parameter(
    name="angle",
    unit="degrees",
    by_row=True,
    help="Degrees",
    values="relative for selective, absolute for standard, adaptive, mean-phase",
)
MEAN_PHASE = Parameter(name="mean_phase", unit="degrees")
SCALE = Parameter(name="scale")
COEFFICIENT = Parameter(name="coefficient", by_row=True, help="Strength of an addition, of StTP or StMP")
TARGET = Parameter(name="target", by_row=True, help="Projection that clamp sets")
THRESHOLD = Parameter(name="threshold", help="Gate of adaptive (0)")
GATE_AXIS = Parameter(
    name="gate_axis", kind="choice", choices=(0, 1), help="Axis of adaptive's gate", values="0 (b1) or 1 (b2)"
)
GATE = Parameter(
    name="gate",
    kind="choice",
    choices=("below", "above"),
    help="Side of the boundary that sttp and stmp move",
    values="below or above",
)
CAP = Parameter(name="cap")
