"""The proof that a layout is that of a model: what it says of the residual stream, checked on forwards of the model.

Every check is a largest relative error ‖a − b‖ / ‖b‖ over four short random prompts, against a bound for the dtype; of
a sum, b is what the block adds. A wrong module, a wrong formula or a missing branch gives an error of the order of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import torch

from lens_steer.errors import LensSteerError, first_line
from lens_steer.models.layout import Layout
from lens_steer.models.proof_checks import (
    Found,
    Values,
    batched,
    cached,
    causal,
    chained,
    check_finite,
    formulas,
    mixed,
    seen_on,
    summed,
    wired,
)

# In float64 as in float32, because the norms of many families compute in float32.
BOUNDS = {"float64": 1e-4, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
LENGTHS = (5, 8, 11, 11)


@dataclass(frozen=True)
class ProofRow:
    """One check.

    Attributes:
        check: What was compared.
        error: The largest relative error.
        bound: The largest error that is allowed.
        where: The module with the largest error.
    """

    check: str
    error: float
    bound: float
    where: str = ""

    @property
    def holds(self) -> bool:
        """True if the error is within its bound; an error that is no number is not."""
        return self.error <= self.bound


class ProofError(LensSteerError):
    """The error for a model on which a check failed; it names the row, and holds all rows."""

    def __init__(self, message: str, rows: Sequence[ProofRow]) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


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
        LensSteerError: If an activation is not finite; the message names the first module that gives such a one.

    >>> import lens_steer as ls
    >>> from lens_steer.models.loading import hf_twin
    >>> model = ls.load_model("organism/llama")
    >>> all(row.holds for row in prove(hf_twin(model), model.lens_info.layout))
    True
    """
    draw = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(model.config.get_text_config().vocab_size, (n,), generator=draw) for n in LENGTHS]
    dtype = str(model.dtype).removeprefix("torch.")
    bound, eps = BOUNDS.get(dtype, BOUNDS["bfloat16"]), torch.finfo(model.dtype).eps
    with torch.inference_mode():
        try:
            seen = [seen_on(model, layout, ids) for ids in prompts]
        except Exception as error:
            raise LensSteerError(f"the model cannot run in {dtype}: {first_line(error)}") from error
        for values in seen:
            check_finite(values, dtype)
        single = [values["logits"][0] for values in seen]
        checks: list[tuple[str, Callable[[], Found]]] = [
            ("each block reads what the one before gives", lambda: _of_all(lambda v: chained(v, layout), seen)),
            ("a block gives its input + attn_out + mlp_out", lambda: summed(seen, layout, eps)),
            ("norms and branches read what they should", lambda: _of_all(lambda v: wired(v, layout, eps), seen)),
            ("a parallel block's attention alone mixes tokens", lambda: mixed(model, layout, prompts, seen)),
            ("every norm computes its formula", lambda: _of_all(lambda v: formulas(model, v, layout), seen)),
            ("a padded batch = single prompts", lambda: batched(model, prompts, single)),
            ("with a cache = without", lambda: cached(model, prompts, single)),
            ("a later token changes no earlier logits", lambda: causal(model, prompts, single)),
        ]
        rows = []
        for name, check in checks:
            try:
                where, error = max(check(), key=lambda found: (isnan(found[1]), found[1]), default=("", 0.0))
            except Exception as error_:  # whatever a family's own code raises
                raise LensSteerError(f"the check '{name}' cannot be made: {first_line(error_)}") from error_
            rows.append(ProofRow(name, error, bound, where))
    return tuple(rows)


def require(rows: Sequence[ProofRow], name: str) -> None:
    """Refuse a model on which a check failed.

    Raises:
        ProofError: If an error is above its bound, or not finite.
    """
    for row in rows:
        if not row.holds:
            at = f" at {row.where}" if row.where else ""
            raise ProofError(
                f"model {name!r} is not built as was found: '{row.check}' fails{at} (relative error {row.error:.2g}, "
                f"allowed {row.bound:g}); 'lens-steer check' shows every check",
                rows,
            )


def _of_all(check: Callable[[Values], Found], seen: list[Values]) -> Found:
    return [found for values in seen for found in check(values)]
