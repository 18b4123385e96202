"""The proof that hooks see and change what a layout says, on any backend; :mod:`lens_steer.models.proof` is the other
half.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lens_steer.data import Prompt, PromptSet
from lens_steer.inference.attach import stream_of
from lens_steer.inference.batching import encode
from lens_steer.inference.record import record_prompts
from lens_steer.inference.teacher_forcing import first_logits
from lens_steer.models.layout import ROUTER_LOGITS
from lens_steer.models.loading import hf_twin, info_of
from lens_steer.models.proof import ProofRow, bound_of
from lens_steer.models.proof_forwards import relative_error
from lens_steer.models.sites import NETWORK_ORDER, kinds_of, parse, resolve
from lens_steer.steer.hooks import steering
from lens_steer.steer.plans import SteeringPlan, Step

PROMPTS = ("Hi.", "What is 4 plus 3?", "Name a colour of the sky.", "Tell me, in one short sentence, what rain is.")


def prove_hooks(model: Any) -> tuple[ProofRow, ...]:
    """Check the hooks of a model on four short prompts.

    The checks: what is recorded at every site, in a padded batch, equals what plain hooks on the modules of the Hugging
    Face model see for single prompts; an addition of zero at every norm output changes no bit of the logits; an
    addition at each kind of sites changes them.

    Args:
        model: A model from :func:`lens_steer.load_model`, with no plan in force.

    Returns:
        One row a check, in this order.

    >>> import lens_steer as ls
    >>> [row.holds for row in prove_hooks(ls.load_model("organism/llama"))]
    [True, True, True]
    """
    info = info_of(model)
    engine = "hf" if info.backend == "hf" else "tl"
    prompts = PromptSet(tuple(Prompt.of(text) for text in PROMPTS), "proof")
    kinds = [kind for kind in NETWORK_ORDER if any(kind in kinds_of(block) for block in info.layout.blocks)]
    names = resolve(kinds, info.layout)
    routed = any(block.router for block in info.layout.blocks)
    errors = []
    for own in (names, resolve(ROUTER_LOGITS, info.layout)) if routed else (names,):
        recorded = record_prompts(model, prompts, own, engine=engine)
        for row, prompt in enumerate(prompts):
            seen = _seen_by_plain_hooks(hf_twin(model), prompt, own)
            errors += [(name, relative_error(recorded[row, column], seen[name])) for column, name in enumerate(own)]
    plain = first_logits(model, prompts, engine=engine)
    norms = [name for name in names if parse(name).is_norm]
    zero = relative_error(_under(model, prompts, norms, 0.0, engine), plain)
    written = [kind for kind in kinds if kind != "resid_mid" or info.backend == "hooked"]  # elsewhere it is read only
    deaf = [k for k in written if torch.equal(_under(model, prompts, resolve(k, info.layout), 1.0, engine), plain)]
    return (
        ProofRow.of("every site, in a batch = plain hooks, alone", errors, bound_of(info.dtype)),
        ProofRow("a step of zero changes no bit", zero, 0.0),
        ProofRow("a step at each kind of sites reaches the logits", float(len(deaf)), 0.0, ", ".join(deaf)),
    )


def _seen_by_plain_hooks(twin: Any, prompt: Prompt, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Return what plain hooks see at the last token of a prompt."""
    found: dict[str, Tensor] = {}

    def keep(module: Any, args: Any, kwargs: Any, output: Any, *, name: str) -> None:
        site = parse(name)
        value = stream_of(args, kwargs) if site.is_input else output
        value = value[site.output(info.layout)] if isinstance(value, tuple) else value
        found[name] = value.reshape(-1, value.shape[-1])[-1].detach().float().cpu().clone()

    info = info_of(twin)
    ids = torch.tensor([encode(info.tokenizer, prompt)], device=twin.device)
    with ExitStack() as stack, torch.inference_mode():
        for name in names:
            module = twin.get_submodule(parse(name).module(info.layout))
            stack.callback(module.register_forward_hook(partial(keep, name=name), with_kwargs=True).remove)
        twin(ids, use_cache=False)
    return found


def _under(model: Any, prompts: PromptSet, names: Any, coefficient: float, engine: str) -> Tensor:
    """Return the logits of the first tokens under an addition of a fixed vector, times a coefficient."""
    info = info_of(model)
    vector = torch.randn(info.d_model, generator=torch.Generator().manual_seed(0))
    step = Step("add", tuple(names), {"direction": vector, "coefficient": coefficient})
    with steering(model, SteeringPlan.of(info, "act-add", [step]), tell=False):
        return first_logits(model, prompts, engine=engine)
