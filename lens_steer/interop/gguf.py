"""Control vectors as GGUF: read repeng's, llama.cpp's and EasySteer's, write llama.cpp's.

Layer convention, read in the sources: tensor ``direction.N`` is added to the *output of block N*, blocks counted from 0, so its site is ``blocks.N.hook_resid_post``.

- llama.cpp (ggml-org/llama.cpp): ``common_control_vector_load_one`` (common/common.cpp) puts ``direction.N`` at offset (N − 1)·n_embd; ``llama_adapter_cvec::apply`` (src/llama-adapter.cpp)
  gives block ``il`` the data at (il − 1)·n_embd, for il = 1 … n_layers − 1; the graphs of src/models (qwen2, llama, gemma2-iswa) add it after the block's last residual sum.
  N = 0 is refused, so the first block's output cannot be steered. Only one-dimensional F32 tensors are read; no metadata key is looked at. Default range of layers: 1 to the last.
- llama.cpp's own generator (tools/cvector-generator) names what it *read* at the output of block N − 1 ``direction.N``, one block before it is added. It writes
  ``controlvector.layer_count`` as INT32, the others as UINT32, which tells its files here (``written_like``); the site is where the vector is added.
- repeng (vgel/repeng, repeng/extract.py, control.py): layer ℓ is read at ``hidden_states[ℓ + 1]`` and added to the output of block ℓ. In Hugging Face models the last of those
  is taken past the final norm, so repeng's direction of the last block was read there. ``controlvector.model_hint`` is Hugging Face's ``model_type``; layer 0 is not trained by default.
- EasySteer (ZJU-REAL/EasySteer, easysteer/steer/utils.py, easysteer/extraction/result.py): the same, with ``controlvector.method``, and newer files a JSON
  ``controlvector.easysteer`` whose ``component`` must be ``hidden_states`` here. Layer ids are the decoder layers', 0 included; added to the decoder layer's output.

What was run here: writing and reading back with the ``gguf`` package. llama.cpp itself was not run.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lens_steer import sites
from lens_steer.artifacts import whole_file
from lens_steer.errors import LensSteerError
from lens_steer.interop.directions import Detail, DirectionSet, direction_set, directions_of
from lens_steer.interop.source_files import existing, head
from lens_steer.plans import SteeringPlan

WHAT = "a control vector is a .gguf file with tensors direction.N"
ARCHITECTURE = "controlvector"
CONVENTION = "direction.N is added to the output of block N, blocks counted from 0"
OWN = "lens_steer"
_NAME = re.compile(r"direction\.(\d+)")


def gguf_package() -> ModuleType:
    """The ``gguf`` package.

    Raises:
        LensSteerError: it is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise LensSteerError("GGUF files need the gguf package: pip install 'lens-steer[export]'") from None
    return gguf


def import_gguf(
    path: str | Path, *, model: str = "", architecture: str | None = None, n_layers: int | None = None
) -> DirectionSet:
    """Read a control vector; direction N goes to ``blocks.N.hook_resid_post``.

    Args:
        path: of the ``.gguf`` file.
        model: name; what the file says of itself unless given.
        architecture: of the model; the file's hint unless given, where it is a supported family.
        n_layers: of the model; only files written here say it (``controlvector.layer_count`` counts the directions).

    Raises:
        LensSteerError: missing, corrupt, another kind of GGUF file, quantised or misshapen tensors, values that are not finite, a direction of
            something else than hidden states, a hint of another architecture than the one given.
    """
    gguf, source = gguf_package(), existing(Path(path), WHAT)
    if head(source, 4) != b"GGUF":
        raise LensSteerError(f"{str(path)!r} is not a GGUF file: {WHAT}")
    try:
        reader = gguf.GGUFReader(source)
        fields = {
            name: field.contents() for name, field in reader.fields.items() if name.startswith((ARCHITECTURE, OWN, "general."))
        }
        rows = {tensor.name: _values(tensor, gguf, str(path)) for tensor in reader.tensors}
        counted = reader.fields.get(f"{ARCHITECTURE}.layer_count")
        signed = counted is not None and counted.types == [gguf.GGUFValueType.INT32]
    except LensSteerError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OSError, OverflowError, MemoryError, struct.error) as error:
        raise LensSteerError(f"{str(path)!r} is corrupt or truncated ({type(error).__name__}: {str(error)[:120]})") from None
    kind = fields.get("general.architecture")
    if kind != ARCHITECTURE:
        raise LensSteerError(f"{str(path)!r} is a GGUF file of architecture {kind!r}, not a control vector ({ARCHITECTURE!r})")
    unknown = [name for name in rows if _NAME.fullmatch(name) is None]
    if unknown:
        raise LensSteerError(f"{str(path)!r} holds the tensor {unknown[0]!r}: {WHAT}")
    hint, own = str(fields.get(f"{ARCHITECTURE}.model_hint", "")), _own(fields, str(path))
    if architecture is not None and hint in sites.NORM_MODULES and hint != architecture:
        raise LensSteerError(
            f"{str(path)!r} was made on a model of architecture {hint!r}, not {architecture!r}: import it for its own model"
        )
    blocks = own.get("n_layers")
    details: dict[str, Detail] = {
        "model_hint": hint, "written_like": _written_like(fields, signed), "layer_convention": CONVENTION,
        **{name: str(fields[f"{ARCHITECTURE}.{name}"]) for name in ("method",) if f"{ARCHITECTURE}.{name}" in fields},
    }  # fmt: skip
    return direction_set(
        {sites.Site(int(name.removeprefix("direction.")), "resid_post").name: row for name, row in rows.items()},
        model=model or str(own.get("model", "")), architecture=architecture or (hint if hint in sites.NORM_MODULES else None),
        n_layers=n_layers or (blocks if isinstance(blocks, int) else None), source_format="gguf", details=details,
    )  # fmt: skip


def export_gguf_cvec(source: DirectionSet | SteeringPlan, file: str | Path) -> dict[str, int]:
    """Write a llama.cpp control vector, float32, whole or not at all.

    Run it with ``--control-vector FILE``, or ``--control-vector-scaled FILE SCALE`` (the syntax of the pair has changed over the releases), which adds ``SCALE · d``
    to every token at every block named. A block's input is the block before's output, so ``blocks.ℓ.hook_resid_pre`` becomes ``direction.{ℓ − 1}``.

    Args:
        source: directions as they are, or an additive plan with one coefficient for every token (``α d`` is written).
        file: to write.

    Returns:
        the N of each site.

    Raises:
        LensSteerError: sites that no control vector reaches (a norm's output, the stream within a block, the first block's output), an unknown
            architecture, a plan that is no such addition, ``gguf`` not installed.
    """
    gguf = gguf_package()
    directions = directions_of(source) if isinstance(source, SteeringPlan) else source
    numbers = {name: layer_number(name) for name in directions.sites}
    taken = [name for name, number in numbers.items() if list(numbers.values()).count(number) > 1]
    if taken:
        raise LensSteerError(f"{' and '.join(taken)} are one tensor, the output of block {numbers[taken[0]]}: keep one of them")
    if directions.architecture is None:
        raise LensSteerError("architecture is unknown: import the directions with it, it is the file's model hint")
    rows = {numbers[name]: directions.raw(name).float() for name in directions.sites}
    if not all(bool(torch.isfinite(row).all()) for row in rows.values()):
        raise LensSteerError("a direction is too large for float32, which is what control vectors hold")
    own = {"format_version": 1, "model": directions.model, "n_layers": directions.n_layers, "layer_convention": CONVENTION}
    with whole_file(file) as work:
        writer = gguf.GGUFWriter(work, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", directions.architecture)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(rows))
        writer.add_string(OWN, json.dumps(own))
        for number in sorted(rows):
            writer.add_tensor(f"direction.{number}", rows[number].numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return numbers


def layer_number(name: str) -> int:
    """The N under which llama.cpp adds a direction at a site.

    Raises:
        LensSteerError: a site that no N reaches.

    >>> layer_number("blocks.4.hook_resid_post"), layer_number("blocks.5.hook_resid_pre")
    (4, 4)
    """
    site = sites.parse(name)
    if site.kind not in ("resid_post", "resid_pre"):
        raise LensSteerError(
            f"{name!r} cannot be a control vector: llama.cpp adds those to the output of a block only (resid_post)"
        )
    number = site.block - (site.kind == "resid_pre")
    if number < 1:
        what = "the output of block 0" if number == 0 else "the embedding"
        raise LensSteerError(
            f"{name!r} is {what}, which llama.cpp's control vectors cannot reach (direction.0 is refused): leave it out"
        )
    return number


def _values(tensor: Any, gguf: ModuleType, path: str) -> torch.Tensor:
    kinds = gguf.GGMLQuantizationType
    if tensor.tensor_type not in (kinds.F32, kinds.F16, kinds.F64):
        raise LensSteerError(
            f"{path!r}: {tensor.name!r} is stored as {tensor.tensor_type.name}, and a direction must be F32, F16 or F64"
        )
    return torch.from_numpy(tensor.data.astype(tensor.data.dtype.newbyteorder("="), copy=True))


def _own(fields: dict[str, Any], path: str) -> dict[str, Any]:
    """What this project or EasySteer wrote as JSON; a direction of another component than the hidden states is refused."""
    found: dict[str, Any] = {}
    for key in (OWN, f"{ARCHITECTURE}.easysteer"):
        try:
            said = json.loads(str(fields.get(key, "{}")))
        except ValueError as error:
            raise LensSteerError(f"{path!r}: its {key} is not valid JSON: {str(error)[:120]}") from None
        found |= said if isinstance(said, dict) else {}
    if found.get("component") not in (None, "hidden_states"):
        raise LensSteerError(
            f"{path!r} holds directions of {found['component']!r}, which is no site here: only hidden_states can be imported"
        )
    return found


def _written_like(fields: dict[str, Any], signed: bool) -> str:
    if OWN in fields:
        return "lens-steer"
    if f"{ARCHITECTURE}.method" in fields:
        return "EasySteer"
    return "llama.cpp's cvector-generator" if signed else "repeng"
