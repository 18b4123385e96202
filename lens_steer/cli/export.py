"""The commands that write a steering plan as an adapter or as steered weights, for engines without hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lens_steer.cli.common import emit, loaded_model, read_plan, read_prompts
from lens_steer.cli.options import METHOD_HELP, Device, Dtype, Model, Out, Probe, Template
from lens_steer.errors import LensSteerError

NOTE = (
    "What is written is loaded back (PEFT, Transformers) and compared with the hooked model; the certificate stands beside it, and an export that differs is an "
    "error. The recipes for vLLM and llama.cpp are from their public documentation; those engines were not run here."
)
app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help=f"A steering plan as LoRA adapters or as steered weights. {NOTE}"
)

CalibrationFolder = Annotated[Path | None, typer.Option("--calibration", help="Folder of a calibration made on this model.")]
PlanFolder = Annotated[Path | None, typer.Option("--plan", help="Folder of a saved plan, instead of a calibration and a method.")]
Method = Annotated[str | None, typer.Option("--method", help="One of the methods listed below (selective; with a probe, sttp).")]
Angle = Annotated[str | None, typer.Option("--angle", help="Degrees.")]
Coefficient = Annotated[str | None, typer.Option("--coefficient", help="Strength of an addition.")]
Target = Annotated[str | None, typer.Option("--target", help="Projection that clamp sets.")]
At = Annotated[str | None, typer.Option("--sites", help="Other sites than the method's own: names, kinds or groups.")]
Partial = Annotated[bool, typer.Option("--partial", help="Export what folds, and say in the certificate what was left out.")]
Asked = Annotated[
    str | None,
    typer.Option(
        "--prompts", help="Prompts file (or an organism's contrast) that the certificate is of (default: a few built-in ones)."
    ),
]
NewTokens = Annotated[int, typer.Option("--max-new-tokens", help="Length of every answer of the certificate at most.")]
Tolerance = Annotated[
    float | None,
    typer.Option("--tolerance", help="Of the certificate: largest logit difference over the largest logit (default: by dtype)."),
]
Recipe = Annotated[
    str | None, typer.Option("--recipe", help="Also print how to serve it and one request: vllm or llama.cpp (not run here).")
]


@app.command(epilog=METHOD_HELP)
def lora(
    out: Out,
    model: Model = "organism/qwen2",
    calibration: CalibrationFolder = None,
    plan: PlanFolder = None,
    probe: Probe = None,
    method: Method = None,
    angle: Angle = None,
    bank: Annotated[
        str | None, typer.Option("--bank", help="An adapter for each of these angles: 0:360:10, or numbers with commas.")
    ] = None,
    circle: Annotated[
        bool, typer.Option("--circle", help="Two adapters that give every angle of a selective rotation, scaled.")
    ] = False,
    coefficient: Coefficient = None,
    target: Target = None,
    sites: At = None,
    partial: Partial = False,
    base: Annotated[
        str | None,
        typer.Option("--base", help="Name or path that the adapter gives its base model (default: where it was loaded)."),
    ] = None,
    prompts: Asked = None,
    max_new_tokens: NewTokens = 16,
    tolerance: Tolerance = None,
    recipe: Recipe = None,
    dtype: Dtype = "float32",
    device: Device = None,
    chat_template: Template = None,
) -> None:
    """LoRA adapters in PEFT's format that do what the plan's hooks do."""
    from lens_steer.interop import lora as lora_
    from lens_steer.interop.recipes import check_recipe
    from lens_steer.interop.recipes import recipe as recipe_
    from lens_steer.sweeps import values_of

    check_recipe(recipe)
    if recipe == "vllm" and circle:
        recipe_("vllm", "circle", out, model)  # says why there is none
    if sum((angle is not None, bank is not None, circle)) > 1:
        raise LensSteerError("give one of --angle, --bank and --circle")
    angles = values_of(bank) if bank is not None else ()
    lora_.peft()
    lora_.check_new(out)
    first = angle if not (angles or circle) else str(angles[0] if angles else 0.0)  # any angle: the others are made from the plan
    made = _plan(plan, calibration, probe, method, first, {"coefficient": coefficient, "target": target, "at": sites})
    trial = _trial(prompts, max_new_tokens, tolerance)
    loaded = loaded_model(model, dtype, device, chat_template)
    options: dict[str, Any] = {"partial": partial, "trial": trial, "base": base}
    if angles:
        found = lora_.export_bank(made, angles, loaded, out, progress=True, **options)
        kind, certificates, names = "bank", list(found.values()), list(found)
    elif circle:
        certificates = list(lora_.export_circle(made, loaded, out, progress=True, **options).values())
        kind, names = "circle", [lora_.COSINE, lora_.SINE]
    else:
        kind, certificates, names = "lora", [lora_.export_lora(made, loaded, out, **options)], []
    served = None if recipe is None else recipe_(recipe, kind, out, base or loaded.lens_info.folder, names)
    _tell(kind, out, certificates, names, served)


@app.command(epilog=METHOD_HELP)
def merged(
    out: Out,
    model: Model = "organism/qwen2",
    calibration: CalibrationFolder = None,
    plan: PlanFolder = None,
    probe: Probe = None,
    method: Method = None,
    angle: Angle = None,
    coefficient: Coefficient = None,
    target: Target = None,
    sites: At = None,
    partial: Partial = False,
    prompts: Asked = None,
    max_new_tokens: NewTokens = 16,
    tolerance: Tolerance = None,
    recipe: Recipe = None,
    dtype: Dtype = "float32",
    device: Device = None,
    chat_template: Template = None,
) -> None:
    """A steered Hugging Face folder: the plan in the weights, in the dtype that the model is loaded in."""
    from lens_steer.interop.lora import check_new
    from lens_steer.interop.merged import export_merged
    from lens_steer.interop.recipes import check_recipe
    from lens_steer.interop.recipes import recipe as recipe_

    check_recipe(recipe)
    check_new(out)
    made = _plan(plan, calibration, probe, method, angle, {"coefficient": coefficient, "target": target, "at": sites})
    trial = _trial(prompts, max_new_tokens, tolerance)
    loaded = loaded_model(model, dtype, device, chat_template)
    found = export_merged(made, loaded, out, partial=partial, trial=trial)
    served = None if recipe is None else recipe_(recipe, "merged", out, loaded.lens_info.folder)
    _tell("merged", out, [found], [], served)


def _plan(
    plan: Path | None,
    calibration: Path | None,
    probe: Path | None,
    method: str | None,
    angle: str | None,
    options: dict[str, Any],
) -> Any:
    """The saved plan, at another angle if one is given, or a method's."""
    given = {k: v for k, v in options.items() if v is not None}
    if plan is None:
        return read_plan(None, calibration, probe, method, given | ({} if angle is None else {"angle": angle}))
    made = read_plan(plan, calibration, probe, method, given)
    return made if angle is None else made.at(angle)


def _trial(prompts: str | None, new_tokens: int, tolerance: float | None) -> Any:
    from lens_steer.interop.certificate import Trial

    return Trial(None if prompts is None else read_prompts(prompts), new_tokens, tolerance)


def _tell(kind: str, out: Path, certificates: list[Any], names: list[str], served: str | None) -> None:
    """One JSON object, of the worst certificate where there are several; how to serve it also on the error stream, to be read."""
    worst = max(certificates, key=lambda c: c.relative_logit_difference)
    if served is not None:
        typer.echo(served, err=True)
    emit(
        {
            "export": str(out),
            "kind": kind,
            "adapters": names or None,
            **worst.plan,
            "folded_sites": len(worst.folded_sites),
            "refused": list(worst.refused) or None,
            "largest_logit_difference": worst.largest_logit_difference,
            "relative_logit_difference": worst.relative_logit_difference,
            "equal_greedy_tokens": min(c.equal_greedy_tokens for c in certificates),
            "tolerance": worst.tolerance,
            "verdict": worst.verdict,
            "recipe": None if served is None else served.splitlines(),
        }
    )
