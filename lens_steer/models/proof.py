"""The proof that a layout is that of a model: what it says of the residual stream, checked on forwards of the model.

Every check is a largest relative error ‖a − b‖ / ‖b‖ over four short random prompts, against a bound for the dtype; of
a sum, b is what the block adds. A wrong module, a wrong formula or a missing branch gives an error of the order of 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import torch

from lens_steer.errors import LensSteerError, first_line
from lens_steer.models.layout import Layout
from lens_steer.models.proof_checks import CHECKS
from lens_steer.models.proof_forwards import run_forwards

# In float64 as in float32, because the norms of many families compute in float32.
BOUNDS = {"float64": 1e-4, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


@dataclass(frozen=True)
class ProofRow:
    """One check.

    Attributes:
        check: What was compared.
        error: The largest relative error, or a number of faults.
        bound: The largest one that is allowed.
        where: The module or the sites with it; empty where it is the whole model.
    """

    check: str
    error: float
    bound: float
    where: str = ""

    @classmethod
    def of(cls, check: str, found: Iterable[tuple[str, float]], bound: float) -> ProofRow:
        """Return the row of the largest error among several places; NaN is the largest.

        >>> ProofRow.of("sums", [("a", 0.1), ("b", 0.2)], 1.0)
        ProofRow(check='sums', error=0.2, bound=1.0, where='b')
        """
        where, error = max(found, key=lambda one: (isnan(one[1]), one[1]), default=("", 0.0))
        return cls(check, error, bound, where)

    @property
    def holds(self) -> bool:
        """True if the error is within its bound; NaN is not."""
        return self.error <= self.bound

    @property
    def at(self) -> str:
        """Where it is, for a message."""
        return f" at {self.where}" if self.where else ""


class ProofError(LensSteerError):
    """The error for a model on which a check failed; it names the row, and holds all rows."""

    def __init__(self, message: str, rows: Sequence[ProofRow]) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


def bound_of(dtype: str) -> float:
    """Return the largest relative error that is allowed in a dtype.

    >>> bound_of("float32")
    0.0001
    """
    return BOUNDS.get(dtype, BOUNDS["bfloat16"])


def prove(model: Any, layout: Layout, *, seed: int = 0) -> tuple[ProofRow, ...]:
    """Check a layout on a plain Hugging Face model.

    The checks: each block, and the final norm, reads what the block before gives; a block gives its input plus
    ``attn_out`` plus ``mlp_out`` (each times one number, if the layout says so); norms and branches read what the
    layout says; in a parallel block attention alone mixes tokens; every norm computes its formula; logits of a padded
    batch equal those of single prompts; logits with a cache, one token at a time, equal those without; a later token
    changes no earlier logits.

    Args:
        model: The model, in evaluation mode.
        layout: Its layout.
        seed: The seed of the prompts, random token ids.

    Returns:
        One row a check, in this order.

    Raises:
        LensSteerError: If the model cannot run, if an output is not finite, or if a check cannot be made on it.

    >>> import lens_steer as ls
    >>> model = ls.load_model("organism/llama")
    >>> all(row.holds for row in prove(ls.hf_twin(model), model.lens_info.layout))
    True
    """
    bound, rows = bound_of(str(model.dtype).removeprefix("torch.")), []
    with torch.inference_mode():
        run = run_forwards(model, layout, seed=seed)
        for name, check in CHECKS.items():
            try:
                rows.append(ProofRow.of(name, check(run), bound))
            except Exception as error:  # whatever a family's own code raises
                raise LensSteerError(
                    f"the check '{name}' cannot be made: {first_line(error)}: load a model of another architecture"
                ) from error
    return tuple(rows)


def require(rows: Sequence[ProofRow], name: str) -> None:
    """Refuse a model on which a check failed.

    Raises:
        ProofError: If an error is above its bound, or not finite.
    """
    for row in rows:
        if not row.holds:
            raise ProofError(
                f"model {name!r} is not built as was found: '{row.check}' fails{row.at} (relative error "
                f"{row.error:.2g}, allowed {row.bound:g}); 'lens-steer check' shows every check",
                rows,
            )
