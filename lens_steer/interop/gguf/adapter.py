"""LoRA adapters as GGUF, which llama.cpp loads without a converter.

The file holds the same factors as the adapter for PEFT, under llama.cpp's names. The format is taken from llama.cpp's
sources (``convert_lora_to_gguf.py``, ``src/llama-adapter.cpp``, ``conversion/llama.py``):

- ``general.type`` is ``adapter``, ``adapter.type`` is ``lora``, and ``general.architecture`` is that of the base model.
  Each layer has two tensors, named after those of the base model: ``blk.N.attn_q.weight.lora_a`` [rank, in] and
  ``blk.N.attn_q.weight.lora_b`` [out, rank].
- ``s · adapter.lora.alpha / rank · B (A x)`` is added to a layer's output, where ``s`` is the scale of the command line
  or of the request. Here alpha equals the rank.
- If the base model has the architecture ``llama``, its conversion reorders the rows of queries and keys (the rotary
  coordinates ``j`` and ``j + d/2`` of a head become neighbours). The rows of their B are reordered in the same way.
  Other architectures keep Hugging Face's order.
- There is no tensor for a bias, and none for the unembedding of a model that ties it to the embedding.

Tested on llama.cpp 0.5.0-dev (0c1e570): for all :data:`~lens_steer.interop.gguf.files.ARCHITECTURES`, every tensor
equals that of llama.cpp's own converter for the same adapter. With the file, the embedded Qwen2 and Llama have the
logits of the hooked model up to 1e-6 of the largest logit (Gemma-2: 4e-4, because its GELU is a float16 table there),
at scale 1 and as a scaled pair. Without the reordering of rows, the logits of Llama are wrong by a quarter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors.torch import load_file
from torch import Tensor

from lens_steer._io.atomic import whole_file
from lens_steer.errors import LensSteerError
from lens_steer.interop.exports.adapters import ADAPTER, CONFIG
from lens_steer.interop.exports.certificate import FILE
from lens_steer.interop.exports.folding import Folded
from lens_steer.interop.exports.layers import UNEMBEDDING
from lens_steer.interop.gguf.files import ARCHITECTURES, OWN, gguf_package, read_gguf, write_gguf

NAME = "adapter.gguf"
WHAT = "a LoRA adapter is a .gguf file with tensors ….lora_a and ….lora_b"
REORDERED = ("llama",)  # architectures whose queries and keys have another order of rows in GGUF
ALWAYS_TIED = ("gemma2",)  # architectures whose unembedding is the embedding in llama.cpp, even if the folder unties it
_PREFIX, _SIDES = "base_model.model.", (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True)
class GgufBase:
    """Facts of a base model that decide the names and the order of its tensors in GGUF.

    Attributes:
        architecture: The name of the architecture in llama.cpp.
        n_layers, n_heads, n_key_value_heads: The numbers of blocks, attention heads and key–value heads of the model.
        tied: True if llama.cpp takes the unembedding of the model from its embedding.
    """

    architecture: str
    n_layers: int
    n_heads: int
    n_key_value_heads: int
    tied: bool


def gguf_base(config: Any) -> GgufBase:
    """Return the facts of a base model from its Hugging Face configuration.

    Raises:
        LensSteerError: If the order of the architecture's tensors is not known here.

    >>> from transformers import LlamaConfig
    >>> gguf_base(LlamaConfig(num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=2))
    GgufBase(architecture='llama', n_layers=2, n_heads=8, n_key_value_heads=2, tied=False)
    """
    if config.model_type not in ARCHITECTURES:
        raise LensSteerError(
            f"model type {config.model_type!r} has no GGUF adapter here (there are {', '.join(ARCHITECTURES)}): "
            "export PEFT's and convert it with llama.cpp's convert_lora_to_gguf.py"
        )
    name = ARCHITECTURES[config.model_type]
    return GgufBase(
        name,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        bool(config.tie_word_embeddings) or name in ALWAYS_TIED,
    )


def tensor_name(module: str, base: GgufBase) -> str:
    """Return the name of a layer's weight in GGUF.

    Raises:
        LensSteerError: If the layer has no such name: if it is the unembedding of a model that ties it, or an unknown
            layer.

    >>> tensor_name("model.layers.3.self_attn.q_proj", GgufBase("llama", 4, 4, 2, True))
    'blk.3.attn_q.weight'
    """
    if module == UNEMBEDDING and base.tied:
        raise LensSteerError(
            f"llama.cpp takes the unembedding of this {base.architecture!r} model from its embedding, and no "
            f"adapter reaches {UNEMBEDDING} alone: export it merged"
        )
    gguf = gguf_package()
    kind = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[base.architecture]
    found = gguf.get_tensor_name_map(kind, base.n_layers).get_name(f"{module}.weight", try_suffixes=(".weight",))
    if found is None:
        raise LensSteerError(
            f"{module!r} has no name in GGUF for architecture {base.architecture!r}: it is no layer of that family"
        )
    return found


def row_order(module: str, n_rows: int, base: GgufBase) -> Int[Tensor, " out"]:
    """Return for each row of a layer in GGUF the index of this row in Hugging Face's order.

    >>> row_order("model.layers.0.self_attn.k_proj", 8, GgufBase("llama", 1, 4, 2, False)).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    heads = {"q_proj": base.n_heads, "k_proj": base.n_key_value_heads}.get(module.rsplit(".", 1)[-1])
    rows = torch.arange(n_rows)
    reordered = heads is not None and base.architecture in REORDERED
    return rows.view(heads, 2, -1).transpose(1, 2).flatten() if reordered else rows


def check_gguf(folded: Folded, base: GgufBase) -> None:
    """Refuse changes that an adapter of llama.cpp cannot hold, before anything is written.

    Raises:
        LensSteerError: If a layer gets a constant, or if it has no tensor of its own.
    """
    for module, factor in folded.factors.items():
        tensor_name(module, base)
        if factor.bias is not None:
            raise LensSteerError(_biased(module))


def write_gguf_adapter(adapter: str | Path, file: str | Path, base: GgufBase) -> None:
    """Write an exported adapter as GGUF in float32, completely or not at all.

    Args:
        adapter: A folder that :func:`lens_steer.interop.exports.lora.export_lora` wrote.
        file: The file to write.
        base: Facts of the model that the adapter is for.

    Raises:
        LensSteerError: If there is no such adapter, if it has constants or is of another kind, if a layer has no tensor
            in GGUF, or if ``gguf`` is not installed.
    """
    factors, config = read_peft(adapter)
    tensors: dict[str, Tensor] = {}
    for module, (a, b) in factors.items():
        name = tensor_name(module, base)
        tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"] = a, b[row_order(module, len(b), base)]
    fields: dict[str, str | int | float] = {
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(config["lora_alpha"]),
        OWN: json.dumps({"format_version": 1, "base_model": config["base_model_name_or_path"]}),
    }
    write_gguf(file, base.architecture, fields, tensors)


def read_gguf_adapter(file: str | Path, base: GgufBase, modules: Iterable[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the factors of a GGUF adapter under Hugging Face's names and with its order of rows.

    Factor B includes the scale ``alpha / rank``.

    Args:
        file: The file of the adapter.
        base: Facts of the model that the adapter is for.
        modules: The paths of the layers that the adapter may change.

    Raises:
        LensSteerError: If the file is missing, corrupt or no adapter, if it is for another architecture, or if it
            changes another layer.
    """

    def accept(fields: Mapping[str, Any]) -> None:
        kind = [fields.get(name) for name in ("general.type", "adapter.type")]
        if kind != ["adapter", "lora"] or fields.get("general.architecture") != base.architecture:
            raise LensSteerError(
                f"{str(file)!r} is {fields.get('general.architecture')!r} of type {kind[0]!r}, not an adapter for "
                f"{base.architecture!r}: {WHAT}"
            )

    found = read_gguf(file, WHAT, ("adapter.",), accept)
    tensors, alpha = dict(found.tensors), float(found.fields.get("adapter.lora.alpha", 0.0))
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for module in modules:
        name = tensor_name(module, base)
        a, b = (tensors.pop(f"{name}.{side}", None) for side in ("lora_a", "lora_b"))
        if a is not None and b is not None:
            back = row_order(module, len(b), base).argsort()
            factors[module] = a, b[back] * (alpha / len(a) if alpha else 1.0)
    if tensors:
        other = next(iter(tensors))
        raise LensSteerError(f"{str(file)!r} holds {other!r}, which belongs to none of the layers: {WHAT}")
    return factors


def add_gguf(export: str | Path, base: GgufBase) -> list[Path]:
    """Write ``adapter.gguf`` beside every adapter of an export, and read it back.

    The values must be exactly those of the adapter, so that its certificate also applies to the GGUF file. The
    certificate then says so.

    Returns:
        The paths of the files.

    Raises:
        LensSteerError: For the reasons of :func:`write_gguf_adapter`. Also if the folder holds no adapter, or if a file
            that is read back has other values.
    """
    folders = sorted(path.parent for path in Path(export).rglob(CONFIG))
    if not folders:
        raise LensSteerError(f"{str(export)!r} holds no adapter: write one with 'lens-steer export lora'")
    for folder in folders:
        write_gguf_adapter(folder, folder / NAME, base)
        factors, config = read_peft(folder)
        back = read_gguf_adapter(folder / NAME, base, factors)
        scale = config["lora_alpha"] / config["r"]
        if not all(torch.equal(a, back[m][0]) and torch.equal(b * scale, back[m][1]) for m, (a, b) in factors.items()):
            raise LensSteerError(
                f"{str(folder / NAME)!r} does not come back as it was written: the gguf package stores it otherwise"
            )
    for certificate in Path(export).rglob(FILE):
        facts = json.loads(certificate.read_text(encoding="utf-8"))
        facts["gguf"] = {"architecture": base.architecture, "equal_to_adapter_after_reading": True}
        with whole_file(certificate) as work:
            work.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [folder / NAME for folder in folders]


def read_peft(adapter: str | Path) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Any]]:
    """Return the factors A and B of an exported adapter by module path, and its configuration.

    Raises:
        LensSteerError: If there is no such adapter, if it has constants, or if it has other tensors than this project
            writes.
    """
    folder = Path(adapter)
    if not (folder / ADAPTER).is_file() or not (folder / CONFIG).is_file():
        raise LensSteerError(
            f"{str(adapter)!r} holds no adapter ({ADAPTER}, {CONFIG}): write one with 'lens-steer export lora'"
        )
    tensors, config = load_file(folder / ADAPTER), json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    biases = {name: tensors.pop(name) for name in list(tensors) if name.endswith(".lora_B.bias")}
    constant = next((name for name, bias in biases.items() if bias.any()), None)
    if constant is not None:
        raise LensSteerError(_biased(constant.removeprefix(_PREFIX).removesuffix(".lora_B.bias")))
    modules = sorted(
        {name.removeprefix(_PREFIX).removesuffix(side) for name in tensors for side in _SIDES if name.endswith(side)}
    )
    wanted = {f"{_PREFIX}{module}{side}" for module in modules for side in _SIDES}
    special = [name for name in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern") if config.get(name)]
    if wanted != set(tensors) or special:
        raise LensSteerError(
            f"{str(adapter)!r} is no plain adapter ({', '.join(sorted(special or wanted ^ set(tensors))[:2])}): "
            "convert it with llama.cpp's convert_lora_to_gguf.py"
        )
    return {m: (tensors[f"{_PREFIX}{m}{_SIDES[0]}"], tensors[f"{_PREFIX}{m}{_SIDES[1]}"]) for m in modules}, config


def _biased(module: str) -> str:
    return (
        f"the plan adds a constant to {module}, and llama.cpp's adapters hold A and B only: export it merged, "
        "or what is added to the output of a block with 'lens-steer export gguf-cvec'"
    )
