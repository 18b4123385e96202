"""The options of commands that load a model or its tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import typer

from lens_steer.cli.groups import Group
from lens_steer.cli.options import Device
from lens_steer.errors import LensSteerError
from lens_steer.models.templates import DATE


@dataclass(frozen=True)
class Template(Group):
    """The chat template of a model and its arguments: beside the tokenizer, all that the token ids depend on."""

    chat_template: Annotated[
        str | None,
        typer.Option(help="For a model that has none, or in place of its own: plain, a Jinja template, or a file."),
    ] = None
    template_args: Annotated[
        str | None,
        typer.Option(help='JSON object that the chat template is given, such as {"enable_thinking": false}.'),
    ] = None
    template_date: Annotated[
        str | None, typer.Option(help=f"YYYY-MM-DD, for a chat template that writes the date (default {DATE}).")
    ] = None

    def tokenizer(self, model: str) -> Any:
        """Read the tokenizer of a model name or folder, with the chat template that the options ask for.

        No weights are read.
        """
        from lens_steer.models.location import locate
        from lens_steer.models.tokenization import read_tokenizer

        return read_tokenizer(locate(model), self.chat_template, args_of(self.template_args), self.template_date)


@dataclass(frozen=True)
class Load(Template):
    """The options with which a model is loaded; calling the group loads it."""

    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or auto.")] = "float32"
    device: Device = None
    device_map: Annotated[
        str | None,
        typer.Option(
            help="In place of --device: auto, or a JSON object of modules and devices (no HookedTransformer)."
        ),
    ] = None
    n_devices: Annotated[int, typer.Option(help="Accelerators that a HookedTransformer's blocks are split over.")] = 1
    quantization: Annotated[
        str | None,
        typer.Option(help="nf4 or fp4: 4-bit weights (no HookedTransformer; needs lens-steer[lowbit])."),
    ] = None
    adapter: Annotated[
        str | None,
        typer.Option(help="Folder of a PEFT adapter (LoRA) to merge into the weights (needs lens-steer[export])."),
    ] = None
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a model of the hub.")] = None

    @cached_property
    def _read(self) -> dict[str, tuple[Any, Any]]:
        """The description and the configuration of each model that was checked and is not loaded yet."""
        return {}

    def _described(self, model: str) -> tuple[Any, Any]:
        from lens_steer.models.info import read_info

        return read_info(
            model,
            chat_template=self.chat_template,
            template_args=args_of(self.template_args),
            template_date=self.template_date,
            adapter=self.adapter,
            revision=self.revision,
        )

    def check(self, model: str, *asked: Any, **more: Any) -> Any:
        """Refuse what does not fit the model before its weights are read, and return the model's description.

        See :func:`lens_steer.cli.precheck.precheck` for the arguments.
        """
        from lens_steer.cli.precheck import Unloaded, precheck

        self._read[model] = self._described(model)
        told = Unloaded(self._read[model][0])
        precheck(told, asked, **more)
        return told

    def __call__(self, model: str) -> Any:
        """Load the model of a name or folder, and say on the error stream what was loaded.

        What :meth:`check` read of the model is not read again.
        """
        from lens_steer.models.loading import load_described

        loaded = load_described(
            *(self._read.pop(model, None) or self._described(model)),
            dtype=self.dtype,
            device=self.device,
            n_devices=self.n_devices,
            device_map=parts_of(self.device_map),
            quantization=self.quantization,
        )
        typer.echo(f"loaded {loaded.lens_info}", err=True)
        return loaded


def args_of(template_args: str | None) -> dict[str, Any] | None:
    """Parse the value of ``--template-args``.

    Raises:
        LensSteerError: If the value is not a JSON object.

    >>> args_of('{"enable_thinking": false}')
    {'enable_thinking': False}
    """
    if template_args is None:
        return None
    mend = 'give such as {"enable_thinking": false}'
    found = _json("--template-args", template_args, mend)
    if not isinstance(found, dict):
        raise LensSteerError(f"--template-args {template_args!r} is no JSON object: {mend}")
    return found


def parts_of(device_map: str | None) -> Any:
    """Parse the value of ``--device-map``: a JSON object becomes a mapping, any other word stays as it is.

    Raises:
        LensSteerError: If the value begins like a JSON object and is not one.
    """
    if device_map is None or not device_map.lstrip().startswith("{"):
        return device_map
    return _json("--device-map", device_map, 'give auto, or such as {"": 0}')


def _json(option: str, text: str, mend: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise LensSteerError(f"{option} {text!r} is no JSON object ({error}): {mend}") from None
