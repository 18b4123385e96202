"""What is written before Sphinx reads the sources: the API room by room, the commands, the notebooks, the pages of the
project's folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path

import nbconvert
from names import modules, public_by_module
from traitlets.config import Config

PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
ROOT = Path(__file__).resolve().parents[1]
DOCS, GENERATED = ROOT / "docs", ROOT / "docs" / "generated"
REST = "rest"  # where a module stands that is in no room, or in one with an underscore
ABOUT_REST = "The error that a user can mend, intervals, and how files are written and progress is told."
API = "A room imports only from those above it. Each page begins with the names that ``import lens_steer as ls`` gives."


@cache
def rooms() -> list[str]:
    """The rooms that have a page, lowest first, in the order that import-linter holds; the command line has a page of
    another kind.
    """
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["name"] == "rooms")
    names = [room.strip() for layer in reversed(layers) for room in layer.split("|")]
    packages = {module for module in modules() if hasattr(import_module(module), "__path__")}
    return [name for name in names if not name.startswith("_") and f"lens_steer.{name}" in packages]


def write() -> None:
    """Every generated page, anew."""
    shutil.rmtree(GENERATED, ignore_errors=True)
    (GENERATED / "api").mkdir(parents=True)
    pages = [*rooms(), REST]
    for page in pages:
        (GENERATED / "api" / f"{page}.rst").write_text(_room_page(page), encoding="utf-8")
    index = f"API\n===\n\n{API}\n\n.. toctree::\n   :maxdepth: 1\n\n" + "".join(f"   {page}\n" for page in pages)
    (GENERATED / "api" / "index.rst").write_text(index, encoding="utf-8")
    command = [sys.executable, *"-m typer lens_steer.cli.app utils docs --name lens-steer --title Commands".split()]
    subprocess.run([*command, "--output", str(GENERATED / "commands.md")], check=True, stdout=subprocess.DEVNULL)
    for name in PAGES:
        text = with_links((ROOT / name).read_text(encoding="utf-8"), ROOT, GENERATED)
        (GENERATED / name).write_text(text, encoding="utf-8")
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        _notebook(source, GENERATED / "notebooks")


def room_of(module: str) -> str:
    """The page that a module stands on."""
    top = module.split(".")[1]
    return top if top in rooms() else REST


def _room_page(room: str) -> str:
    """A room's sentence, the public names that are defined there, and its modules."""
    held = [module for module in modules() if room_of(module) == room]
    title = room.capitalize()
    about = ABOUT_REST if room == REST else str(import_module(f"lens_steer.{room}").__doc__).split("\n\n")[0]
    public = [f"lens_steer.{name}" for module in held for name in public_by_module().get(module, ())]
    lines = [title, "=" * len(title), "", about, ""]
    for heading, names in (("From lens_steer", public), ("Modules", held)):
        if names:
            lines += [heading, "-" * len(heading), "", ".. autosummary::", "   :toctree: .", "   :nosignatures:", ""]
            lines += [*(f"   {name}" for name in names), ""]
    return "\n".join(lines)


def with_links(text: str, origin: Path, built: Path) -> str:
    """A page's text with its links as the documentation has them: pages and notebooks lead to their pages there, other
    files become downloads, folders plain text.

    Args:
        text: of the page, in Markdown.
        origin: folder that the links start from.
        built: folder in ``docs`` that the page is built in.
    """

    def linked(match: re.Match[str]) -> str:
        shown, target = match.groups()
        if re.match(r"\w+:|#", target):
            return match.group()
        path, hash_, anchor = target.partition("#")
        aim = (origin / path).resolve()
        if aim.parent == ROOT and aim.name in PAGES:
            aim = GENERATED / aim.name
        elif aim.parent == ROOT / "notebooks" and aim.suffix == ".ipynb":
            aim = GENERATED / "notebooks" / f"{aim.stem}.md"
        elif DOCS not in aim.parents and not shown.startswith("!"):
            return f"{shown}(path:{os.path.relpath(aim, built)})" if aim.is_file() else shown.strip("[]")
        return f"{shown}({os.path.relpath(aim, built)}{hash_}{anchor})"

    return re.sub(r"(!?\[[^\]]*\])\(([^)\s]+)\)", linked, text)


def _notebook(source: Path, folder: Path) -> None:
    """A notebook as it was last run, as Markdown with its pictures beside it."""
    folder.mkdir(exist_ok=True)
    settings = Config(
        {"NbConvertBase": {"display_data_priority": ["image/png", "text/html", "text/markdown", "text/plain"]}}
    )
    text, resources = nbconvert.MarkdownExporter(config=settings).from_filename(
        str(source), resources={"output_files_dir": f"{source.stem}_files", "unique_key": source.stem}
    )
    (folder / f"{source.stem}.md").write_text(text, encoding="utf-8")
    for name, picture in resources["outputs"].items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(picture)
