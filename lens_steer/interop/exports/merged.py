"""A steered model as an ordinary Hugging Face folder, with the plan in its weights and no hooks.

Each layer that changes gets ``W + B A`` and, if the plan adds constants, a bias
(:mod:`lens_steer.interop.exports.folding`), summed in float64 and stored in the model's dtype. Constants need biases,
which not every family has. If the configuration has a flag for them, it is set, and the other layers of that part of a
block get biases of zero. A tied unembedding is untied if the embedding or the unembedding changes.
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lens_steer._io.atomic import whole_folder
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.interop.exports.certificate import (
    Certificate,
    Trial,
    certify,
    check_trial,
    prompts_for,
    require,
    write_certificate,
)
from lens_steer.interop.exports.folding import Folded, fold
from lens_steer.interop.exports.layers import BIAS_FLAGS, EMBEDDING, UNEMBEDDING, part_of
from lens_steer.interop.exports.lora import check_new
from lens_steer.models.huggingface import SMALL, read_weights, without_bar
from lens_steer.models.loading import hf_twin, info_of
from lens_steer.models.quantization import dequantized
from lens_steer.models.templates import fix_template
from lens_steer.steer.plans import SteeringPlan

log = logging.getLogger(__name__)


def export_merged(
    plan: SteeringPlan, model: Any, folder: str | Path, *, partial: bool = False, trial: Trial | None = None
) -> Certificate:
    """Write a steered model as a Hugging Face folder, with its certificate.

    The folder holds weights, configuration, tokenizer and chat template. ``AutoModelForCausalLM`` and
    :func:`lens_steer.load_model` load it. If the model has biases that its family usually lacks, TransformerLens's
    converter for this family would drop them; :func:`lens_steer.load_model` uses a TransformerBridge for such a model.

    Args:
        plan: A plan made for this model.
        model: A model of :func:`lens_steer.load_model`.
        folder: A new or an empty folder.
        partial: True leaves out the steps that do not fold.
        trial: The prompts and the tolerance of the certificate.

    Raises:
        LensSteerError: If the plan does not fold, if the folder is not empty, or if the certificate fails.

    >>> import lens_steer as ls, tempfile
    >>> plan = ls.selective_steering(ls.load_calibration("figures/calibration"), 200)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_merged(plan, ls.load_model("organism/qwen2"), folder).verdict
    'pass'
    """
    check_new(folder)
    check_trial(model, trial)
    info = info_of(model)
    folded = fold(plan, model, into="merged", partial=partial)
    with whole_folder(folder) as work:
        steered = merged_model(folded, model)
        with without_bar(small=info.n_layers * info.d_model <= SMALL):
            steered.save_pretrained(work)
        for weights in work.glob("*.safetensors"):
            weights.chmod(0o644)
        info.tokenizer.save_pretrained(work)
        _check_tokenizer(work, model, trial)
        back = read_weights(str(work), steered.config, getattr(torch, info.dtype), steered.device)
        del steered
        found = require(certify(model, back, folded, "merged", trial))
        write_certificate(work, found)
    return found


def merged_model(folded: Folded, model: Any) -> Any:
    """Return the Hugging Face model with a plan in its weights, in memory; the given model is not changed.

    Args:
        folded: A plan folded into ``"merged"``.
        model: The model that the plan was folded for.

    Raises:
        LensSteerError: If the plan was folded into an adapter.
    """
    if folded.into != "merged":
        raise LensSteerError(f"the plan was folded into={folded.into!r}: fold it into='merged'")
    steered = dequantized(copy.deepcopy(hf_twin(model)))
    vars(steered).pop("lens_info", None)
    if EMBEDDING in folded.factors or UNEMBEDDING in folded.factors:
        _untie(steered)
    if any(f.bias is not None for f in folded.factors.values()):
        _give_biases(steered, {m for m, f in folded.factors.items() if f.bias is not None})
    with torch.no_grad():
        for name, factor in folded.factors.items():
            layer = steered.get_submodule(name)
            _add(layer.weight, factor.b @ factor.a)
            if factor.bias is not None:
                _add(layer.bias, factor.bias)
    return steered.eval()


def _add(parameter: Tensor, change: Tensor) -> None:
    # The sum is computed on the CPU, because Apple's accelerators have no float64.
    parameter.copy_((parameter.cpu().double() + change.cpu()).to(parameter.dtype))


def _untie(steered: Any) -> None:
    if steered.config.tie_word_embeddings:
        steered.config.tie_word_embeddings = False
        steered.lm_head.weight = nn.Parameter(steered.model.embed_tokens.weight.detach().clone(), requires_grad=False)


def _give_biases(steered: Any, modules: set[str]) -> None:
    """Give biases of zero to every layer of the parts of blocks that need them, and set the configuration's flag."""
    flags = BIAS_FLAGS[steered.config.model_type]
    parts = {part_of(m) for m in modules if steered.get_submodule(m).bias is None}
    for part in sorted(parts):
        setattr(steered.config, flags[part], True)
        for name, layer in steered.named_modules():
            inside = name.startswith("model.layers.") and part_of(name) == part
            if inside and isinstance(layer, nn.Linear) and layer.bias is None:
                layer.bias = nn.Parameter(torch.zeros_like(layer.weight[:, 0]), requires_grad=False)
    if parts:
        log.warning(
            "the steered weights have biases that a HookedTransformer cannot hold: load_model takes a "
            "TransformerBridge for them"
        )


def _check_tokenizer(work: Path, model: Any, trial: Trial | None) -> None:
    """Refuse a tokenizer that encodes differently after it is read back.

    Transformers chooses the tokenizer's class by the model type, so the class may change.
    """
    from transformers import AutoTokenizer

    back: Any = AutoTokenizer.from_pretrained(work, local_files_only=True)
    own, template = info_of(model).tokenizer, info_of(model).template
    fix_template(back, template.args, template.date)
    for prompt in prompts_for(model, trial.prompts if trial else None):
        if batching.encode(back, prompt) != batching.encode(own, prompt):
            raise LensSteerError(
                f"the tokenizer of {info_of(model).name!r} comes back from disk with other tokens for "
                f"{prompt.text[:40]!r}: export an adapter, and keep the model's own tokenizer"
            )
