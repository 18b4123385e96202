"""The options of every command that loads a model."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer

from lens_steer.cli.groups import Group
from lens_steer.cli.options import Device
from lens_steer.errors import LensSteerError


@dataclass(frozen=True)
class Load(Group):
    """Loads a model as the options say."""

    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float16 or auto.")] = "float32"
    device: Device = None
    device_map: Annotated[
        str | None,
        typer.Option(
            "--device-map", help="In place of --device: auto, or a JSON object of modules and devices (a TransformerBridge)."
        ),
    ] = None
    n_devices: Annotated[
        int, typer.Option("--n-devices", help="Accelerators that a HookedTransformer's blocks are split over.")
    ] = 1
    quantization: Annotated[
        str | None,
        typer.Option("--quantization", help="nf4 or fp4: 4-bit weights (a TransformerBridge; needs lens-steer[lowbit])."),
    ] = None
    chat_template: Annotated[
        str | None, typer.Option("--chat-template", help="For a model that has none: plain, a Jinja template, or a file.")
    ] = None
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", help="Folder of a PEFT adapter (LoRA) to merge into the weights (needs lens-steer[export])."),
    ] = None
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a model of the hub.")] = None

    def __call__(self, model: str) -> Any:
        """The model of a name or folder; what was loaded is told on the error stream."""
        import lens_steer as ls

        options = {field.name: getattr(self, field.name) for field in fields(self)}
        loaded = ls.load_model(model, **options | {"device_map": parts_of(self.device_map)})
        typer.echo(f"loaded {loaded.lens_info}", err=True)
        return loaded


def parts_of(device_map: str | None) -> Any:
    """The value of ``--device-map``: a word as it is, a JSON object as a mapping."""
    if device_map is None or not device_map.lstrip().startswith("{"):
        return device_map
    try:
        return json.loads(device_map)
    except ValueError as error:
        raise LensSteerError(
            f'--device-map {device_map!r} is no JSON object ({error}): give auto, or such as {{"": 0}}'
        ) from None
