"""Where a name is documented: what the pages list, and where references lead."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import lens_steer

PACKAGE = Path(lens_steer.__file__).parent
LONGEST_VALUE, MAX_ENTRIES = 160, 600  # characters


@dataclass(frozen=True)
class Constant:
    """A module's constant or type alias: its value as the source has it, where that is short, and what its comment
    says.
    """

    name: str
    value: str | None
    text: str


@cache
def modules() -> tuple[str, ...]:
    """Every module below ``lens_steer``, a package before what is in it, but for the command line's: the page of the
    commands is about it.
    """
    paths = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in PACKAGE.rglob("*.py")]
    names = [".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in paths]
    return tuple(sorted(name for name in names if name not in ("lens_steer", "lens_steer.cli") and ".cli." not in name))


@cache
def public_by_module() -> dict[str, list[str]]:
    """Names that users import from ``lens_steer``, by the module that defines them."""
    found: dict[str, list[str]] = {}
    for name in lens_steer.__all__:
        found.setdefault(getattr(lens_steer, name).__module__, []).append(name)
    return found


def filenames() -> dict[str, str]:
    """Pages of classes that differ from a function by an upper-case letter only, which some file systems take for the
    same.
    """
    functions = {name for name in lens_steer.__all__ if name.islower()}
    alike = [name for name in lens_steer.__all__ if name not in functions and name.lower() in functions]
    return {f"lens_steer.{name}": f"lens_steer.{name}-class" for name in alike}


@cache
def constants() -> dict[str, list[Constant]]:
    """Constants and type aliases of each module, in the order of the source."""
    return {module: _constants_of(module) for module in modules()}


def documented_name(target: str, module: str | None, page: str) -> str | None:
    """Where something is documented that a docstring or an annotation on a page names: what Python finds under that
    name in the module that is described there.

    A name that users import from ``lens_steer`` stands there; ``LensSteerError`` is found from everywhere.
    """
    if target == "LensSteerError":
        return "lens_steer.LensSteerError"
    if module in (None, "lens_steer"):
        name = page.rpartition(".")[2].removesuffix("-class")
        module = next((home for home, names in public_by_module().items() if name in names), "lens_steer")
    return _found(f"{module}.{target}") or _found(f"lens_steer.{target}") or _found(target)


def _found(name: str) -> str | None:
    home, rest = _module_part(name)
    if home is None or not rest or not hasattr(sys.modules[home], rest[0]):
        return None
    value: Any = getattr(sys.modules[home], rest[0])
    origin = getattr(value, "__module__", None)
    if isinstance(origin, str) and origin in modules() and hasattr(value, "__qualname__"):
        home = origin
    elif all(c.name != rest[0] for c in constants().get(home, ())):
        home = next(
            (m for m, held in constants().items() if any(c.name == rest[0] for c in held) and _same(m, rest[0], value)),
            home,
        )
    return ".".join(("lens_steer" if rest[0] in public_by_module().get(home, ()) else home, *rest))


def _module_part(name: str) -> tuple[str | None, list[str]]:
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        module = ".".join(parts[:n])
        if module == "lens_steer" or module in modules():
            import_module(module)
            return module, parts[n:]
    return None, parts


def _same(module: str, name: str, value: Any) -> bool:
    return getattr(import_module(module), name) is value


def _constants_of(module: str) -> list[Constant]:
    home = import_module(module)
    source = Path(str(home.__file__)).read_text(encoding="utf-8")
    lines = source.splitlines()
    found = []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        value = ast.get_source_segment(source, node.value) or ""
        short = value if "\n" not in value and len(value) <= LONGEST_VALUE else None
        comment = lines[(node.end_lineno or 1) - 1].encode()[node.end_col_offset or 0 :].decode().strip()
        above = lines[node.lineno - 2].strip()
        said = _said(comment or (above if above.startswith("# ") else ""))
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(name, ast.Name) and name.id[0].isupper():
                    held = getattr(home, name.id)
                    shown = short if name is target else repr(held) if isinstance(held, str | int | float) else None
                    text = "; ".join(part for part in (said, "" if shown else _entries(held)) if part)
                    found.append(Constant(name.id, shown, text[:1].upper() + text[1:] + "." if text else ""))
    return found


def _said(comment: str) -> str:
    """A comment's words, without what it says to a tool."""
    parts = [part.strip() for part in comment.removeprefix("#").split("  #")]
    words = [part for part in parts if part and not part.startswith(("fmt:", "type:", "noqa", "pyright:", ")"))]
    return "; ".join(words).removesuffix(".").replace("|", r"\|").replace("*", r"\*")


def _entries(value: Any) -> str:
    """The keys of a mapping, the strings of a tuple, how many entries there are in something else."""
    if isinstance(value, str) or not isinstance(value, Collection):
        return ""
    names = [f"``{entry}``" for entry in value if isinstance(entry, str) and "\n" not in entry]
    fits = len(names) == len(value) and sum(map(len, names)) <= MAX_ENTRIES
    return (
        f"{'keys' if isinstance(value, Mapping) else 'entries'}: {', '.join(names)}"
        if fits
        else f"{len(value)} entries"
    )
