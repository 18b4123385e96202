"""The commands that import calibrations, directions and hidden states of other projects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_steer.cli.common import emit
from lens_steer.cli.groups import Group, grouped
from lens_steer.cli.loading import Template, args_of
from lens_steer.cli.options import Model, Out
from lens_steer.cli.prompting import Prompts
from lens_steer.errors import LensSteerError


@dataclass(frozen=True)
class MadeOn(Group):
    """The options that name the model on which the imported file was made."""

    model: Annotated[
        str | None,
        typer.Option(
            help=(
                "The model it was made on: a folder or a hub name whose configuration is read, and checked against "
                "the file."
            )
        ),
    ] = None
    architecture: Annotated[
        str | None,
        typer.Option(
            help=(
                "qwen2, qwen3, llama, mistral, gemma2 or gemma3_text, where no --model is given or its configuration "
                "is out of reach."
            )
        ),
    ] = None
    n_layers: Annotated[int | None, typer.Option(help="Blocks of the model, likewise.")] = None

    def facts(self) -> dict[str, Any]:
        """Return the model's name, its architecture and its number of blocks.

        They come from the model's configuration. Where no model is named, or both other options are given, the options
        are taken as they are and no configuration is read.

        Raises:
            LensSteerError: If ``--n-layers`` is below 1, or if an option contradicts the configuration.
        """
        from lens_steer.interop.imports.model_facts import model_facts

        if self.n_layers is not None and self.n_layers < 1:
            raise LensSteerError(f"--n-layers {self.n_layers}: a model has at least one block")
        if self.model is None or (self.architecture is not None and self.n_layers is not None):
            return {"model": self.model or "", "architecture": self.architecture, "n_layers": self.n_layers}
        found = model_facts(self.model)
        for name, given in self.given("architecture", "n_layers").items():
            if given != (read := getattr(found, name)):
                option = f"--{name.replace('_', '-')}"
                raise LensSteerError(f"{option} {given}: the configuration of {self.model!r} says {read}")
        return {"model": self.model, "architecture": found.architecture, "n_layers": found.n_layers}

    def check_width(self, d_model: int) -> None:
        """Refuse directions whose ``d_model`` differs from the model's."""
        from lens_steer.interop.imports.model_facts import model_facts

        try:
            found = model_facts(self.model) if self.model is not None else None
        except LensSteerError:
            return  # the configuration is out of reach and the options stand in for it; steering compares the widths
        if found is not None and found.d_model != d_model:
            raise LensSteerError(
                f"the directions have d_model {d_model} and the model {self.model!r} has {found.d_model}: name "
                "the model that they were made on"
            )


@dataclass(frozen=True)
class AsPlan(Group):
    """The options of a plan that is made from the imported directions, if one is asked for."""

    coefficient: Annotated[
        str | None, typer.Option(help="Also write OUT/plan for 'steer --plan': this many times the direction, added.")
    ] = None
    ablate: Annotated[
        bool,
        typer.Option(
            "--ablate", help="Write OUT/plan to remove the direction from the whole stream instead of adding it."
        ),
    ] = False
    site: Annotated[
        str | None,
        typer.Option(
            help="In the plan: the one row whose direction is used (else the chosen one, or each site's own)."
        ),
    ] = None
    at: Annotated[
        str | None, typer.Option(help="In the plan: the sites to steer (else those the directions belong to).")
    ] = None
    positions: Annotated[str, typer.Option(help="In the plan: the tokens to steer, as in steer --positions.")] = "all"

    def of(self, found: Any, out: Path) -> Any:
        """Return the plan that the options ask for, or None if they ask for none.

        Args:
            found: The imported directions.
            out: The output folder; it must hold no plan already where none is asked for.

        Raises:
            LensSteerError: If options contradict each other, or if ``out`` holds a plan that would not belong to these
                directions.
        """
        from lens_steer.steer.plans import parse_numbers

        planned = self.coefficient is not None or self.ablate
        if self.coefficient is not None and self.ablate:
            raise LensSteerError("--coefficient adds the direction and --ablate removes it: give one of the two")
        if not planned and (given := [f"--{name}" for name in self.given("site", "at")]):
            raise LensSteerError(f"{given[0]} belongs to a plan: give --coefficient or --ablate too")
        if not planned and (out / "plan").exists():
            raise LensSteerError(
                f"{str(out)!r} holds a plan already, which would not belong to these directions: name another --out"
            )
        if self.ablate:
            return found.ablation_plan(site=self.site, at=self.at, everywhere=self.at is None, positions=self.positions)
        if self.coefficient is None:
            return None
        strength = parse_numbers("coefficient", self.coefficient)
        return found.additive_plan(strength, site=self.site, at=self.at, positions=self.positions)


def official(
    folder: Annotated[Path, typer.Argument(help="Folder with directions.pt, plane.pt and metadata.json.")], out: Out
) -> None:
    """A published Selective Steering calibration; archives are read as plain tensors only."""
    from lens_steer.geometry.files import save_calibration
    from lens_steer.interop.imports.official import import_official

    made = import_official(folder)
    save_calibration(made, out)
    emit(
        {
            "calibration": str(out),
            "model": made.model,
            "selected_site": made.selected_site,
            "discriminative_blocks": list(made.discriminative_blocks),
            "published_gram_error": made.details["published_gram_error"],
        }
    )


@grouped
def angular(
    made_on: MadeOn,
    file: Annotated[Path, typer.Argument(help="A steering_config-*.npy.")],
    out: Out,
    selected_site: Annotated[
        str | None, typer.Option(help="The norm that the first direction was read before (else from the file's name).")
    ] = None,
) -> None:
    """An Angular Steering plane config as a calibration for standard and adaptive; the pickle in it is read as data,
    never run.
    """
    from lens_steer.geometry.files import save_calibration
    from lens_steer.interop.imports.angular import import_angular

    made = import_angular(file, **made_on.facts(), selected_site=selected_site)
    made_on.check_width(made.d_model)
    save_calibration(made, out)
    emit(
        {
            "calibration": str(out),
            "model": made.model,
            "n_sites": len(made.sites),
            "selected_site": made.selected_site,
            **{name: made.details[name] for name in ("selected_site_from", "published_dtype", "published_gram_error")},
        }
    )


@grouped
def refusal_direction(
    made_on: MadeOn,
    as_plan: AsPlan,
    folder: Annotated[
        Path, typer.Argument(help="A run: direction.pt, direction_metadata.json, generate_directions/mean_diffs.pt.")
    ],
    out: Out,
    position: Annotated[
        int | None, typer.Option(help="Token position, from the prompt's end (else the run's choice).")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Block whose input the direction was read at (else the run's choice).")
    ] = None,
) -> None:
    """A run of refusal_direction (Arditi et al.): the mean differences of one position, and the chosen direction."""
    from lens_steer.interop.imports.refusal_direction import import_refusal_direction

    found = import_refusal_direction(folder, position=position, layer=layer, **made_on.facts())
    _write(found, out, made_on, as_plan)


@grouped
def steering_vectors(
    made_on: MadeOn,
    as_plan: AsPlan,
    file: Annotated[Path, typer.Argument(help="A SteeringVector: .safetensors, or what torch.save wrote.")],
    out: Out,
    layer_type: Annotated[
        str | None, typer.Option(help="decoder_block, self_attn, mlp, input_layernorm, … (else the file's).")
    ] = None,
) -> None:
    """A SteeringVector of the steering-vectors library."""
    from lens_steer.interop.imports.steering_vectors import import_steering_vectors

    found = import_steering_vectors(file, layer_type=layer_type, **made_on.facts())
    _write(found, out, made_on, as_plan)


@grouped
def gguf(
    made_on: MadeOn,
    as_plan: AsPlan,
    file: Annotated[Path, typer.Argument(help="A control vector: .gguf of repeng, llama.cpp or EasySteer.")],
    out: Out,
) -> None:
    """A control vector: direction N belongs to the output of block N, blocks counted from 0."""
    from lens_steer.interop.gguf.vectors import import_gguf

    _write(import_gguf(file, **made_on.facts()), out, made_on, as_plan)


@grouped
def hidden_states(
    prompts: Prompts,
    template: Template,
    model: Model,
    folder: Annotated[Path, typer.Argument(help="Folder of vLLM's files, one .safetensors for each prompt.")],
    layers: Annotated[
        str, typer.Option(help="Layers in the files, in the order vLLM was given them: 0,6,12 or 0:12 (the last too).")
    ],
    out: Out,
    sites: Annotated[
        str, typer.Option("--sites", help="resid_post or resid_pre: how a layer is named.")
    ] = "resid_post",
    pooling: Annotated[
        str, typer.Option(help="last (the last token of the prompt), or response (the mean over its response).")
    ] = "last",
) -> None:
    """Hidden states that vLLM extracted, as a recording for 'calibrate --recorded'; no weights are read."""
    from lens_steer._io.atomic import check_writable
    from lens_steer.cli.precheck import describe
    from lens_steer.inference.recordings import save_recording
    from lens_steer.interop.imports.hidden_states import import_hidden_states

    check_writable(out)
    how: dict[str, Any] = {"kind": sites, "pooling": pooling}
    chosen = prompts.read(split=None).fit
    options = {"chat_template": template.chat_template, "template_date": template.template_date}
    told = describe(model, **options, template_args=args_of(template.template_args))
    found = import_hidden_states(folder, told, chosen, _layers(layers), **how)
    save_recording(found, out)
    emit(
        {
            "recording": str(out),
            "model": found.model,
            "n_sites": len(found.sites),
            "n_positive": found.n_positive,
            "n_negative": found.n_negative,
        }
    )


def _layers(text: str) -> list[int]:
    """Read layers from a command line.

    Raises:
        LensSteerError: If they are not whole numbers.

    >>> _layers("0,6,12"), _layers("0:3")
    ([0, 6, 12], [0, 1, 2, 3])
    """
    try:
        if ":" in text:
            first, last = map(int, text.split(":"))
            return list(range(first, last + 1))
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise LensSteerError(f"--layers {text!r}: give whole numbers, such as 0,6,12 or 0:12") from None


def _write(found: Any, out: Path, made_on: MadeOn, as_plan: AsPlan) -> None:
    """Write the directions, and the plan if one is asked for, all together or not at all."""
    from lens_steer._io.atomic import whole_folder
    from lens_steer.interop.imports.direction_files import save_directions
    from lens_steer.steer.plans import save_plan

    made_on.check_width(found.d_model)
    plan = as_plan.of(found, out)
    with whole_folder(out) as work:
        save_directions(found, work)
        if plan is not None:
            save_plan(plan, work / "plan")
    emit(
        {
            "directions": str(out),
            "model": found.model or None,
            "source_format": found.source_format,
            "n_sites": len(found.sites),
            "d_model": found.d_model,
            "dtype": found.dtype,
            "selected_site": found.selected_site,
            "architecture": found.architecture,
            "n_layers": found.n_layers,
            "plan": None if plan is None else str(out / "plan"),
            "steered": None if plan is None else plan.row(),
        }
    )


COMMANDS: dict[str, Callable[..., None]] = {
    "official": official,
    "angular": angular,
    "refusal-direction": refusal_direction,
    "steering-vectors": steering_vectors,
    "gguf": gguf,
    "hidden-states": hidden_states,
}
