"""The commands that import what other projects published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_steer.cli.common import emit
from lens_steer.cli.options import Out
from lens_steer.errors import LensSteerError

MadeOn = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="The model it was made on: a folder or a hub name whose configuration is read, and checked against the file.",
    ),
]
Architecture = Annotated[
    str | None,
    typer.Option(
        "--architecture",
        help="qwen2, qwen3, llama, mistral, gemma2 or gemma3_text, where no --model is given or its configuration is out of reach.",
    ),
]
Layers = Annotated[int | None, typer.Option("--n-layers", help="Blocks of the model, likewise.")]
Coefficient = Annotated[
    str | None,
    typer.Option("--coefficient", help="Also write OUT/plan for 'steer --plan': this many times the direction, added."),
]
Ablate = Annotated[
    bool, typer.Option("--ablate", help="Write OUT/plan to remove the direction from the whole stream instead of adding it.")
]
Site = Annotated[
    str | None,
    typer.Option("--site", help="In the plan: the one row whose direction is used (else the chosen one, or each site's own)."),
]
At = Annotated[str | None, typer.Option("--at", help="In the plan: the sites to steer (else those the directions belong to).")]
Positions = Annotated[str, typer.Option("--positions", help="In the plan: the tokens to steer, as in steer --positions.")]


def official(
    folder: Annotated[Path, typer.Argument(help="Folder with directions.pt, plane.pt and metadata.json.")], out: Out
) -> None:
    """A published Selective Steering calibration; archives are read as plain tensors only."""
    import lens_steer as ls
    from lens_steer.interop.official import import_official

    made = import_official(folder)
    ls.save_calibration(made, out)
    emit({"calibration": str(out), "model": made.model, "selected_site": made.selected_site,
           "discriminative_blocks": list(made.discriminative_blocks), "published_gram_error": made.details["published_gram_error"]})  # fmt: skip


def angular(
    file: Annotated[Path, typer.Argument(help="A steering_config-*.npy.")],
    out: Out,
    model: MadeOn = None,
    architecture: Architecture = None,
    n_layers: Layers = None,
    selected_site: Annotated[
        str | None,
        typer.Option("--selected-site", help="The norm that the first direction was read before (else from the file's name)."),
    ] = None,
) -> None:
    """An Angular Steering plane config as a calibration for standard and adaptive; the pickle in it is read as data, never run."""
    import lens_steer as ls
    from lens_steer.interop.angular import import_angular

    facts = _facts(model, architecture, n_layers)
    made = import_angular(file, **facts, selected_site=selected_site)
    _check_width(made.d_model, model)
    ls.save_calibration(made, out)
    emit({"calibration": str(out), "model": made.model, "n_sites": len(made.sites), "selected_site": made.selected_site,
           **{name: made.details[name] for name in ("selected_site_from", "published_dtype", "published_gram_error")}})  # fmt: skip


def refusal_direction(
    folder: Annotated[
        Path, typer.Argument(help="A run: direction.pt, direction_metadata.json, generate_directions/mean_diffs.pt.")
    ],
    out: Out,
    position: Annotated[
        int | None, typer.Option("--position", help="Token position, from the prompt's end (else the run's choice).")
    ] = None,
    layer: Annotated[
        int | None, typer.Option("--layer", help="Block whose input the direction was read at (else the run's choice).")
    ] = None,
    model: MadeOn = None,
    architecture: Architecture = None,
    n_layers: Layers = None,
    coefficient: Coefficient = None,
    ablate: Ablate = False,
    site: Site = None,
    at: At = None,
    positions: Positions = "all",
) -> None:
    """A run of refusal_direction (Arditi et al.): the mean differences of one position, and the chosen direction."""
    from lens_steer.interop.refusal_direction import import_refusal_direction

    found = import_refusal_direction(folder, position=position, layer=layer, **_facts(model, architecture, n_layers))
    _write(found, out, model, coefficient, ablate, site, at, positions)


def steering_vectors(
    file: Annotated[Path, typer.Argument(help="A SteeringVector: .safetensors, or what torch.save wrote.")],
    out: Out,
    layer_type: Annotated[
        str | None, typer.Option("--layer-type", help="decoder_block, self_attn, mlp, input_layernorm, … (else the file's).")
    ] = None,
    model: MadeOn = None,
    architecture: Architecture = None,
    n_layers: Layers = None,
    coefficient: Coefficient = None,
    ablate: Ablate = False,
    site: Site = None,
    at: At = None,
    positions: Positions = "all",
) -> None:
    """A SteeringVector of the steering-vectors library."""
    from lens_steer.interop.steering_vectors import import_steering_vectors

    found = import_steering_vectors(file, layer_type=layer_type, **_facts(model, architecture, n_layers))
    _write(found, out, model, coefficient, ablate, site, at, positions)


def gguf(
    file: Annotated[Path, typer.Argument(help="A control vector: .gguf of repeng, llama.cpp or EasySteer.")],
    out: Out,
    model: MadeOn = None,
    architecture: Architecture = None,
    n_layers: Layers = None,
    coefficient: Coefficient = None,
    ablate: Ablate = False,
    site: Site = None,
    at: At = None,
    positions: Positions = "all",
) -> None:
    """A control vector: direction N belongs to the output of block N, blocks counted from 0."""
    from lens_steer.interop.gguf import import_gguf

    _write(import_gguf(file, **_facts(model, architecture, n_layers)), out, model, coefficient, ablate, site, at, positions)


def _facts(model: str | None, architecture: str | None, n_layers: int | None) -> dict[str, Any]:
    """Name, architecture and number of blocks: of the model's configuration, or as given where that is not needed or out of reach."""
    from lens_steer.interop.model_facts import model_facts

    if n_layers is not None and n_layers < 1:
        raise LensSteerError(f"--n-layers {n_layers}: a model has at least one block")
    if model is None or (architecture is not None and n_layers is not None):
        return {"model": model or "", "architecture": architecture, "n_layers": n_layers}
    found = model_facts(model)
    for name, given, read in (("--architecture", architecture, found.architecture), ("--n-layers", n_layers, found.n_layers)):
        if given not in (None, read):
            raise LensSteerError(f"{name} {given}: the configuration of {model!r} says {read}")
    return {"model": model, "architecture": found.architecture, "n_layers": found.n_layers}


def _check_width(d_model: int, model: str | None) -> None:
    from lens_steer.interop.model_facts import model_facts

    try:
        found = model_facts(model) if model is not None else None
    except LensSteerError:
        return  # its configuration was given in its place; steering compares the widths
    if found is not None and found.d_model != d_model:
        raise LensSteerError(
            f"the directions have d_model {d_model} and the model {model!r} has {found.d_model}: name the model that they were made on"
        )


def _write(
    found: Any,
    out: Path,
    model: str | None,
    coefficient: str | None,
    ablate: bool,
    site: str | None,
    at: str | None,
    positions: str,
) -> None:
    """The directions, and the plan if one is asked for, whole or not at all."""
    import lens_steer as ls
    from lens_steer.artifacts import whole_folder
    from lens_steer.interop.direction_files import save_directions

    _check_width(found.d_model, model)
    planned = coefficient is not None or ablate
    if coefficient is not None and ablate:
        raise LensSteerError("--coefficient adds the direction and --ablate removes it: give one of the two")
    if not planned and (given := [name for name, value in (("--site", site), ("--at", at)) if value is not None]):
        raise LensSteerError(f"{given[0]} belongs to a plan: give --coefficient or --ablate too")
    if not planned and (out / "plan").exists():
        raise LensSteerError(f"{str(out)!r} holds a plan already, which would not belong to these directions: name another --out")
    plan = None
    if ablate:
        plan = found.ablation_plan(site=site, at=at, everywhere=at is None, positions=positions)
    elif coefficient is not None:
        plan = found.additive_plan(coefficient, site=site, at=at, positions=positions)
    with whole_folder(out) as work:
        save_directions(found, work)
        if plan is not None:
            ls.save_plan(plan, work / "plan")
    emit({"directions": str(out), "model": found.model or None, "source_format": found.source_format, "n_sites": len(found.sites),
           "d_model": found.d_model, "dtype": found.dtype, "selected_site": found.selected_site, "architecture": found.architecture,
           "n_layers": found.n_layers, "plan": None if plan is None else str(out / "plan"), "steered": None if plan is None else plan.row()})  # fmt: skip


COMMANDS: dict[str, Callable[..., None]] = {
    "official": official,
    "angular": angular,
    "refusal-direction": refusal_direction,
    "steering-vectors": steering_vectors,
    "gguf": gguf,
}
