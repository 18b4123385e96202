"""Estimates of parameters, memory and a lower bound on time of a study, from the configuration of a model alone.

Nothing is loaded or downloaded for them.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lens_steer.errors import LensSteerError
from lens_steer.models.hooked_transformer import GEMMAS
from lens_steer.models.huggingface import text_part
from lens_steer.models.structure import layout_of

BYTES = {"float32": 4.0, "float64": 8.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "int4": 0.5}
GIB = 2**30
PROBE = 1024  # The width of the matrix product that measures the speed of this machine.


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a model that decide its memory and its operations.

    Attributes:
        n_layers, d_model, n_heads, n_kv_heads, d_head, d_vocab: The usual dimensions of a transformer.
        parameters: The number of parameters of the whole model; a matrix that embedding and unembedding share counts
            once.
        block_parameters: The number of parameters of one block, the mean of all; of a mixture all experts count,
            although a token meets a few of them, so times are not least ones there.
        scaled_embedding: True if a HookedTransformer needs a separate embedding besides that of its Hugging Face twin
            (Gemma's, times √d_model).
    """

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_vocab: int
    parameters: int
    block_parameters: int
    scaled_embedding: bool = False

    @staticmethod
    def of(config: Any) -> Shape:
        """Return the shape of a Hugging Face configuration; of a checkpoint with images only that of its text part.

        Transformers builds the model on PyTorch's meta device, where it takes no memory, and its parameters are
        counted.

        Raises:
            LensSteerError: If the structure of the model cannot be found.

        >>> from transformers import LlamaConfig
        >>> Shape.of(LlamaConfig()).parameters
        6738415616
        """
        from transformers import AutoModelForCausalLM

        config = text_part(config)
        kind = config.model_type
        layout = layout_of(config)
        n_layers = len(layout.blocks)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        return Shape(
            n_layers=n_layers,
            d_model=config.hidden_size,
            n_heads=config.num_attention_heads,
            n_kv_heads=_size(config, "num_key_value_heads", config.num_attention_heads),
            d_head=_size(config, "head_dim", config.hidden_size // config.num_attention_heads),
            d_vocab=config.vocab_size,
            parameters=model.num_parameters(),
            block_parameters=sum(p.numel() for p in model.get_submodule(layout.layers).parameters()) // n_layers,
            scaled_embedding=kind in GEMMAS,
        )


def _size(config: Any, name: str, otherwise: int) -> int:
    """Return a size, or another one if the family has none or its blocks have several (Transformers then raises)."""
    try:
        return getattr(config, name, None) or otherwise
    except RuntimeError:
        return otherwise


@dataclass(frozen=True)
class Estimate:
    """The estimated memory in bytes, operations, and times in seconds.

    Attributes:
        parameters: The number of parameters.
        weights: The bytes of the weights of the loaded model.
        weights_while_loading: The largest number of bytes of weights at one time during loading. A checkpoint in the
            dtype of the model becomes the model itself; a checkpoint in another dtype needs its own memory besides the
            model, and the embedding once more.
        twin: The bytes that a HookedTransformer holds besides its Hugging Face twin, with which it shares its weights:
            those of Gemma's scaled embedding, otherwise 0.
        cache: The bytes of the key–value cache of one batch at full length (a sliding window needs less).
        recorded: The bytes of the recorded activations with keep="all".
        moments: The bytes of the recorded class means with keep="moments".
        logits: The bytes of the logits of one batch in teacher forcing.
        record_flop, generate_flop: The floating-point operations; a multiplication with addition counts as two.
        record_seconds, generate_seconds: The seconds at ``flops`` operations per second without overhead, so a lower
            bound; None if the speed is not known.
    """

    parameters: int
    weights: int
    weights_while_loading: int
    twin: int
    cache: int
    recorded: int
    moments: int
    logits: int
    record_flop: float
    generate_flop: float
    record_seconds: float | None
    generate_seconds: float | None

    def row(self) -> dict[str, Any]:
        """Return the fields as a dictionary of plain values, with bytes also as ``…_gib``."""
        found = asdict(self)
        names = ("weights", "weights_while_loading", "twin", "cache", "recorded", "moments", "logits")
        return found | {f"{name}_gib": round(found[name] / GIB, 3) for name in names}


def estimate(
    shape: Shape,
    *,
    n_prompts: int,
    prompt_tokens: int,
    n_sites: int,
    max_new_tokens: int = 64,
    batch_size: int = 128,
    dtype: str = "float32",
    flops: float | None = None,
    stored: str | None = None,
) -> Estimate:
    """Estimate memory and a lower bound on time for recording all prompts and answering them once.

    Args:
        shape: The shape of the model.
        n_prompts: The number of prompts of both classes together.
        prompt_tokens: The mean number of tokens of a prompt, with its chat template.
        n_sites: The number of recorded sites.
        max_new_tokens: The maximal number of tokens of each answer.
        batch_size: The number of answers in a batch.
        dtype: The dtype of the weights: a torch name, ``int8`` or ``int4``. Numbers of the key–value cache have the
            same size, but at least two bytes. Operators compute in float32, and recorded activations are float32 for
            every dtype.
        flops: The floating-point operations per second; see :func:`measured_flops`. None: no times are estimated.
        stored: The dtype of the checkpoint. None: the same dtype as the model.

    Raises:
        LensSteerError: If a count is below 1, or if a dtype is unknown.

    >>> from transformers import LlamaConfig
    >>> shape = Shape.of(LlamaConfig(num_hidden_layers=2, hidden_size=64))
    >>> estimate(shape, n_prompts=10, prompt_tokens=20, n_sites=4).recorded == 10 * 4 * 64 * 4
    True
    """
    counts = {"n_prompts": n_prompts, "prompt_tokens": prompt_tokens, "n_sites": n_sites}
    for name, value in {**counts, "max_new_tokens": max_new_tokens, "batch_size": batch_size}.items():
        if value < 1:
            raise LensSteerError(f"{name}={value}: at least 1 is needed")
    stored = stored or dtype
    for name, kind in (("dtype", dtype), ("stored", stored)):
        if kind not in BYTES:
            raise LensSteerError(f"{name}={kind!r}: use one of {', '.join(BYTES)}")
    size, active = BYTES[dtype], max(BYTES[dtype], 2.0)
    weights, embedding = round(shape.parameters * size), round(shape.d_vocab * shape.d_model * size)
    twin = embedding * shape.scaled_embedding
    loading = weights + max(twin, 0 if stored == dtype else round(shape.parameters * BYTES[stored]) + embedding)
    length = prompt_tokens + max_new_tokens
    rows = min(batch_size, n_prompts)
    blocks = shape.n_layers * shape.block_parameters
    unembedding = shape.d_vocab * shape.d_model
    attention = 2 * shape.n_layers * shape.n_heads * shape.d_head  # For scores and values, per pair of positions.
    record = 2.0 * n_prompts * (prompt_tokens * blocks + attention * prompt_tokens**2 / 2)
    answer = 2.0 * n_prompts * (length * blocks + max_new_tokens * unembedding + attention * length**2 / 2)
    return Estimate(
        parameters=shape.parameters,
        weights=weights,
        weights_while_loading=loading,
        twin=twin,
        cache=round(2 * shape.n_layers * shape.n_kv_heads * shape.d_head * length * rows * active),
        recorded=n_prompts * n_sites * shape.d_model * 4,
        moments=4 * n_sites * shape.d_model * 8,
        logits=rows * (max_new_tokens + 1) * shape.d_vocab * 4,
        record_flop=record,
        generate_flop=answer,
        record_seconds=None if flops is None else record / flops,
        generate_seconds=None if flops is None else answer / flops,
    )


def stored_dtype(config: Any, dtype: str) -> str:
    """Return the dtype that a checkpoint states; if it states none, the dtype of the model that is made from it.

    >>> from transformers import LlamaConfig
    >>> stored_dtype(LlamaConfig(dtype="bfloat16"), "float32"), stored_dtype(LlamaConfig(), "float32")
    ('bfloat16', 'float32')
    """
    said = str(getattr(config, "dtype", None)).removeprefix("torch.")
    return said if said in BYTES else dtype


def measured_flops(device: str | torch.device = "cpu", *, dtype: torch.dtype = torch.float32) -> float:
    """Measure the floating-point operations per second of a large matrix product: the best of six runs."""
    a = torch.randn(PROBE, PROBE, device=device).to(dtype)
    best = float("inf")
    for _ in range(6):  # The first run warms up the device.
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        torch.mm(a, a)
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * PROBE**3 / best
