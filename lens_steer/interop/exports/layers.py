"""Which linear layers of a Hugging Face model read and write each steered tensor, and what those layers can take up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.models.quantization import plain_weight
from lens_steer.models.sites import Site

TARGETS = ("lora", "merged")
READERS = {"ln1": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "ln2": ("mlp.gate_proj", "mlp.up_proj")}
WRITERS = {"attn_out": "self_attn.o_proj", "mlp_out": "mlp.down_proj"}
# The configuration flag that gives a part of a block biases, by model type; what is not here has those it has, or none.
BIAS_FLAGS: dict[str, dict[str, str]] = {
    "llama": {"self_attn": "attention_bias", "mlp": "mlp_bias"},
    "qwen3": {"self_attn": "attention_bias"},
    "gemma2": {"self_attn": "attention_bias"},
    "gemma3_text": {"self_attn": "attention_bias"},
    "qwen2": {},
    "mistral": {},
}
NORMS_BETWEEN = ("gemma2", "gemma3_text")  # families with a norm between what attention and MLP write and the stream
EMBEDDING, UNEMBEDDING, FINAL_NORM = "model.embed_tokens", "lm_head", "model.norm"


@dataclass(frozen=True)
class Layers:
    """The layers of one model.

    Attributes:
        twin: plain Hugging Face model.
        architecture: its model type.
        into: ``"lora"`` or ``"merged"``: what they are to be folded into.
    """

    twin: Any
    architecture: str
    into: str

    def __post_init__(self) -> None:
        if self.into not in TARGETS:
            raise LensSteerError(f"into={self.into!r}: use one of {', '.join(TARGETS)}")
        if self.architecture not in BIAS_FLAGS:
            raise LensSteerError(
                f"the layers of architecture {self.architecture!r} are not known: supported are {', '.join(BIAS_FLAGS)}"
            )

    @property
    def norms_between(self) -> bool:
        """Whether a norm stands between what attention and MLP write and the stream."""
        return self.architecture in NORMS_BETWEEN

    def readers(self, site: Site) -> tuple[str, ...]:
        """The layers that read a norm's output, by module path; none where it goes into the stream."""
        return tuple(f"model.layers.{site.block}.{name}" for name in READERS.get(site.kind, ()))

    def writer(self, site: Site) -> str | None:
        """The layer whose bias adds to the tensor: the one that writes a branch, or that wrote the stream last; None
        for block 0's input.
        """
        kind, block = {
            "resid_pre": ("mlp_out", site.block - 1),
            "resid_mid": ("attn_out", site.block),
            "resid_post": ("mlp_out", site.block),
        }.get(site.kind, (site.kind, site.block))
        return None if block < 0 or kind not in WRITERS else f"model.layers.{block}.{WRITERS[kind]}"

    def weight(self, module: str) -> Float64[Tensor, "out in"]:
        """A layer's weight in float64 on the CPU; what it stands for, where it is quantised.

        Raises:
            LensSteerError: the model has no such layer, or one whose weight is not at hand.
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
        """A layer's bias in float64 on the CPU, if it has one."""
        found = self._module(module).bias
        return None if found is None else found.detach().cpu().double()

    def gain(self, norm: str) -> Float64[Tensor, " d_model"]:
        """What an RMSNorm multiplies by (one more than its weight on Gemma-2 and 3)."""
        return self._module(norm).weight.detach().cpu().double() + float(self.norms_between)

    def no_bias(self, modules: tuple[str, ...]) -> str | None:
        """The first of the layers that cannot take up a constant; None where all can.

        An adapter may carry a bias for any layer. Merged weights may where the layer has one, or the family's
        configuration has a flag for it.
        """
        if self.into == "lora":
            return None
        flags = BIAS_FLAGS[self.architecture]
        return next((m for m in modules if self._module(m).bias is None and part_of(m) not in flags), None)

    def embedding_scale(self) -> float:
        """What the embedding's rows are multiplied by (√d_model on Gemma-2 and 3)."""
        return float(getattr(self._module(EMBEDDING), "embed_scale", torch.ones(())))

    def _module(self, name: str) -> Any:
        try:
            return self.twin.get_submodule(name)
        except AttributeError:
            raise LensSteerError(
                f"the model has no layer {name!r}: its modules are named otherwise than {self.architecture!r} has them"
            ) from None


def part_of(module: str) -> str:
    """The part of a block that a layer belongs to.

    >>> part_of("model.layers.3.self_attn.q_proj")
    'self_attn'
    """
    return module.split(".")[-2]
