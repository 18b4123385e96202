"""llama.cpp, through llama-cpp-python: a model's logits with adapters and a control vector, and a GGUF file of an
embedded model to run.

Everything is in float32 and no flash attention is used, so that what is left is rounding. Token ids go in as they are:
the file has no tokenizer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

N_CTX = 256


def write_base(twin: Any, path: Path) -> Path:
    """A Hugging Face model as llama.cpp reads it, every tensor in float32."""
    import gguf

    config = twin.config
    kind = {"qwen2": gguf.MODEL_ARCH.QWEN2, "llama": gguf.MODEL_ARCH.LLAMA, "gemma2": gguf.MODEL_ARCH.GEMMA2}[
        config.model_type
    ]
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[kind])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_sliding_window(config.sliding_window)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    for name, tensor in twin.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.detach().float().cpu().numpy()
        if config.model_type == "llama" and name.split(".")[-2] in ("q_proj", "k_proj"):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            halves = values.reshape(heads, 2, width // 2, *values.shape[1:])
            values = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
        if config.model_type == "gemma2" and name.endswith("norm.weight"):
            values = values + np.float32(1)
        writer.add_tensor(str(names.get_name(name, try_suffixes=(".weight", ".bias"))), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def run(
    path: Path,
    rows: Sequence[Sequence[int]],
    adapters: Sequence[tuple[Path, float]] = (),
    vector: np.ndarray | None = None,
) -> list[Tensor]:
    """Logits at every position of every row.

    Args:
        path: of the model.
        rows: token ids.
        adapters: files, each with its scale.
        vector: [blocks, d_model], the first row for block 1's output.
    """
    llama_cpp: Any = import_module("llama_cpp")
    model = llama_cpp.Llama(
        str(path),
        n_ctx=N_CTX,
        n_batch=N_CTX,
        logits_all=True,
        flash_attn=False,
        verbose=False,
        n_threads=1,
        n_threads_batch=1,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
    )
    try:
        loaded = [llama_cpp.llama_adapter_lora_init(model.model, str(file).encode()) for file, _ in adapters]
        assert all(loaded), "llama.cpp refuses the adapter"
        if loaded:
            handles = (llama_cpp.llama_adapter_lora_p_ctypes * len(loaded))(*loaded)
            scales = (ctypes.c_float * len(loaded))(*(scale for _, scale in adapters))
            assert llama_cpp.llama_set_adapters_lora(model.ctx, handles, len(loaded), scales) == 0
        if vector is not None:
            data = np.ascontiguousarray(vector, dtype=np.float32)
            pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            assert llama_cpp.llama_set_adapter_cvec(model.ctx, pointer, data.size, data.shape[1], 1, len(data) + 1) == 0
        found = []
        for ids in rows:
            model.reset()
            model.eval(list(ids))
            found.append(torch.from_numpy(model.scores[: len(ids)].copy()))
        return found
    finally:
        model.close()


def control_data(path: Path, blocks: int) -> np.ndarray:
    """A control vector as llama.cpp lays it out: ``direction.N`` in row N − 1, the first for block 1's output."""
    import gguf

    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    data = np.zeros((blocks - 1, len(next(iter(tensors.values())))), dtype=np.float32)
    for name, values in tensors.items():
        data[int(name.removeprefix("direction.")) - 1] = values
    return data
