"""Reading and writing of GGUF files with the ``gguf`` package; errors of the package become a ``LensSteerError``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from lens_steer._io.atomic import whole_file
from lens_steer.errors import LensSteerError, installed
from lens_steer.interop.imports.source_files import decoding, existing, head

OWN = "lens_steer"  # the metadata key of facts that only this project writes
# The name of an architecture in llama.cpp, by Hugging Face's model type.
ARCHITECTURES = {
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}


@dataclass(frozen=True, eq=False)
class GgufFile:
    """The content of a GGUF file.

    Attributes:
        fields: The metadata by key, for the requested prefixes.
        kinds: The GGUF type of each field, such as ``UINT32``.
        tensors: The tensors by name, with their axes in PyTorch's order (GGUF lists the axes in reverse order).
    """

    fields: Mapping[str, Any]
    kinds: Mapping[str, str]
    tensors: Mapping[str, Tensor]


def gguf_package() -> ModuleType:
    """Return the ``gguf`` package.

    Raises:
        LensSteerError: If the package is not installed.
    """
    return installed("gguf", "GGUF files need the gguf package: pip install 'lens-steer[export]'")


def read_gguf(
    path: str | Path,
    what: str,
    prefixes: tuple[str, ...],
    accept: Callable[[Mapping[str, Any]], None] = lambda fields: None,
) -> GgufFile:
    """Read a whole GGUF file into memory; its tensors must be floating-point and unquantised.

    Args:
        path: The path of the file.
        what: A description of the expected kind of file, for messages.
        prefixes: The prefixes of the metadata keys to read; ``general.`` is always read.
        accept: A function that gets the metadata before any tensor is read, and raises an error if this is not the
            expected file.

    Raises:
        LensSteerError: If the file is missing or corrupt, if it is another kind of file, or if a tensor is quantised.
    """
    gguf, source = gguf_package(), existing(Path(path), what)
    if head(source, 4) != b"GGUF":
        raise LensSteerError(f"{str(path)!r} is not a GGUF file: {what}")
    with decoding(path):
        reader = gguf.GGUFReader(source)
        wanted = {name: field for name, field in reader.fields.items() if name.startswith(("general.", *prefixes))}
        fields = {name: field.contents() for name, field in wanted.items()}
        accept(fields)
        return GgufFile(
            fields,
            {name: field.types[0].name for name, field in wanted.items() if field.types},
            {tensor.name: _values(tensor, gguf, str(path)) for tensor in reader.tensors},
        )


def write_gguf(
    path: str | Path, architecture: str, fields: Mapping[str, str | int | float], tensors: Mapping[str, Tensor]
) -> None:
    """Write a GGUF file with float32 tensors, completely or not at all.

    Integer fields become ``UINT32``, other numbers ``FLOAT32``.

    Raises:
        LensSteerError: If ``gguf`` is not installed, or if the path cannot be written.
    """
    gguf = gguf_package()
    with whole_file(path) as work:
        writer = gguf.GGUFWriter(work, architecture)
        for name, value in fields.items():
            add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)]
            add(name, value)
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor.detach().cpu().float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _values(tensor: Any, gguf: ModuleType, path: str) -> Tensor:
    kinds = gguf.GGMLQuantizationType
    if tensor.tensor_type not in (kinds.F32, kinds.F16, kinds.F64):
        raise LensSteerError(
            f"{path!r}: {tensor.name!r} is stored as {tensor.tensor_type.name}, and must be F32, F16 or F64"
        )
    return torch.from_numpy(tensor.data.astype(tensor.data.dtype.newbyteorder("="), copy=True))
