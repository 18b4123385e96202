"""Loading of a chat model without weight processing, from an organism, a local folder or a hub name.

Of the families that are known by name the model is a HookedTransformer if TransformerLens still has that class
(version 3.x; :mod:`lens_steer.models.hooked_transformer` builds it), and a TransformerBridge otherwise. Of every other
family it is the plain Hugging Face model, whose layout is proved here (:mod:`lens_steer.models.proof`). Its activations
equal those of the Hugging Face model.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lens_steer.errors import LensSteerError, first_line
from lens_steer.models.backends import BACKENDS, choose_backend
from lens_steer.models.fingerprint import fingerprint
from lens_steer.models.hooked_transformer import hooked_transformer
from lens_steer.models.huggingface import DeviceMap, bridge_and_twin, read_weights
from lens_steer.models.info import ModelInfo, read_info
from lens_steer.models.layout import KNOWN
from lens_steer.models.location import read_config
from lens_steer.models.logits import logit_scale
from lens_steer.models.norm_points import add_norm_outputs
from lens_steer.models.proof import prove, require
from lens_steer.models.quantization import check_kind

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer
    from transformer_lens.model_bridge import TransformerBridge

log = logging.getLogger(__name__)


def load_model(
    name: str | Path,
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    n_devices: int = 1,
    device_map: DeviceMap = None,
    quantization: str | None = None,
    backend: str = "auto",
    chat_template: str | None = None,
    template_args: Mapping[str, Any] | None = None,
    template_date: str | None = None,
    adapter: str | Path | None = None,
    revision: str | None = None,
) -> HookedTransformer | TransformerBridge:
    """Load a chat model whose residual streams and norm outputs can be read and steered under one set of names.

    Args:
        name: ``"organism/qwen2"``, ``"organism/llama"``, ``"organism/gemma2"`` (included in the package, no network
            needed), a local Hugging Face folder, a ``.gguf`` file (which Transformers dequantises), or a hub name.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"``, ``"float64"``, a ``torch.dtype``, or ``"auto"`` (the dtype
            of the checkpoint).
        device: The device of the model. None: the first CUDA device if there is one, otherwise the CPU.
        n_devices: The number of accelerators over which the blocks of a HookedTransformer are split.
        device_map: The device of each part of a TransformerBridge or a plain model, in the form of Transformers:
            ``"auto"``, or a mapping of modules to devices. It replaces ``device``.
        quantization: ``"nf4"`` or ``"fp4"``: a TransformerBridge or a plain model with 4-bit weights. None: the weights
            of the checkpoint, which may already be quantised in this way.
        backend: ``"hooked"``: a HookedTransformer (TransformerLens 3.x). ``"bridge"``: a TransformerBridge. ``"auto"``:
            a HookedTransformer if the class exists and can hold the model exactly, otherwise a TransformerBridge.
            ``"hf"``: the plain Hugging Face model, which ``"auto"`` takes for every architecture that is not in
            :data:`lens_steer.models.layout.KNOWN`; what TransformerLens alone offers (``run_with_cache``, hook points)
            it does not have.
        chat_template: A template for a model that has none, or in place of the model's own: ``"plain"`` (``User: …``,
            with the special tokens that the tokenizer adds to any text), a Jinja template, or a file with one. None:
            the model's own template.
        template_args: The arguments of the chat template besides the messages, such as ``{"enable_thinking": False}``.
        template_date: The date ``YYYY-MM-DD`` for a template that writes a date. None:
            :data:`lens_steer.models.templates.DATE`, if the template would write today's date, so that prompts are the
            same on every day.
        adapter: The folder of a PEFT adapter (LoRA), which is merged into the weights in the dtype of the model. It
            needs ``lens-steer[export]``.
        revision: A branch, tag or commit of a model on the hub.

    Returns:
        The model in evaluation mode, with its description in ``model.lens_info``.

    Raises:
        LensSteerError: If the name is unknown; if the folder holds no model or no tokenizer; if the template does not
            use an argument or a date; if the structure of the model is not found
            (:class:`~lens_steer.models.block_reader.StructureError`) or a check of its proof fails
            (:class:`~lens_steer.models.proof.ProofError`); or if the dtype or the backend is invalid.
    """
    if backend not in BACKENDS:
        raise LensSteerError(f"backend={backend!r}: use one of {', '.join(BACKENDS)}")
    told, config = read_info(
        name,
        chat_template=chat_template,
        template_args=template_args,
        template_date=template_date,
        adapter=adapter,
        revision=revision,
    )
    return load_described(
        told,
        config,
        dtype=dtype,
        device=device,
        n_devices=n_devices,
        device_map=device_map,
        quantization=quantization,
        backend=backend,
    )


def load_described(
    told: ModelInfo,
    config: Any,
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    n_devices: int = 1,
    device_map: DeviceMap = None,
    quantization: str | None = None,
    backend: str = "auto",
) -> HookedTransformer | TransformerBridge:
    """Load the weights of a model whose description has been read, and read the description no second time.

    The model takes over the tokenizer of the description.

    Args:
        told, config: The description and the configuration, from :func:`lens_steer.models.info.read_info`.
        dtype, device, n_devices, device_map, quantization, backend: See :func:`load_model`.

    Raises:
        LensSteerError: For the reasons of :func:`load_model`, except those of the description.

    >>> load_described(*read_info("organism/llama")).lens_info.backend in BACKENDS
    True
    """
    name, folder, merged, tokenizer = told.name, told.folder, told.adapter, told.tokenizer
    kind = check_kind(quantization, config)
    if not told.known_by_name or backend == "hf":
        if backend not in ("auto", "hf"):
            raise LensSteerError(
                f"backend={backend!r}: model {told.name!r} has architecture {told.architecture!r}, and the classes of "
                f"TransformerLens are used for {', '.join(KNOWN)}: use backend='hf'"
            )
        return _plain(told, config, dtype, device, n_devices, device_map, kind)
    only_bridge = f"device_map={device_map!r}" if device_map is not None else f"{kind} weights" if kind else ""
    chosen, mapped = choose_backend(config, name, backend, n_devices, only_bridge)
    torch_dtype = _dtype(dtype, config)
    device = usable_device(device)
    if mapped is None:
        model, twin = bridge_and_twin(
            folder, config, torch_dtype, device, tokenizer, device_map=device_map, quantization=kind, adapter=merged
        )
    else:
        split = n_devices > 1  # Blocks on several accelerators hold copies of the weights.
        source = read_weights(folder, config, torch_dtype, "cpu" if split else device, adapter=merged)
        model = hooked_transformer(source, config, mapped, torch_dtype, device, n_devices, tokenizer)
        twin = None if split else source
        add_norm_outputs(model)
    info = replace(
        told, backend=chosen, dtype=str(torch_dtype).removeprefix("torch."), quantization=kind, device_map=device_map
    )
    vars(model)["lens_info"] = info
    if twin is not None:
        _attach_twin(model, twin)
    vars(model)["lens_fingerprint"] = fingerprint(model)
    _tell(info, device)
    return model.eval()


def _plain(
    told: ModelInfo,
    config: Any,
    dtype: str | torch.dtype,
    device: str | torch.device | None,
    n_devices: int,
    device_map: DeviceMap,
    kind: str,
) -> Any:
    """Load a plain Hugging Face model, which is its own twin."""
    if n_devices > 1:
        raise LensSteerError(f"n_devices={n_devices} splits a HookedTransformer: use device_map with backend='hf'")
    torch_dtype, device = _dtype(dtype, config), usable_device(device)
    model = read_weights(
        told.folder,
        config,
        torch_dtype,
        device,
        device_map=device_map,
        quantization=kind,
        adapter=told.adapter,
    )
    name = str(torch_dtype).removeprefix("torch.")
    info = replace(told, backend="hf", dtype=name, quantization=kind, device_map=device_map)
    vars(model)["lens_info"] = info
    if not info.known_by_name:
        rows = prove(model, info.layout)
        require(rows, info.name)
        vars(model)["lens_proof"] = rows
        vars(model)["lens_logit_scale"] = logit_scale(model)
    _tell(info, device)
    return model.eval()


def _tell(info: ModelInfo, device: torch.device) -> None:
    shape = f"{info.architecture}, {info.n_layers} blocks, d_model {info.d_model}, {info.dtype}"
    log.info("loaded %s: %s on %s", info.name, shape, device)


def info_of(model: Any) -> ModelInfo:
    """Return the description of a model.

    Raises:
        LensSteerError: If the weights of the model were processed, if its norm outputs are split by head, or if
            :func:`load_model` did not load it. The message says how to load it.
    """
    how = "load it with lens_steer.load_model(name), which leaves the weights as they are"
    normalization = str(getattr(getattr(model, "cfg", None), "normalization_type", ""))
    if normalization.endswith("Pre") or getattr(model, "compatibility_mode", False):
        raise LensSteerError(
            f"model has its weights processed (normalization_type={normalization!r}, compatibility mode "
            f"{'on' if getattr(model, 'compatibility_mode', False) else 'off'}), so its activations are not the "
            f"model's own: {how}"
        )
    for flag in ("use_split_qkv_input", "use_attn_in"):
        if getattr(getattr(model, "cfg", None), flag, False):
            raise LensSteerError(
                f"model has {flag} on, which splits its norm outputs by head: turn it off with model.set_{flag}(False)"
            )
    info = getattr(model, "lens_info", None)
    if not isinstance(info, ModelInfo):
        raise LensSteerError(f"model of type {type(model).__name__} carries no description: {how}")
    return info


def hf_twin(model: Any) -> Any:
    """Return the plain Hugging Face copy of a model, which runs under ``engine="hf"`` and has its own ``lens_info``.

    The twin shares the model's weights, so it costs no memory, and both models see a change in place. The twin of a
    TransformerBridge shares all weights. The twin of a HookedTransformer shares all weights except those with another
    layout (see :func:`lens_steer.models.hooked_transformer.hooked_transformer`). If the blocks of a HookedTransformer
    are split over accelerators, the twin is a separate copy, which is read at the first request.
    """
    info = info_of(model)
    if info.backend == "hf":
        return model
    if "lens_twin" not in vars(model):
        _attach_twin(model, read_again(model))
    return vars(model)["lens_twin"]


def read_again(model: Any) -> Any:
    """Read the plain Hugging Face model again from its origin, with the same dtype, quantisation and devices."""
    info = info_of(model)
    config, dtype = read_config(info.name, info.folder), getattr(torch, info.dtype)
    placed = {"device_map": info.device_map, "quantization": info.quantization, "adapter": info.adapter}
    return read_weights(info.folder, config, dtype, device_of(model), **placed)


def device_of(model: Any) -> torch.device:
    """Return the device on which the model expects its tokens."""
    return torch.device(model.device) if info_of(model).backend == "hf" else torch.device(model.cfg.device)


def embedding_of(model: Any) -> torch.nn.Module:
    """Return the module that embeds the tokens."""
    return model.get_input_embeddings() if info_of(model).backend == "hf" else model.embed


def final_norm_of(model: Any) -> torch.nn.Module:
    """Return the norm before the unembedding."""
    info = info_of(model)
    return model.get_submodule(info.layout.final_norm) if info.backend == "hf" else model.ln_final


def blocks_of(model: Any) -> torch.nn.ModuleList:
    """Return the blocks of the model."""
    info = info_of(model)
    return model.get_submodule(info.layout.layers) if info.backend == "hf" else model.blocks


def _attach_twin(model: Any, twin: Any) -> None:
    twin.lens_info = replace(model.lens_info, backend="hf")
    # Set in the dictionary, because an attribute would register the twin as a submodule.
    vars(model)["lens_twin"] = twin


def _dtype(dtype: str | torch.dtype, config: Any) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        dtype = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
        return getattr(torch, dtype)
    if dtype not in ("float32", "bfloat16", "float16", "float64"):
        raise LensSteerError(f"dtype={dtype!r}: use float32, bfloat16, float16, float64 or auto")
    return getattr(torch, dtype)


def usable_device(device: str | torch.device | None) -> torch.device:
    """Return the requested device after a test that it works; None means the first CUDA device, otherwise the CPU."""
    wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # The test tensor is float32 because Apple's accelerators have no float64; statistics are computed on the CPU.
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise LensSteerError(f"device={str(device)!r} cannot be used here: {first_line(error)}") from None
    return torch.device(wanted)
