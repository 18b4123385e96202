"""The forwards of a proof: short prompts of random tokens, and what the modules of a layout get and give on each."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lens_steer.errors import LensSteerError, first_line
from lens_steer.models.layout import Layout

LENGTHS = (5, 8, 11, 11)  # tokens


@dataclass(frozen=True)
class Seen:
    """One forward of one prompt, in the dtype of the model, on the CPU.

    Attributes:
        ids: The token ids.
        inputs: The floating-point tensors that went into each module, by its path, in the order of the call.
        outputs: What came out of each module; of a tuple the first.
        logits: ``[pos, d_vocab]``.
    """

    ids: Tensor
    inputs: dict[str, list[Tensor]]
    outputs: dict[str, Tensor]
    logits: Tensor


@dataclass(frozen=True)
class Forwards:
    """The forwards of a proof.

    Attributes:
        model, layout: A plain Hugging Face model in evaluation mode, and its layout.
        seen: One entry a prompt.
    """

    model: Any
    layout: Layout
    seen: tuple[Seen, ...]

    @property
    def eps(self) -> float:
        """The relative rounding error of the model's dtype."""
        return torch.finfo(self.model.dtype).eps

    @property
    def n_vocab(self) -> int:
        return self.model.config.get_text_config().vocab_size


def run_forwards(model: Any, layout: Layout, *, seed: int) -> Forwards:
    """Run a model on prompts of :data:`LENGTHS` random tokens.

    Raises:
        LensSteerError: If the model cannot run in its dtype, or if an output is not finite; the message names the first
            module that gives such a one.

    >>> import lens_steer as ls
    >>> model = ls.load_model("organism/llama")
    >>> found = run_forwards(ls.hf_twin(model), model.lens_info.layout, seed=0)
    >>> found.seen[0].outputs["model.layers.0.mlp"].shape
    torch.Size([1, 5, 128])
    """
    draw = torch.Generator().manual_seed(seed)
    n_vocab = model.config.get_text_config().vocab_size
    prompts = [torch.randint(n_vocab, (length,), generator=draw) for length in LENGTHS]
    dtype = str(model.dtype).removeprefix("torch.")
    try:
        seen = tuple(seen_on(model, layout, ids) for ids in prompts)
    except Exception as error:  # whatever a family's own code raises
        raise LensSteerError(
            f"the model cannot run in {dtype}: {first_line(error)}: load it in another dtype"
        ) from error
    for one in seen:
        outputs = {**{f"the output of {path}": value for path, value in one.outputs.items()}, "a logit": one.logits}
        if first := next((what for what, value in outputs.items() if not bool(torch.isfinite(value).all())), None):
            raise LensSteerError(
                f"{first} is not finite in {dtype}: load the model in bfloat16 or float32, or look for broken weights"
            )
    return Forwards(model, layout, seen)


def seen_on(model: Any, layout: Layout, ids: Tensor) -> Seen:
    """Run a model on one prompt, and keep what the modules of its layout get and give."""
    inputs: dict[str, list[Tensor]] = {}
    outputs: dict[str, Tensor] = {}

    # Copies, because some families go on to change a module's output in place.
    def keep(module: nn.Module, args: Any, kwargs: Any, output: Any, *, path: str) -> None:
        given = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point()]
        inputs[path] = [value.detach().cpu().clone() for value in given]
        outputs[path] = (output[0] if isinstance(output, tuple) else output).detach().cpu().clone()

    with ExitStack() as stack:
        for path in (*_modules(layout), layout.final_norm):
            hook = model.get_submodule(path).register_forward_hook(partial(keep, path=path), with_kwargs=True)
            stack.callback(hook.remove)
        logits = model(ids[None].to(model.device), use_cache=False).logits[0].cpu()
    return Seen(ids, inputs, outputs, logits)


def _modules(layout: Layout) -> list[str]:
    """Return the paths of the blocks and of the modules that the layout names in them."""
    found = []
    for path, block in zip(layout.paths, layout.blocks, strict=True):
        inside = dict.fromkeys((*block.path.values(), block.middle, *block.others))
        found += [path, *(f"{path}.{module}" for module in inside if module)]
    return found


def relative_error(a: Tensor, b: Tensor) -> float:
    """Return ‖a − b‖ / ‖b‖, computed in float64.

    >>> relative_error(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]))
    1.0
    """
    a, b = a.double(), b.double()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))
