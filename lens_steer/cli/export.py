"""The commands that export a steering plan for engines without hooks.

A plan becomes LoRA adapters, steered weights or a control vector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_steer.cli.common import emit, read_prompts
from lens_steer.cli.groups import Group, grouped
from lens_steer.cli.loading import Load
from lens_steer.cli.options import METHOD_HELP, CalibrationFolder, Model, Out, Probe
from lens_steer.cli.planning import At, Coefficient, PlanFolder, Source, read_plan, with_options
from lens_steer.errors import LensSteerError
from lens_steer.operators.parameters import ANGLE, COEFFICIENT
from lens_steer.steer.method_table import METHODS, options

NOTE = (
    "What is written is loaded back (PEFT, Transformers, gguf) and compared with the hooked model; the certificate "
    "stands beside it, and an export that differs is an error. llama.cpp was run on all three kinds of export of the "
    "embedded models (tests/test_llama_cpp.py does it again where llama-cpp-python is installed); vLLM 0.32 on "
    "adapters of the same models (make test-vllm)."
)
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help=f"A steering plan as LoRA adapters, as steered weights or as a control vector. {NOTE}",
)

ADDING = [m.name for m in METHODS.values() if m.operator == "add"]
STRENGTHS = [p for p in options() if p.by_row]
AddingMethod = Annotated[
    str | None,
    typer.Option("--method", help=f"{', '.join(ADDING[:-1])} or {ADDING[-1]} (act-add; with a probe, swfc)."),
]
OutFile = Annotated[Path, typer.Option("--out", help="File to write (.gguf); its certificate stands beside it.")]
Partial = Annotated[
    bool, typer.Option("--partial", help="Export what folds, and say in the certificate what was left out.")
]


@dataclass(frozen=True)
class Folding(with_options(Source, STRENGTHS, short=True)):
    """The options that say which plan is exported."""

    sites: At = None

    def read(self) -> Any:
        """Return the plan of a method, or the saved plan, at another angle if one is given."""
        from lens_steer.steer.plans import parse_numbers

        at = {} if self.sites is None else {"at": self.sites}
        source, names = (self.calibration, self.probe, self.method), [p.name for p in STRENGTHS]
        if self.plan is None:
            return read_plan(None, *source, self.given(*names) | at)
        names.remove(ANGLE.name)
        made = read_plan(self.plan, *source, self.given(*names) | at)
        return made if self.angle is None else made.at(parse_numbers(ANGLE.name, self.angle))


@dataclass(frozen=True)
class Trying(Group):
    """The options of the certificate, and of the recipe that says how to serve the export."""

    prompts: Annotated[
        str | None,
        typer.Option(
            help="Prompts file (or an organism's contrast) that the certificate is of (default: a few built-in ones)."
        ),
    ] = None
    max_new_tokens: Annotated[int, typer.Option(help="Length of every answer of the certificate at most.")] = 16
    tolerance: Annotated[
        float | None,
        typer.Option(help="Of the certificate: largest logit difference over the largest logit (default: by dtype)."),
    ] = None
    recipe: Annotated[
        str | None, typer.Option(help="Also print how to serve it and one request: vllm or llama.cpp.")
    ] = None

    def trial(self) -> Any:
        """Return the trial that the certificate runs: its prompts, the length of the answers and the tolerance."""
        from lens_steer.interop.exports.certificate import Trial

        return Trial(None if self.prompts is None else read_prompts(self.prompts), self.max_new_tokens, self.tolerance)

    def asked(self, trial: Any) -> list[tuple[Any, int]]:
        """Return the prompts that were given, with the number of tokens that an answer may have.

        The list is empty where no prompts were given.
        """
        return [] if trial.prompts is None else [(trial.prompts, self.max_new_tokens)]

    def served(
        self, kind: str, out: Path, base: str, adapters: list[str] | None = None, *, gguf: bool = False
    ) -> str | None:
        """Return the lines that show how to serve the export; None where ``--recipe`` was not given."""
        from lens_steer.interop.exports.recipes import recipe

        return None if self.recipe is None else recipe(self.recipe, kind, out, base, adapters or [], gguf=gguf)


@app.command(epilog=METHOD_HELP)
@grouped
def lora(
    folding: Folding,
    trying: Trying,
    load: Load,
    out: Out,
    model: Model = "organism/qwen2",
    bank: Annotated[
        str | None, typer.Option(help="An adapter for each of these angles: 0:360:10, or numbers with commas.")
    ] = None,
    circle: Annotated[
        bool, typer.Option("--circle", help="Two adapters that give every angle of a selective rotation, scaled.")
    ] = False,
    partial: Partial = False,
    gguf: Annotated[
        bool,
        typer.Option(
            "--gguf", help="Also write each adapter as adapter.gguf, which llama.cpp loads without a converter."
        ),
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(help="Name or path that the adapter gives its base model (default: where it was loaded)."),
    ] = None,
) -> None:
    """LoRA adapters in PEFT's format that do what the plan's hooks do."""
    from lens_steer._io.atomic import whole_folder
    from lens_steer.evaluation.grids import values_of
    from lens_steer.interop.exports import lora as lora_
    from lens_steer.interop.exports.recipes import check_recipe
    from lens_steer.interop.gguf.adapter import add_gguf

    check_recipe(trying.recipe, "circle" if circle else "lora")
    if sum((folding.angle is not None, bank is not None, circle)) > 1:
        raise LensSteerError("give one of --angle, --bank and --circle")
    angles = values_of(bank) if bank is not None else ()
    lora_.peft()
    lora_.check_new(out)
    if angles or circle:  # a plan needs some angle to be read; the plans of the other angles are made from it
        folding = replace(folding, angle=str(angles[0] if angles else 0.0))
    made, trial = folding.read(), trying.trial()
    load.check(model, *trying.asked(trial), made=made)
    loaded = load(model)
    target_base = _gguf_base(made, loaded, partial) if gguf else None
    options: dict[str, Any] = {"partial": partial, "trial": trial, "base": base}
    with whole_folder(out) as work:
        if angles:
            found = lora_.export_bank(made, angles, loaded, work, progress=True, **options)
            kind, certificates, names = "bank", list(found.values()), list(found)
        elif circle:
            certificates = list(lora_.export_circle(made, loaded, work, progress=True, **options).values())
            kind, names = "circle", [lora_.COSINE, lora_.SINE]
        else:
            kind, certificates, names = "lora", [lora_.export_lora(made, loaded, work, **options)], []
        files = [] if target_base is None else [str(out / f.relative_to(work)) for f in add_gguf(work, target_base)]
    served = trying.served(kind, out, base or loaded.lens_info.folder, names, gguf=gguf)
    _tell(kind, out, certificates, names, served, gguf=files or None)


@app.command(epilog=METHOD_HELP)
@grouped
def merged(
    folding: Folding, trying: Trying, load: Load, out: Out, model: Model = "organism/qwen2", partial: Partial = False
) -> None:
    """A steered Hugging Face folder: the plan in the weights, in the dtype that the model is loaded in."""
    from lens_steer.interop.exports.lora import check_new
    from lens_steer.interop.exports.merged import export_merged
    from lens_steer.interop.exports.recipes import check_recipe

    check_recipe(trying.recipe)
    check_new(out)
    made, trial = folding.read(), trying.trial()
    load.check(model, *trying.asked(trial), made=made)
    loaded = load(model)
    found = export_merged(made, loaded, out, partial=partial, trial=trial)
    _tell("merged", out, [found], [], trying.served("merged", out, loaded.lens_info.folder))


@app.command("gguf-cvec", epilog=METHOD_HELP)
@grouped
def gguf_cvec(
    trying: Trying,
    load: Load,
    out: OutFile,
    model: Annotated[
        str | None,
        typer.Option(
            help="Also run the file beside this model under the plan: the certificate (without it no model is loaded)."
        ),
    ] = None,
    calibration: CalibrationFolder = None,
    plan: PlanFolder = None,
    probe: Probe = None,
    directions: Annotated[
        Path | None, typer.Option(help="Folder of imported directions ('lens-steer import'), instead of a plan.")
    ] = None,
    method: AddingMethod = None,
    coefficient: Coefficient = None,
    site: Annotated[
        str | None,
        typer.Option(
            help="Of imported directions: the one row that is added (else the chosen one, or each site's own)."
        ),
    ] = None,
    sites: At = None,
) -> None:
    """A llama.cpp control vector: what an additive plan adds to the outputs of blocks (not of block 0)."""
    from lens_steer.interop.exports.recipes import check_recipe
    from lens_steer.interop.gguf.control_vectors import check_place, export_control_vector
    from lens_steer.interop.gguf.files import gguf_package
    from lens_steer.interop.gguf.vectors import control_vector

    check_recipe(trying.recipe, "cvec")
    gguf_package()
    check_place(out)
    if model is None and (
        given := [n for n, v in (("--prompts", trying.prompts), ("--tolerance", trying.tolerance)) if v is not None]
    ):
        raise LensSteerError(f"{given[0]} belongs to the certificate: give --model too")
    if directions is None:
        if site is not None:
            raise LensSteerError(
                "--site chooses one of imported directions: give --directions, or --sites for where to add"
            )
        adding = method or (None if plan is not None else "act-add" if probe is None else "swfc")
        made = Folding(calibration, plan, probe, adding, coefficient=coefficient, sites=sites).read()
    else:
        made = _imported(directions, [plan, calibration, probe, method], model, coefficient, site, sites)
    control_vector(made)
    trial = loaded = None
    if model is not None:
        trial = trying.trial()
        load.check(model, *trying.asked(trial), made=made)
        loaded = load(model)
    numbers, found = export_control_vector(made, out, loaded, trial=trial)
    served = trying.served("cvec", out, made.model if loaded is None else loaded.lens_info.folder)
    at = {f"direction.{number}": name for name, number in sorted(numbers.items(), key=lambda pair: pair[1])}
    _tell(
        "gguf-cvec", out, [] if found is None else [found], [], served, **made.row(), directions=at, read_back="equal"
    )


def _imported(
    folder: Path, others: list[Any], model: str | None, coefficient: str | None, site: str | None, at: str | None
) -> Any:
    """Return the plan that adds imported directions.

    What the directions do not record about their model is read from its configuration.
    """
    from lens_steer.interop.gguf.control_vectors import completed
    from lens_steer.interop.imports.direction_files import load_directions
    from lens_steer.steer.plans import parse_numbers

    if any(v is not None for v in others):
        raise LensSteerError(
            "--directions are added as they are: leave out --plan, --calibration, --probe and --method"
        )
    found = completed(load_directions(folder), model)
    strength = 1.0 if coefficient is None else parse_numbers(COEFFICIENT.name, coefficient)
    return found.additive_plan(strength, site=site, at=at)


def _gguf_base(plan: Any, loaded: Any, partial: bool) -> Any:
    """Return llama.cpp's names for the model's tensors.

    A plan that its adapters cannot hold is refused here, before anything is exported.
    """
    from lens_steer.interop.exports.folding import fold
    from lens_steer.interop.gguf.adapter import check_gguf, gguf_base
    from lens_steer.interop.gguf.files import gguf_package
    from lens_steer.models.loading import hf_twin

    gguf_package()
    base = gguf_base(hf_twin(loaded).config)
    check_gguf(fold(plan, loaded, into="lora", partial=partial), base)
    return base


def _tell(kind: str, out: Path, certificates: list[Any], names: list[str], served: str | None, **more: Any) -> None:
    """Print one JSON object about the export; where there are several certificates, it describes the worst.

    The recipe, if there is one, also goes to the error stream as plain lines.
    """
    if served is not None:
        typer.echo(served, err=True)
    found: dict[str, Any] = {}
    if certificates:
        worst = max(certificates, key=lambda c: c.relative_logit_difference)
        found = {
            **worst.plan,
            "folded_sites": len(worst.folded_sites),
            "refused": list(worst.refused) or None,
            "largest_logit_difference": worst.largest_logit_difference,
            "relative_logit_difference": worst.relative_logit_difference,
            "equal_greedy_tokens": min(c.equal_greedy_tokens for c in certificates),
            "tolerance": worst.tolerance,
            "verdict": worst.verdict,
        }
    recipe = None if served is None else served.splitlines()
    emit({"export": str(out), "kind": kind, "adapters": names or None, **found, **more, "recipe": recipe})
