"""The checks of a proof: what a layout says of a model, against what its modules get and give in forwards.

Each returns where something was compared, and the relative error there; see :mod:`lens_steer.models.proof`.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from lens_steer.errors import LensSteerError
from lens_steer.models.layout import Layout
from lens_steer.models.norms import normed

Values = dict[str, list[Tensor]]
Found = list[tuple[str, float]]  # where, and the relative error there


def seen_on(model: Any, layout: Layout, ids: Tensor) -> Values:
    """Return the tensors that go into the modules of a layout (``path<``) and out (``path>``), and ``logits``."""
    found: Values = {}

    # Copies, because some families go on to change a module's output in place.
    def keep(module: nn.Module, args: Any, kwargs: Any, output: Any, *, path: str) -> None:
        given = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point()]
        made = output if isinstance(output, tuple) else (output,)
        found[f"{path}<"], found[f"{path}>"] = (
            [v.detach().cpu().clone() for v in given],
            [made[0].detach().cpu().clone()],
        )

    with ExitStack() as stack:
        for path in (*_paths(layout), layout.final_norm):
            hook = model.get_submodule(path).register_forward_hook(partial(keep, path=path), with_kwargs=True)
            stack.callback(hook.remove)
        found["logits"] = [model(ids[None].to(model.device), use_cache=False).logits[0].cpu()]
    return found


def check_finite(values: Values, dtype: str) -> None:
    outputs = ((name, tensors[0]) for name, tensors in values.items() if not name.endswith("<"))
    first = next((name for name, value in outputs if not bool(torch.isfinite(value).all())), None)
    if first is not None:
        what = f"the output of {first[:-1]}" if first.endswith(">") else f"a number among the {first}"
        raise LensSteerError(
            f"{what} is not finite in {dtype}: load the model in bfloat16 or float32, or look for broken weights"
        )


def _paths(layout: Layout) -> list[str]:
    found = []
    for index, block in enumerate(layout.blocks):
        path = f"{layout.layers}.{index}"
        inside = dict.fromkeys((*block.path.values(), block.middle, *block.others))
        found += [path, *(f"{path}.{module}" for module in inside if module)]
    return found


def _error(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def chained(values: Values, layout: Layout) -> Found:
    """The stream between blocks is one tensor, so nothing is rounded."""
    paths = [f"{layout.layers}.{index}" for index in range(len(layout.blocks))]
    ends = zip(paths, [*paths[1:], layout.final_norm], strict=True)
    return [(after, _error(values[f"{after}<"][0], values[f"{before}>"][0])) for before, after in ends]


def summed(seen: list[Values], layout: Layout, eps: float) -> Found:
    """What the sum of the parts misses, against what the block adds; rounding of the whole stream is no miss.

    Where a block multiplies, the numbers are those that fit best over all prompts; parts that it does not multiply
    count once.
    """
    found = []
    for index, block in enumerate(layout.blocks):
        path = f"{layout.layers}.{index}"
        added = [block.path["attn_out"], block.path["mlp_out"], *block.others]
        parts = [[values[f"{path}<"][0], *(values[f"{path}.{name}>"][0] for name in added)] for values in seen]
        flat = [torch.cat([one[part].double().flatten() for one in parts]) for part in range(len(added) + 1)]
        given = torch.cat([values[f"{path}>"][0].double().flatten() for values in seen])
        free = [block.rescaled, *(kind in block.scaled or block.rescaled for kind in ("attn_out", "mlp_out"))]
        free += [True] * len(block.others)
        rest = given - sum((part for part, times in zip(flat, free, strict=True) if not times), torch.zeros(()))
        if any(free):
            columns = torch.stack([part for part, times in zip(flat, free, strict=True) if times], dim=1)
            rest = rest - (columns @ torch.linalg.lstsq(columns, rest[:, None]).solution).flatten()
        width = parts[0][0].shape[-1]
        missed, whole = rest.reshape(-1, width).norm(dim=1), given.reshape(-1, width).norm(dim=1)
        stream = flat[0].reshape(-1, width).norm(dim=1)
        step = (given - flat[0]).reshape(-1, width).norm(dim=1)
        error = (missed - 2 * eps * (whole + stream)).clamp_min(0) / step.clamp_min(1e-30)
        found.append((path, float(error.max())))
    return found


def wired(values: Values, layout: Layout, eps: float) -> Found:
    """Norms and branches read what the layout says: the block's input, the stream after attention, a norm's output."""
    found = []
    for index, block in enumerate(layout.blocks):
        path = f"{layout.layers}.{index}"
        start = values[f"{path}<"][0].double()
        after = start + values[f"{path}.{block.path['attn_out']}>"][0].double().reshape(start.shape)
        reads = {"ln1": start, "ln2": start if block.parallel else after}
        asked = [(block.path[kind], reads[kind]) for kind in ("ln1", "ln2") if kind in block.norms]
        asked += [(block.middle, after)] if block.middle else []
        if not block.sums:  # then the stream after attention is not known
            asked = [(name, stream) for name, stream in asked if stream is not after]
        for name, stream in asked:
            given = values[f"{path}.{name}<"][0].double().reshape(start.shape)
            missed = (_error(given, stream) - 2 * eps) if stream is after else _error(given, stream)
            found.append((f"{path}.{name}", max(0.0, missed)))
        for norm, out, post in (("ln1", "attn_out", "ln1_post"), ("ln2", "mlp_out", "ln2_post")):
            norm = norm if norm in block.norms else "ln1" if block.parallel and "ln1" in block.norms else ""
            if not norm or post in block.norms:  # the branch stands before its norm, and the layout does not name it
                continue
            name = block.path[out]
            normed_ = values[f"{path}.{block.path[norm]}>"][0].double().flatten()
            inputs = [v.double().flatten() for v in values[f"{path}.{name}<"] if v.numel() == normed_.numel()]
            if inputs:  # otherwise the module is the end of a branch, such as its last linear layer
                found.append((f"{path}.{name}", min(_direction_error(v, normed_) for v in inputs)))
    return found


def _direction_error(a: Tensor, b: Tensor) -> float:
    """Return the relative error of ``b`` times the number that fits best: a family can multiply what a branch reads."""
    return _error(b * float(a @ b / (b @ b).clamp_min(1e-30)), a)


def mixed(model: Any, layout: Layout, prompts: list[Tensor], seen: list[Values]) -> Found:
    """In a parallel first block a change of the first token reaches later outputs of attention, and not of the MLP."""
    block, path, found = layout.blocks[0], f"{layout.layers}.0", []
    if not block.parallel:
        return [("", 0.0)]
    for ids, values in zip(prompts, seen, strict=True):
        other = torch.cat([(ids[:1] + 1) % model.config.get_text_config().vocab_size, ids[1:]])
        changed = seen_on(model, layout, other)
        moved = {
            kind: _error(_later(changed, f"{path}.{name}>"), _later(values, f"{path}.{name}>"))
            for kind, name in block.path.items()
            if kind in ("attn_out", "mlp_out")
        }
        found.append((f"{path}.{block.path['mlp_out']}", moved["mlp_out"]))
        found.append((f"{path}.{block.path['attn_out']}", 0.0 if moved["attn_out"] > moved["mlp_out"] else 1.0))
    return found


def _later(values: Values, name: str) -> Tensor:
    """Return an output at all tokens but the first."""
    return values[name][0].reshape(-1, values[name][0].shape[-1])[1:]


def formulas(model: Any, values: Values, layout: Layout) -> Found:
    asked = [(layout.final_norm, layout.final_formula)]
    for index, block in enumerate(layout.blocks):
        asked += [(f"{layout.layers}.{index}.{block.path[kind]}", formula) for kind, formula in block.formulas]
    return [
        (path, _error(normed(model.get_submodule(path), formula, values[f"{path}<"][0]), values[f"{path}>"][0]))
        for path, formula in asked
    ]


def batched(model: Any, prompts: list[Tensor], single: list[Tensor]) -> Found:
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


def cached(model: Any, prompts: list[Tensor], single: list[Tensor]) -> Found:
    found = []
    for ids, wanted in zip(prompts, single, strict=True):
        cache, logits, half = None, [], len(ids) // 2
        for part in (ids[:half], *ids[half:].split(1)):
            out = model(part[None].to(model.device), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits.append(out.logits[0].cpu())
        found.append(("", _error(torch.cat(logits), wanted)))
    return found


def causal(model: Any, prompts: list[Tensor], single: list[Tensor]) -> Found:
    found = []
    for ids, wanted in zip(prompts, single, strict=True):
        other = torch.cat([ids[:-1], (ids[-1:] + 1) % model.config.get_text_config().vocab_size])
        logits = model(other[None].to(model.device), use_cache=False).logits[0].cpu()
        found.append(("", _error(logits[:-1], wanted[:-1])))
    return found
