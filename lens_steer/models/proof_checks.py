"""The checks of a proof: what a layout says of a model, against what its modules get and give.

Each check returns where it compared, and the relative errors there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature

import torch
from torch import Tensor

from lens_steer.models.layout import BRANCHES, Block
from lens_steer.models.norms import normed
from lens_steer.models.proof_forwards import Forwards, Seen, relative_error, seen_on

Found = list[tuple[str, float]]
ROUNDINGS = 2  # A block rounds its sum once a branch.


def check_chain(run: Forwards) -> Found:
    """Compare what each block, and the final norm, gets with what the block before gives: one tensor, so nothing is
    rounded.
    """
    ends = list(zip(run.layout.paths, [*run.layout.paths[1:], run.layout.final_norm], strict=True))
    return [
        (after, relative_error(one.inputs[after][0], one.outputs[before])) for one in run.seen for before, after in ends
    ]


def check_sums(run: Forwards) -> Found:
    """Compare what each block gives with its input plus its branches.

    The error is ‖given − sum‖ / ‖given − input‖ at the worst position, where the rounding of the whole stream,
    ``2 ε (‖given‖ + ‖input‖)``, is no error: beside a long stream a branch would not show otherwise.
    """
    found = []
    for path, block in zip(run.layout.paths, run.layout.blocks, strict=True):
        names = [f"{path}.{name}" for name in (block.path["attn_out"], block.path["mlp_out"], *block.others)]
        given = _together([one.outputs[path] for one in run.seen])
        stream = _together([one.inputs[path][0] for one in run.seen])
        parts = [stream, *(_together([one.outputs[name] for one in run.seen]) for name in names)]
        missed = _unexplained(given, parts, _multiplied(block)).norm(dim=1)
        rounding = ROUNDINGS * run.eps * (given.norm(dim=1) + stream.norm(dim=1))
        added = (given - stream).norm(dim=1).clamp_min(1e-30)
        found.append((path, float(((missed - rounding).clamp_min(0) / added).max())))
    return found


def _together(values: Sequence[Tensor]) -> Tensor:
    """Return vectors of several prompts, ``[n, d_model]`` in float64."""
    return torch.cat([value.double().reshape(-1, value.shape[-1]) for value in values])


def _multiplied(block: Block) -> list[bool]:
    """Return for the stream, attention, the MLP and further branches whether the block multiplies them by a number."""
    branches = (block.rescaled or kind in block.scaled for kind in ("attn_out", "mlp_out"))
    return [block.rescaled, *branches, *(True for _ in block.others)]


def _unexplained(given: Tensor, parts: Sequence[Tensor], free: Sequence[bool]) -> Tensor:
    """Return what is left of ``given`` after its parts: each once, or times the number that fits all prompts best."""
    left = given.clone()
    for part, times in zip(parts, free, strict=True):
        left -= 0 if times else part
    if any(free):
        columns = torch.stack([part.flatten() for part, times in zip(parts, free, strict=True) if times], dim=1)
        left -= (columns @ torch.linalg.lstsq(columns, left.flatten()[:, None]).solution).reshape(left.shape)
    return left


def check_reads(run: Forwards) -> Found:
    """Compare what norms and branches get with the block's input, the stream after attention, or a norm's output."""
    return [found for one in run.seen for found in _reads(run, one)]


def _reads(run: Forwards, one: Seen) -> Found:
    found = []
    for path, block in zip(run.layout.paths, run.layout.blocks, strict=True):
        start = one.inputs[path][0].double()
        after = start + one.outputs[f"{path}.{block.path['attn_out']}"].double().reshape(start.shape)
        wanted = {block.path[kind]: (start, 0.0) for kind in ("ln1", "ln2") if kind in block.norms}
        if block.middle:
            wanted[block.middle] = (after, ROUNDINGS * run.eps)
        if not block.sums:  # then the stream after attention is not known
            wanted.pop(block.middle, None)
        for name, (stream, rounding) in wanted.items():
            error = relative_error(one.inputs[f"{path}.{name}"][0].reshape(start.shape), stream)
            found.append((f"{path}.{name}", max(0.0, error - rounding)))
        for _, out, post in BRANCHES:
            norm, name = block.norm_before(out), f"{path}.{block.path[out]}"
            if norm and post not in block.norms:  # otherwise the layout does not name the branch before its norm
                made = one.outputs[f"{path}.{block.path[norm]}"].double().flatten()
                inputs = [v.double().flatten() for v in one.inputs[name] if v.numel() == made.numel()]
                if inputs:  # otherwise the module is the end of a branch, such as its last linear layer
                    found.append((name, min(_error_of_multiple(made, given) for given in inputs)))
    return found


def _error_of_multiple(a: Tensor, b: Tensor) -> float:
    """Return the relative error of ``a`` times the number that fits best: a family can multiply what a branch reads."""
    return relative_error(a * float(a @ b / (a @ a).clamp_min(1e-30)), b)


def check_mixing(run: Forwards) -> Found:
    """Change the first token: in a parallel first block it reaches later outputs of attention, and not of the MLP.

    Of a block whose branches run one after the other :func:`check_reads` tells them apart.
    """
    block, path, found = run.layout.blocks[0], run.layout.paths[0], []
    for one in run.seen if block.parallel else ():
        changed = seen_on(run.model, run.layout, torch.cat([(one.ids[:1] + 1) % run.n_vocab, one.ids[1:]]))
        attention, mlp = (f"{path}.{block.path[kind]}" for kind in ("attn_out", "mlp_out"))
        moved = {name: relative_error(_later(changed, name), _later(one, name)) for name in (attention, mlp)}
        found += [(mlp, moved[mlp]), (attention, 0.0 if moved[attention] > moved[mlp] else 1.0)]
    return found


def _later(one: Seen, name: str) -> Tensor:
    """Return an output at all tokens but the first."""
    return one.outputs[name].reshape(-1, one.outputs[name].shape[-1])[1:]


def check_formulas(run: Forwards) -> Found:
    """Compare what each norm gives with its formula in float64, with the gain, the bias and the ε of the module."""
    asked = [(run.layout.final_norm, run.layout.final_formula)]
    for path, block in zip(run.layout.paths, run.layout.blocks, strict=True):
        asked += [(f"{path}.{block.path[kind]}", formula) for kind, formula in block.formulas]
    modules = {path: run.model.get_submodule(path) for path, _ in asked}
    return [
        (path, relative_error(normed(modules[path], formula, one.inputs[path][0]), one.outputs[path]))
        for one in run.seen
        for path, formula in asked
    ]


def check_batch(run: Forwards) -> Found:
    """Compare the logits of one batch, padded on the left, with those of single prompts."""
    model, width = run.model, max(len(one.ids) for one in run.seen)
    rows = torch.zeros(len(run.seen), width, dtype=torch.long)
    mask = torch.zeros_like(rows)
    for row, one in enumerate(run.seen):
        rows[row, width - len(one.ids) :], mask[row, width - len(one.ids) :] = one.ids, 1
    given = {"attention_mask": mask.to(model.device), "use_cache": False}
    if "position_ids" in signature(model.forward).parameters:
        given["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0).to(model.device)
    logits = model(rows.to(model.device), **given).logits.cpu()
    return [("", relative_error(logits[row, width - len(one.ids) :], one.logits)) for row, one in enumerate(run.seen)]


def check_cache(run: Forwards) -> Found:
    """Compare the logits with a cache, the second half of a prompt token by token, with those without."""
    found = []
    for one in run.seen:
        cache, logits, half = None, [], len(one.ids) // 2
        for part in (one.ids[:half], *one.ids[half:].split(1)):
            out = run.model(part[None].to(run.model.device), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits.append(out.logits[0].cpu())
        found.append(("", relative_error(torch.cat(logits), one.logits)))
    return found


def check_causality(run: Forwards) -> Found:
    """Change the last token, and compare the logits before it."""
    found = []
    for one in run.seen:
        other = torch.cat([one.ids[:-1], (one.ids[-1:] + 1) % run.n_vocab])
        logits = run.model(other[None].to(run.model.device), use_cache=False).logits[0].cpu()
        found.append(("", relative_error(logits[:-1], one.logits[:-1])))
    return found


CHECKS: dict[str, Callable[[Forwards], Found]] = {
    "each block reads what the one before gives": check_chain,
    "a block gives its input + attn_out + mlp_out": check_sums,
    "norms and branches read what they should": check_reads,
    "a parallel block's attention alone mixes tokens": check_mixing,
    "every norm computes its formula": check_formulas,
    "a padded batch = single prompts": check_batch,
    "with a cache = without": check_cache,
    "a later token changes no earlier logits": check_causality,
}
