"""The proof that a layout is that of a model: what it says of the residual stream, checked on forwards of the model.

Every check is a largest relative error ‖a − b‖ / ‖b‖ over four short random prompts, against a bound for the dtype. A
wrong module, a wrong formula or a missing branch gives an error of the order of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from inspect import signature
from math import isnan
from typing import Any

import torch
from torch import Tensor, nn

from lens_steer.errors import LensSteerError
from lens_steer.models.layout import Layout
from lens_steer.models.norms import normed

BOUNDS = {"float64": 1e-8, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
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

    The checks: each block reads what the one before gives; a block gives its input plus ``attn_out`` plus ``mlp_out``
    (each times one number, if the layout says so); every norm computes its formula; the final norm reads the last
    block; logits of a padded batch equal those of single prompts; logits with a cache equal those without; a later
    token changes no earlier logits.

    Args:
        model: The model, in evaluation mode.
        layout: Its layout.
        seed: The seed of the prompts, random token ids.

    Returns:
        One row a check, in this order.

    >>> import lens_steer as ls
    >>> from lens_steer.models.loading import hf_twin
    >>> model = ls.load_model("organism/llama")
    >>> all(row.holds for row in prove(hf_twin(model), model.lens_info.layout))
    True
    """
    draw = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(model.config.get_text_config().vocab_size, (n,), generator=draw) for n in LENGTHS]
    bound = BOUNDS.get(str(model.dtype).removeprefix("torch."), BOUNDS["bfloat16"])
    with torch.inference_mode():
        seen = [_seen(model, layout, ids) for ids in prompts]
        single = [values["logits"] for values in seen]
        checks: list[tuple[str, Callable[[], list[tuple[str, float]]]]] = [
            ("each block reads what the one before gives", lambda: _of_all(_chained, seen, layout)),
            ("a block gives its input + attn_out + mlp_out", lambda: _of_all(_summed, seen, layout)),
            ("every norm computes its formula", lambda: _of_all(partial(_formulas, model), seen, layout)),
            ("a padded batch = single prompts", lambda: _batched(model, prompts, single)),
            ("with a cache = without", lambda: _cached(model, prompts, single)),
            ("a later token changes no earlier logits", lambda: _causal(model, prompts, single)),
        ]
        rows = []
        for name, check in checks:
            where, error = max(check(), key=lambda found: (isnan(found[1]), found[1]))
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


def _seen(model: Any, layout: Layout, ids: Tensor) -> dict[str, Tensor]:
    """Return the inputs (``path<``) and outputs (``path>``) of the modules of a layout, and ``logits``."""
    found: dict[str, Tensor] = {}

    # Copies, because some families go on to change a module's output in place.
    def keep(module: nn.Module, args: Any, kwargs: Any, output: Any, *, path: str) -> None:
        given = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        found[f"{path}<"] = given.detach().cpu().clone()
        found[f"{path}>"] = (output[0] if isinstance(output, tuple) else output).detach().cpu().clone()

    with ExitStack() as stack:
        for path in (*_paths(layout), layout.final_norm):
            hook = model.get_submodule(path).register_forward_hook(partial(keep, path=path), with_kwargs=True)
            stack.callback(hook.remove)
        found["logits"] = model(ids[None].to(model.device), use_cache=False).logits[0].cpu()
    return found


def _paths(layout: Layout) -> list[str]:
    found = []
    for index, block in enumerate(layout.blocks):
        path = f"{layout.layers}.{index}"
        found += [path, *(f"{path}.{module}" for module in dict.fromkeys((*block.path.values(), *block.others)))]
    return found


def _error(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def _of_all(
    check: Callable[[dict[str, Tensor], Layout], list[tuple[str, float]]],
    seen: list[dict[str, Tensor]],
    layout: Layout,
) -> list[tuple[str, float]]:
    return [found for values in seen for found in check(values, layout)]


def _chained(values: dict[str, Tensor], layout: Layout) -> list[tuple[str, float]]:
    paths = [f"{layout.layers}.{index}" for index in range(len(layout.blocks))]
    ends = zip(paths, [*paths[1:], layout.final_norm], strict=True)
    return [(after, _error(values[f"{after}<"], values[f"{before}>"])) for before, after in ends]


def _summed(values: dict[str, Tensor], layout: Layout) -> list[tuple[str, float]]:
    found = []
    for index, block in enumerate(layout.blocks):
        path = f"{layout.layers}.{index}"
        stream, given = values[f"{path}<"].double(), values[f"{path}>"].double()
        added = (f"{path}.{name}>" for name in (block.path["attn_out"], block.path["mlp_out"], *block.others))
        parts = [stream, *(values[name].double().reshape(stream.shape) for name in added)]
        columns = torch.stack([part.flatten() for part in parts], dim=1)
        # Each times a number, the one that fits best: where the block multiplies, the layout does not hold the number.
        times = torch.ones(len(parts), 1, dtype=torch.float64)
        if not block.sums:
            times = torch.linalg.lstsq(columns, given.flatten()[:, None]).solution
        found.append((path, _error((columns @ times).reshape(stream.shape), given)))
    return found


def _formulas(model: Any, values: dict[str, Tensor], layout: Layout) -> list[tuple[str, float]]:
    formulas = [(layout.final_norm, layout.final_formula)]
    for index, block in enumerate(layout.blocks):
        formulas += [(f"{layout.layers}.{index}.{block.path[kind]}", formula) for kind, formula in block.formulas]
    return [
        (path, _error(normed(model.get_submodule(path), formula, values[f"{path}<"]), values[f"{path}>"]))
        for path, formula in formulas
    ]


def _batched(model: Any, prompts: list[Tensor], single: list[Tensor]) -> list[tuple[str, float]]:
    width = max(len(ids) for ids in prompts)
    rows = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(rows)
    for row, ids in enumerate(prompts):
        rows[row, width - len(ids) :], mask[row, width - len(ids) :] = ids, 1
    given = {"attention_mask": mask.to(model.device), "use_cache": False}
    if "position_ids" in signature(model.forward).parameters:
        given["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0).to(model.device)
    logits = model(rows.to(model.device), **given).logits.cpu()
    return [("", _error(logits[row, width - len(ids) :], single[row])) for row, ids in enumerate(prompts)]


def _cached(model: Any, prompts: list[Tensor], single: list[Tensor]) -> list[tuple[str, float]]:
    found = []
    for ids, wanted in zip(prompts, single, strict=True):
        cache, logits, half = None, [], len(ids) // 2
        for part in (ids[:half], *ids[half:].split(1)):
            out = model(part[None].to(model.device), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits.append(out.logits[0].cpu())
        found.append(("", _error(torch.cat(logits), wanted)))
    return found


def _causal(model: Any, prompts: list[Tensor], single: list[Tensor]) -> list[tuple[str, float]]:
    found = []
    for ids, wanted in zip(prompts, single, strict=True):
        other = torch.cat([ids[:-1], (ids[-1:] + 1) % model.config.get_text_config().vocab_size])
        logits = model(other[None].to(model.device), use_cache=False).logits[0].cpu()
        found.append(("", _error(logits[:-1], wanted[:-1])))
    return found
