"""What a study of a model would take, from its configuration alone, before anything is loaded or downloaded:
parameters, memory, a lower bound on time.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lens_steer.errors import LensSteerError
from lens_steer.models.hooked_transformer import GEMMAS
from lens_steer.models.huggingface import text_part
from lens_steer.models.sites import NORM_MODULES, QK_NORMS

BYTES = {"float32": 4.0, "float64": 8.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "int4": 0.5}
GIB = 2**30
PROBE = 1024  # width of the matrix product that measures this machine


@dataclass(frozen=True)
class Shape:
    """What of a configuration decides its size.

    Attributes:
        n_layers, d_model, d_mlp, n_heads, n_kv_heads, d_head, d_vocab: as everywhere.
        norms: norms a block.
        qkv_bias: whether q, k and v have a bias.
        tied: whether the unembedding is the embedding.
        qk_norms: whether queries and keys have a norm, one gain for all heads.
        output_bias, mlp_bias: whether what attention writes, and the MLP's three layers, have a bias.
        scaled_embedding: whether a HookedTransformer has an embedding of its own beside its Hugging Face twin's
            (Gemma's, times √d_model).
    """

    n_layers: int
    d_model: int
    d_mlp: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_vocab: int
    norms: int
    qkv_bias: bool
    tied: bool
    qk_norms: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    scaled_embedding: bool = False

    @staticmethod
    def of(config: Any) -> Shape:
        """Of a Hugging Face configuration; of a checkpoint with images its text part alone.

        Raises:
            LensSteerError: an architecture that is not mapped.
        """
        config = text_part(config)
        kind = config.model_type
        if kind not in NORM_MODULES:
            raise LensSteerError(f"architecture {kind!r} is not mapped: supported are {', '.join(NORM_MODULES)}")
        d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        biased = bool(getattr(config, "attention_bias", False))
        return Shape(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            d_head,
            config.vocab_size,
            len(NORM_MODULES[kind]),
            kind == "qwen2" or biased,
            bool(config.tie_word_embeddings),
            kind in QK_NORMS,
            biased,
            bool(getattr(config, "mlp_bias", False)),
            kind in GEMMAS,
        )

    @property
    def block_parameters(self) -> int:
        """Of one block."""
        q, kv = self.n_heads * self.d_head, self.n_kv_heads * self.d_head
        attention = self.d_model * (q + 2 * kv) + q * self.d_model
        biases = (
            self.qkv_bias * (q + 2 * kv)
            + self.output_bias * self.d_model
            + self.mlp_bias * (2 * self.d_mlp + self.d_model)
        )
        return (
            attention
            + 3 * self.d_model * self.d_mlp
            + biases
            + self.norms * self.d_model
            + self.qk_norms * 2 * self.d_head
        )

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return (
            self.n_layers * self.block_parameters + self.d_model + self.d_vocab * self.d_model * (1 if self.tied else 2)
        )


@dataclass(frozen=True)
class Estimate:
    """Bytes, and seconds where a speed is known.

    Attributes:
        parameters: how many.
        weights: bytes of the model that is loaded.
        weights_while_loading: the most that stands at once: a checkpoint in the model's dtype is the model; one in
            another dtype is read beside it, and the embedding once more.
        twin: what a HookedTransformer holds beside its Hugging Face twin, with which it shares its weights: Gemma's
            scaled embedding, else nothing.
        cache: key–value cache of one batch at full length (a sliding window holds less).
        recorded: activations kept, at keep="all".
        moments: the same at keep="moments".
        logits: of one batch of forced answers.
        record_flop, generate_flop: multiply-adds count as two.
        record_seconds, generate_seconds: at ``flops`` a second and no overhead, so a lower bound; None without a speed.
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
        """Plain values; bytes also as ``…_gib``."""
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
    """Memory and a lower bound on time of recording all prompts and answering them once.

    Args:
        shape: of the model.
        n_prompts: of both classes together.
        prompt_tokens: of a prompt with its chat template, on average.
        n_sites: that are recorded.
        max_new_tokens: of each answer.
        batch_size: answers at once.
        dtype: of the weights: a torch name, ``int8`` or ``int4``; operators compute in float32 and cache and
            activations take two bytes below that.
        flops: a second; see :func:`measured_flops`.
        stored: dtype of the checkpoint, where it is another one.

    Raises:
        LensSteerError: a count below 1, an unknown dtype.

    >>> shape = Shape(2, 64, 128, 4, 2, 16, 1000, 2, True, True)
    >>> estimate(shape, n_prompts=10, prompt_tokens=20, n_sites=4).recorded == 10 * 4 * 64 * 4
    True
    """
    for name, value in (
        ("n_prompts", n_prompts),
        ("prompt_tokens", prompt_tokens),
        ("n_sites", n_sites),
        ("max_new_tokens", max_new_tokens),
        ("batch_size", batch_size),
    ):
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
    attention = 2 * shape.n_layers * shape.n_heads * shape.d_head  # scores and values, for each pair of positions
    record = 2.0 * n_prompts * (prompt_tokens * blocks + attention * prompt_tokens**2 / 2)
    answer = 2.0 * n_prompts * (length * blocks + max_new_tokens * unembedding + attention * length**2 / 2)
    return Estimate(
        shape.parameters,
        weights,
        loading,
        twin,
        round(2 * shape.n_layers * shape.n_kv_heads * shape.d_head * length * rows * active),
        n_prompts * n_sites * shape.d_model * 4,
        4 * n_sites * shape.d_model * 8,
        rows * (max_new_tokens + 1) * shape.d_vocab * 4,
        record,
        answer,
        None if flops is None else record / flops,
        None if flops is None else answer / flops,
    )


def stored_dtype(config: Any, dtype: str) -> str:
    """The dtype that a checkpoint says it is in; where it does not say, that of the model that is made of it.

    >>> from transformers import LlamaConfig
    >>> stored_dtype(LlamaConfig(dtype="bfloat16"), "float32"), stored_dtype(LlamaConfig(), "float32")
    ('bfloat16', 'float32')
    """
    said = str(getattr(config, "dtype", None)).removeprefix("torch.")
    return said if said in BYTES else dtype


def measured_flops(device: str | torch.device = "cpu", *, dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations a second of a large matrix product on this machine, the best of five."""
    a = torch.randn(PROBE, PROBE, device=device).to(dtype)
    best = float("inf")
    for _ in range(6):  # the first one warms up
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        torch.mm(a, a)
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * PROBE**3 / best
