"""What is written before Sphinx reads the sources: the API by the way data takes, the commands, the notebooks."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import nbconvert
from names import modules, public_by_module
from traitlets.config import Config

import lens_steer

PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
REST = "The rest"  # where a module stands that no stage names

# title: (what it is about, its modules and packages)
STAGES = {
    "Prompts": (
        "Prompt sets, contrasts, their splits, and the readers of files.",
        "prompts prompt_sets prompt_loading prompt_files prompt_datasets prompt_checks contrast_sets contrast_loading splits jsonl",
    ),
    "Models and sites": (
        "Loading without weight processing, the names of tensors, chat rendering, and which tokens are steered.",
        "models folders hub precheck hooked huggingface quantization sites tokenization chat templates rendered decoding positions engines",
    ),
    "Activations": ("Recording at any list of sites.", "activations token_activations moments"),
    "Geometry": (
        "Directions, discriminative sites, the steering plane, and the calibration that holds them.",
        "geometry artifacts",
    ),
    "Probes": (
        "Logistic regressions across depth, the boundaries they draw, and what they do on held-out prompts.",
        "probes probe_files probing probe_report",
    ),
    "Operators": ("Pure functions of tensors, and what they do to lengths.", "operators effects norms"),
    "Methods and plans": (
        "The published methods as constructors of plans: operators bound to sites.",
        "methods method_table plans",
    ),
    "Steering and generation": (
        "Hooks, batched generation, dialogues, and projections watched while a model speaks.",
        "hooks generation conversation monitoring dials",
    ),
    "Divergence": (
        "How far steering moves next-token distributions.",
        "kl divergence forcing forced_sweep unembedding",
    ),
    "Metrics": ("What is measured of answers, and with what intervals.", "metrics outcomes bounds stats"),
    "Sweeps and comparisons": (
        "Every setting on one split, a choice under constraints, the choice alone on another.",
        "sweeps rowstore selection grids control_bands controls first_token harmonics sweep_report evaluation equal_kl comparison comparison_text compare_report",
    ),
    "Studies": (
        "Claims with criteria fixed beforehand, traits, benign steering and its side effects.",
        "claims verify traits benign externalities",
    ),
    "Figures and reports": (
        "One function a figure, saved with its numbers; the main report.",
        "figures report report_text views shown",
    ),
    "Exchange": ("Published formats in, adapters and steered weights out.", "interop"),
    "Embedded models": ("Their world, its tasks, training and gates.", "organisms"),
    REST: (
        "The error that a user can mend, defaults, what a study takes, and how long work is told of, kept and written.",
        "errors defaults resources work cost progress pieces latex",
    ),
}


def write(folder: Path, *, root: Path) -> None:
    """Every generated page, anew; ``root`` is the project's folder."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "api").mkdir(parents=True)
    for title in STAGES:
        (folder / "api" / f"{_slug(title)}.rst").write_text(_stage_page(title), encoding="utf-8")
    for module in filter(_shadowed, modules()):
        (folder / "api" / f"{module}-module.rst").write_text(_shadowed_page(module), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "typer",
        "lens_steer.cli.app",
        "utils",
        "docs",
        "--name",
        "lens-steer",
        "--title",
        "Commands",
    ]
    subprocess.run([*command, "--output", str(folder / "commands.md")], check=True, stdout=subprocess.DEVNULL)
    for name in PAGES:
        (folder / name).write_text(_with_links((root / name).read_text(encoding="utf-8"), root), encoding="utf-8")
    for source in sorted((root / "notebooks").glob("*.ipynb")):
        _notebook(source, folder / "notebooks")


def stage_of(module: str) -> str:
    """Where a module stands in the way data takes, by its top-level name."""
    top = module.split(".")[1]
    return next((title for title, (_, tops) in STAGES.items() if top in tops.split()), REST)


def _stage_page(title: str) -> str:
    order = STAGES[title][1].split()
    held = sorted((m for m in modules() if stage_of(m) == title), key=lambda m: _place(m.split(".")[1], order))
    homes = public_by_module()
    public = [name for module in held for name in homes.get(module, ())]
    plain, shadowed = [m for m in held if not _shadowed(m)], [m for m in held if _shadowed(m)]
    lines = [title, "=" * len(title), "", STAGES[title][0], ""]
    for heading, names in (("From lens_steer", [f"lens_steer.{n}" for n in public]), ("Modules", plain)):
        if names:
            lines += [heading, "-" * len(heading), "", ".. autosummary::", "   :toctree: .", "   :nosignatures:", ""]
            lines += [*(f"   {name}" for name in names), ""]
    if shadowed:
        lines += [".. toctree::", "   :maxdepth: 1", "", *(f"   {m}-module" for m in shadowed), ""]
    return "\n".join(lines)


def _shadowed(module: str) -> bool:
    """Whether a public name is the same as the module's, so that autosummary finds that and not the module."""
    return module.removeprefix("lens_steer.") in lens_steer.__all__


def _shadowed_page(module: str) -> str:
    """A module's docstring, its public names, and its other functions and classes."""
    held, public = import_module(module), public_by_module().get(module, [])
    title = module.removeprefix("lens_steer.") + " (module)"
    lines = [title, "=" * len(title), "", f".. currentmodule:: {module}", "", str(inspect.getdoc(held)), ""]
    lines += [".. autosummary::", "   :nosignatures:", "", *(f"   lens_steer.{name}" for name in public), ""]
    for name, value in vars(held).items():
        if getattr(value, "__module__", None) == module and name not in public and not name.startswith("_"):
            lines += [f".. auto{'class' if inspect.isclass(value) else 'function'}:: {module}.{name}", ""]
    return "\n".join(lines)


def _place(top: str, order: list[str]) -> int:
    return order.index(top) if top in order else len(order)


def _slug(title: str) -> str:
    return title.lower().replace(" ", "-")


def _with_links(text: str, root: Path) -> str:
    """A page of the project's folder as one of the documentation: its links to pages of the documentation lead there, those to other files become downloads, to
    folders plain text."""

    def linked(match: re.Match[str]) -> str:
        shown, target = match.groups()
        if re.match(r"\w+:|#", target) or target.split("#")[0] in PAGES:
            return match.group()
        if target.startswith("docs/"):
            return f"{shown}(../{target.removeprefix('docs/')})"
        if shown.startswith("!"):
            return f"{shown}(../../{target})"
        return f"{shown}(path:../../{target})" if (root / target).is_file() else shown.strip("[]")

    return re.sub(r"(!?\[[^\]]*\])\(([^)\s]+)\)", linked, text)


def _notebook(source: Path, folder: Path) -> None:
    """A notebook as it was last run, as Markdown with its pictures beside it."""
    folder.mkdir(exist_ok=True)
    settings = Config({"NbConvertBase": {"display_data_priority": ["image/png", "text/html", "text/markdown", "text/plain"]}})
    text, resources = nbconvert.MarkdownExporter(config=settings).from_filename(
        str(source), resources={"output_files_dir": f"{source.stem}_files", "unique_key": source.stem}
    )
    (folder / f"{source.stem}.md").write_text(text, encoding="utf-8")
    for name, picture in resources["outputs"].items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(picture)
