"""Control vectors as GGUF: import from repeng, llama.cpp and EasySteer, export for llama.cpp.

Layer convention, taken from the sources: the tensor ``direction.N`` is added to the *output of block N*, with blocks
counted from 0. Its site is therefore ``blocks.N.hook_resid_post``.

- llama.cpp (ggml-org/llama.cpp): ``common_control_vector_load_one`` (common/common.cpp) stores ``direction.N`` at
  offset (N − 1)·n_embd. ``llama_adapter_cvec::apply`` (src/llama-adapter.cpp) gives block ``il`` the data at
  (il − 1)·n_embd, for il = 1 … n_layers − 1. The graphs of src/models (qwen2, llama, gemma2-iswa) add it after the last
  residual sum of the block. N = 0 is refused, so the output of the first block cannot be steered. Only one-dimensional
  F32 tensors are read, and no metadata key is read. The default range of layers is 1 to the last.
- llama.cpp's own generator (tools/cvector-generator) names a vector that it *read* at the output of block N − 1
  ``direction.N``, one block before the place where it is added. The site here is where the vector is added. The
  generator writes ``controlvector.layer_count`` as INT32, the other tools as UINT32; this identifies its files
  (``written_like``).
- repeng (vgel/repeng, repeng/extract.py, control.py): layer ℓ is read at ``hidden_states[ℓ + 1]`` and added to the
  output of block ℓ. In Hugging Face models the last of the hidden states is taken after the final norm, so repeng's
  direction of the last block was read there. ``controlvector.model_hint`` is Hugging Face's ``model_type``. Layer 0 is
  not trained by default.
- EasySteer (ZJU-REAL/EasySteer, easysteer/steer/utils.py, easysteer/extraction/result.py): the same, with
  ``controlvector.method``. Newer files also have a JSON text ``controlvector.easysteer``, whose ``component`` must be
  ``hidden_states`` here. Layer ids are those of the decoder layers, 0 included; the vector is added to the output of
  the decoder layer.

The convention was tested on llama.cpp 0.5.0-dev (0c1e570, contained in llama-cpp-python 0.3.36) with the embedded
models. A vector at the output of block 1, 5 or 11 gives the logits of the hooked model, up to 1e-6 of the largest logit
on Qwen2 and Llama (3e-4 on Gemma-2, as without any vector: ggml computes the GELU from a float16 table). One block
away, the logits differ by at least 3 % of the largest. ``tests/test_llama_cpp.py`` repeats this test if
llama-cpp-python is installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lens_steer.errors import LensSteerError
from lens_steer.interop.gguf.files import ARCHITECTURES, OWN, read_gguf, write_gguf
from lens_steer.interop.imports.directions import Detail, DirectionSet, direction_set, directions_of
from lens_steer.models import sites
from lens_steer.models.layout import KNOWN
from lens_steer.steer.plans import SteeringPlan

WHAT = "a control vector is a .gguf file with tensors direction.N"
ARCHITECTURE = "controlvector"
CONVENTION = "direction.N is added to the output of block N, blocks counted from 0"
_NAME = re.compile(r"direction\.(\d+)")


def import_gguf(
    path: str | Path, *, model: str = "", architecture: str | None = None, n_layers: int | None = None
) -> DirectionSet:
    """Read a control vector; direction N gets the site ``blocks.N.hook_resid_post``.

    Args:
        path: The path of the ``.gguf`` file.
        model: The name of the model. If empty, the name in the file is used.
        architecture: The architecture of the model. None stands for the hint in the file, if it is a supported
            architecture.
        n_layers: The number of blocks of the model. None stands for the number in the file, which only files written by
            this project contain (``controlvector.layer_count`` is the number of directions).

    Raises:
        LensSteerError: If the file is missing, corrupt or another kind of GGUF file, if a tensor is quantised, has a
            wrong shape or holds values that are not finite, if a direction belongs to something else than hidden
            states, or if the hint names another architecture than the given one.
    """

    def accept(fields: Mapping[str, Any]) -> None:
        if (kind := fields.get("general.architecture")) != ARCHITECTURE:
            raise LensSteerError(
                f"{str(path)!r} is a GGUF file of architecture {kind!r}, not a control vector ({ARCHITECTURE!r})"
            )

    found = read_gguf(path, WHAT, (ARCHITECTURE, OWN), accept)
    fields, rows = found.fields, found.tensors
    signed = found.kinds.get(f"{ARCHITECTURE}.layer_count") == "INT32"
    unknown = [name for name in rows if _NAME.fullmatch(name) is None]
    if unknown:
        raise LensSteerError(f"{str(path)!r} holds the tensor {unknown[0]!r}: {WHAT}")
    hint, own = str(fields.get(f"{ARCHITECTURE}.model_hint", "")), _own(fields, str(path))
    # repeng writes Hugging Face's model type as the hint, llama.cpp's own generator writes llama.cpp's name.
    theirs = (architecture, ARCHITECTURES.get(architecture or ""))
    if architecture is not None and hint in {*KNOWN, *ARCHITECTURES.values()} and hint not in theirs:
        raise LensSteerError(
            f"{str(path)!r} was made on a model of architecture {hint!r}, not {architecture!r}: import it for its "
            "own model"
        )
    blocks = own.get("n_layers")
    details: dict[str, Detail] = {
        "model_hint": hint,
        "written_like": _written_like(fields, signed),
        "layer_convention": CONVENTION,
        **{name: str(fields[f"{ARCHITECTURE}.{name}"]) for name in ("method",) if f"{ARCHITECTURE}.{name}" in fields},
    }
    return direction_set(
        {sites.Site(int(name.removeprefix("direction.")), "resid_post").name: row for name, row in rows.items()},
        model=model or str(own.get("model", "")),
        architecture=architecture or (hint if hint in KNOWN else None),
        n_layers=n_layers or (blocks if isinstance(blocks, int) else None),
        source_format="gguf",
        details=details,
    )


def export_gguf_cvec(source: DirectionSet | SteeringPlan, file: str | Path) -> dict[str, int]:
    """Write a llama.cpp control vector in float32, completely or not at all.

    Run it with ``--control-vector FILE``, or with ``--control-vector-scaled FILE:SCALE`` (in older releases two words,
    ``FILE SCALE``), which adds ``SCALE · d`` to every token at every block in the file. The input of a block is the
    output of the block before, so ``blocks.ℓ.hook_resid_pre`` becomes ``direction.{ℓ − 1}``.

    Args:
        source: Directions, written unchanged, or an additive plan with one coefficient for every token, of which
            ``α d`` is written.
        file: The file to write.

    Returns:
        The number N of each site.

    Raises:
        LensSteerError: If a control vector cannot reach a site (a norm's output, the stream within a block, the output
            of the first block), if the architecture is unknown, if the plan is not such an addition, or if ``gguf`` is
            not installed.
    """
    directions, numbers = control_vector(source)
    rows = {number: directions.raw(name).float() for name, number in numbers.items()}
    own = {
        "format_version": 1,
        "model": directions.model,
        "n_layers": directions.n_layers,
        "layer_convention": CONVENTION,
    }
    fields = {
        f"{ARCHITECTURE}.model_hint": str(directions.architecture),
        f"{ARCHITECTURE}.layer_count": len(rows),
        OWN: json.dumps(own),
    }
    write_gguf(file, ARCHITECTURE, fields, {f"direction.{number}": rows[number] for number in sorted(rows)})
    return numbers


def control_vector(source: DirectionSet | SteeringPlan) -> tuple[DirectionSet, dict[str, int]]:
    """Return the directions that a control vector of this source holds, and the number N of each site; write nothing.

    Raises:
        LensSteerError: For the reasons of :func:`export_gguf_cvec`.
    """
    directions = directions_of(source) if isinstance(source, SteeringPlan) else source
    numbers = {name: layer_number(name) for name in directions.sites}
    taken = [name for name, number in numbers.items() if list(numbers.values()).count(number) > 1]
    if taken:
        raise LensSteerError(
            f"{' and '.join(taken)} are one tensor, the output of block {numbers[taken[0]]}: keep one of them"
        )
    if directions.architecture is None:
        raise LensSteerError("architecture is unknown: import the directions with it, it is the file's model hint")
    if not bool(torch.isfinite(directions.directions.float()).all()):
        raise LensSteerError("a direction is too large for float32, which is what control vectors hold")
    return directions, numbers


def layer_number(name: str) -> int:
    """Return the number N under which llama.cpp adds a direction at a site.

    Raises:
        LensSteerError: If no N reaches the site.

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


def _own(fields: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the facts that this project or EasySteer wrote as JSON, unless they name another component."""
    found: dict[str, Any] = {}
    for key in (OWN, f"{ARCHITECTURE}.easysteer"):
        try:
            said = json.loads(str(fields.get(key, "{}")))
        except ValueError as error:
            raise LensSteerError(f"{path!r}: its {key} is not valid JSON: {str(error)[:120]}") from None
        found |= said if isinstance(said, dict) else {}
    if found.get("component") not in (None, "hidden_states"):
        raise LensSteerError(
            f"{path!r} holds directions of {found['component']!r}, which is no site here: only hidden_states can "
            "be imported"
        )
    return found


def _written_like(fields: Mapping[str, Any], signed: bool) -> str:
    if OWN in fields:
        return "lens-steer"
    if f"{ARCHITECTURE}.method" in fields:
        return "EasySteer"
    return "llama.cpp's cvector-generator" if signed else "repeng"
