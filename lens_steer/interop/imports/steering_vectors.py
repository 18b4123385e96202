"""Import of SteeringVectors of the steering-vectors library as directions.

Facts, taken from the sources of steering-vectors/steering-vectors (``steering_vectors/steering_vector.py``,
``layer_matching.py``, ``record_activations.py``, ``train_steering_vector.py``):

- A ``SteeringVector`` is a dataclass of ``layer_activations`` (layer number → vector [d_model], not normalised, in the
  model's dtype) and ``layer_type``. The type is ``decoder_block`` by default, or ``self_attn``, ``mlp``,
  ``input_layernorm`` or ``post_attention_layernorm``.
- Layer ℓ is module number ℓ of its type, from 0. It is read at the *output* of this module and added to the same
  output, ``h + multiplier · v``.
- The library has no file format of its own: no method that saves was found in it (a pull request, no. 40, proposed
  ``torch.save`` of a dict with the two fields).

Four forms are therefore read: a whole object as ``torch.save`` writes it, whose two fields go into an empty stand-in
class; the dict of the pull request; a bare dict of layer numbers; and safetensors with one tensor per layer, named by
its number (``12``, ``layer_12``, ``layer_activations.12``), with ``layer_type`` in the metadata if it is not a decoder
block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from lens_steer.errors import LensSteerError
from lens_steer.interop.imports.directions import DirectionSet, direction_set
from lens_steer.interop.imports.source_files import decoding, existing, read_torch
from lens_steer.models import sites
from lens_steer.models.layout import known_layout

WHAT = "a SteeringVector saved with torch.save (.pt) or as .safetensors"
BRANCH_TYPES = {"self_attn": "attn_out", "mlp": "mlp_out"}
NORM_TYPES = ("input_layernorm", "post_attention_layernorm")
LAYER_TYPES = ("decoder_block", *BRANCH_TYPES, *NORM_TYPES)
_NUMBERED = re.compile(r"(?:layer_activations\.|layers?[._])?(-?\d+)")
# An empty class with the name of the library's. With weights_only=True, PyTorch stores the two fields in its instance
# and calls no code of the library.
_StandIn = type("SteeringVector", (), {"__module__": "steering_vectors.steering_vector"})


def import_steering_vectors(
    path: str | Path,
    *,
    layer_type: str | None = None,
    model: str = "",
    architecture: str | None = None,
    n_layers: int | None = None,
) -> DirectionSet:
    """Read a steering vector from one file.

    Args:
        path: A ``.safetensors`` file, or a file that ``torch.save`` wrote.
        layer_type: The type of the layers' modules. None stands for the type in the file, or ``decoder_block`` if it
            has none.
        model, architecture, n_layers: The name, the architecture and the number of blocks of the model, which no file
            contains. Layer types other than ``decoder_block`` need the architecture.

    Raises:
        LensSteerError: If the file is missing, corrupt, holds code or has another layout, if the layer type is unknown,
            or if a tensor is not a finite vector.
    """
    source = existing(Path(path), WHAT)
    found, said = _from_safetensors(source) if source.suffix == ".safetensors" else _from_torch(source)
    kind = layer_type or said or "decoder_block"
    if kind not in LAYER_TYPES:
        raise LensSteerError(f"layer_type={kind!r}: use one of {', '.join(LAYER_TYPES)}")
    rows: dict[str, Any] = {}
    for key, value in found.items():
        site = _site(_number(key, n_layers, str(path)), kind, architecture)
        if site in rows:
            raise LensSteerError(f"{str(path)!r} has two vectors for {site}")
        rows[site] = value
    return direction_set(
        rows,
        model=model,
        architecture=architecture,
        n_layers=n_layers,
        source_format="steering-vectors",
        details={"layer_type": kind, "read_at": f"output of the {kind}"},
    )


def _from_torch(path: Path) -> tuple[Mapping[Any, Any], str | None]:
    loaded, said = read_torch(path, WHAT, [_StandIn]), None
    fields = vars(loaded) if isinstance(loaded, _StandIn) else loaded
    if isinstance(fields, dict) and "layer_activations" in fields:
        fields, said = fields["layer_activations"], fields.get("layer_type")
    if not isinstance(fields, dict) or not fields or not (said is None or isinstance(said, str)):
        raise LensSteerError(f"{str(path)!r} holds a {type(loaded).__name__} without vectors by layer: {WHAT}")
    return fields, said


def _from_safetensors(path: Path) -> tuple[Mapping[Any, Any], str | None]:
    with decoding(path), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get("layer_type")  # noqa: SIM118


def _number(key: Any, n_layers: int | None, path: str) -> int:
    match = _NUMBERED.fullmatch(str(key))
    if match is None:
        raise LensSteerError(f"{path!r}: {key!r} is no layer number (12, layer_12 or layer_activations.12): {WHAT}")
    number = int(match[1])
    if number < 0 and n_layers is None:
        raise LensSteerError(f"{path!r}: layer {number} counts from the end, so give n_layers=… of the model")
    number += n_layers or 0 if number < 0 else 0
    if number < 0:
        raise LensSteerError(f"{path!r}: layer {match[1]} does not exist in a model of n_layers={n_layers}")
    return number


def _site(block: int, kind: str, architecture: str | None) -> str:
    if kind == "decoder_block":
        return sites.Site(block, "resid_post").name
    if architecture is None:
        raise LensSteerError(f"layer_type={kind!r} needs the model's architecture: give architecture=…")
    layout = known_layout(architecture, block + 1)
    if kind in NORM_TYPES:
        return sites.parse_module(f"model.layers.{block}.{kind}", layout).name
    site = sites.Site(block, BRANCH_TYPES[kind])
    if site.module(layout).rsplit(".", 1)[1] != kind:
        raise LensSteerError(
            f"layer_type={kind!r} is the output of {kind}, which {architecture} passes through another norm "
            "before adding it; this project has no site between the two"
        )
    return site.name
