"""Steps of a plan as affine maps of low rank, and the reasons why some operators have none."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.geometry.planes import MAX_GRAM_ERROR, gram_error
from lens_steer.operators.affine import AffineMap
from lens_steer.operators.catalogue import operator


def affine_map(name: str, parameters: Any) -> AffineMap:
    """Return the affine map of one operator.

    Args:
        name: The operator's name in :data:`lens_steer.operators.catalogue.OPERATORS`.
        parameters: The operator's parameters, with one value for all rows.

    Raises:
        LensSteerError: If the operator has no affine map of low rank, or has a value for each row.

    >>> import torch
    >>> affine_map("ablate", {"direction": torch.tensor([0.0, 2.0])})(torch.ones(2).double())
    tensor([1., 0.], dtype=torch.float64)
    """
    if (reason := not_affine(name, parameters)) is not None:
        raise LensSteerError(f"operator {name!r} {reason}: it is no affine map of low rank")
    made = operator(name).affine
    if not callable(made):
        raise LensSteerError(
            f"operator {name!r} has no affine map here: give its record one, or the reason why it has none"
        )
    return made({**operator(name).defaults, **parameters})


def not_affine(name: str, parameters: Any) -> str | None:
    """Return the reason why an operator is no affine map of low rank; None if it is one.

    >>> not_affine("standard", {})
    'puts every token on one ray: the length of its in-plane part is not linear in it'
    """
    found = operator(name)
    if isinstance(found.affine, str):
        return found.affine
    value = parameters.get(found.by_row or "")
    if isinstance(value, Tensor) and value.ndim:
        return f"has a value of {found.by_row} for each of {len(value)} prompts, and weights have one for all"
    return None


def is_isometry(name: str, parameters: Any) -> bool:
    """Return True if an operator preserves all lengths, as a rotation in an orthonormal plane does.

    >>> import torch
    >>> is_isometry("selective", {"basis": torch.eye(3)[:2]}), is_isometry("ablate", {})
    (True, False)
    """
    found = operator(name)
    return found.isometry and all(gram_error(parameters[n].detach().cpu()) <= MAX_GRAM_ERROR for n in found.planes)
