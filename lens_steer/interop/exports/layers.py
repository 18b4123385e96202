"""The linear layers of a Hugging Face model that read and write each steered tensor, and the changes they can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.models.layout import Layout
from lens_steer.models.loading import info_of
from lens_steer.models.quantization import plain_weight
from lens_steer.models.sites import Site

TARGETS = ("lora", "merged")
READERS = {"ln1": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "ln2": ("mlp.gate_proj", "mlp.up_proj")}
WRITERS = {"attn_out": "self_attn.o_proj", "mlp_out": "mlp.down_proj"}
# The configuration flag that gives biases to a part of a block, by model type. The biases of a part without a flag here
# are fixed: it has them or lacks them.
BIAS_FLAGS: dict[str, dict[str, str]] = {
    "llama": {"self_attn": "attention_bias", "mlp": "mlp_bias"},
    "qwen3": {"self_attn": "attention_bias"},
    "gemma2": {"self_attn": "attention_bias"},
    "gemma3_text": {"self_attn": "attention_bias"},
    "qwen2": {},
    "mistral": {},
}
NORMS_BETWEEN = ("gemma2", "gemma3_text")  # families with a norm between attention or MLP and the stream
EMBEDDING, UNEMBEDDING, FINAL_NORM = "model.embed_tokens", "lm_head", "model.norm"


@dataclass(frozen=True)
class Layers:
    """The linear layers of one model.

    Attributes:
        twin: The plain Hugging Face model.
        architecture: Its model type.
        into: ``"lora"`` or ``"merged"``, the target that changes are folded into.
    """

    twin: Any
    architecture: str
    into: str

    def __post_init__(self) -> None:
        if self.into not in TARGETS:
            raise LensSteerError(f"into={self.into!r}: use one of {', '.join(TARGETS)}")
        if self.architecture not in BIAS_FLAGS:
            raise LensSteerError(
                f"the layers of architecture {self.architecture!r} are not known, so no plan is folded into them "
                f"(known are {', '.join(BIAS_FLAGS)}): steer with hooks (engine='hf'), or export an addition at "
                "resid_post as a control vector (gguf-cvec)"
            )

    @property
    def layout(self) -> Layout:
        return info_of(self.twin).layout

    @property
    def norms_between(self) -> bool:
        """Return True if a norm stands between the outputs of attention and MLP and the residual stream."""
        return self.architecture in NORMS_BETWEEN

    def readers(self, site: Site) -> tuple[str, ...]:
        """Return the module paths of the layers that read a norm's output; none if the output goes into the stream."""
        return tuple(f"model.layers.{site.block}.{name}" for name in READERS.get(site.kind, ()))

    def writer(self, site: Site) -> str | None:
        """Return the module path of the layer whose bias adds to the tensor at a site; None for the input of block 0.

        This is the layer that writes the output of attention or MLP or, in the residual stream, the layer that wrote
        last.
        """
        kind, block = {
            "resid_pre": ("mlp_out", site.block - 1),
            "resid_mid": ("attn_out", site.block),
            "resid_post": ("mlp_out", site.block),
        }.get(site.kind, (site.kind, site.block))
        return None if block < 0 or kind not in WRITERS else f"model.layers.{block}.{WRITERS[kind]}"

    def weight(self, module: str) -> Float64[Tensor, "out in"]:
        """Return a layer's weight in float64 on the CPU, dequantised if it is quantised.

        Raises:
            LensSteerError: If the model has no such layer, or if its weight cannot be read.
        """
        found = self._module(module)
        weight = plain_weight(found)
        if weight is None or weight.is_meta:
            raise LensSteerError(
                f"{module!r} is a {type(found).__name__} whose weight cannot be read here: load the unquantised "
                "checkpoint, whole in memory"
            )
        return weight.cpu().double()

    def bias(self, module: str) -> Float64[Tensor, " out"] | None:
        """Return a layer's bias in float64 on the CPU; None if it has none."""
        found = self._module(module).bias
        return None if found is None else found.detach().cpu().double()

    def gain(self, norm: str) -> Float64[Tensor, " d_model"]:
        """Return the factors that an RMSNorm multiplies by (its weight; on Gemma-2 and 3 one more than its weight)."""
        return self._module(norm).weight.detach().cpu().double() + float(self.norms_between)

    def no_bias(self, modules: tuple[str, ...]) -> str | None:
        """Return the first of the layers that cannot hold a constant; None if all can.

        An adapter can hold a bias for any layer. Merged weights can hold one if the layer has a bias, or if the
        family's configuration has a flag for it.
        """
        if self.into == "lora":
            return None
        flags = BIAS_FLAGS[self.architecture]
        return next((m for m in modules if self._module(m).bias is None and part_of(m) not in flags), None)

    def embedding_scale(self) -> float:
        """Return the factor that the embedding's rows are multiplied by (√d_model on Gemma-2 and 3, otherwise 1)."""
        return float(getattr(self._module(EMBEDDING), "embed_scale", torch.ones(())))

    def _module(self, name: str) -> Any:
        try:
            return self.twin.get_submodule(name)
        except AttributeError:
            raise LensSteerError(
                f"the model has no layer {name!r}: its modules are named otherwise than {self.architecture!r} has them"
            ) from None


def part_of(module: str) -> str:
    """Return the part of a block that a layer belongs to.

    >>> part_of("model.layers.3.self_attn.q_proj")
    'self_attn'
    """
    return module.split(".")[-2]
