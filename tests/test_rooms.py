"""The house: few files at its root, and every room says what the others use of it."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import lens_steer as ls

PACKAGE = Path(ls.__file__).parent
SOURCES = {
    ".".join(["lens_steer", *p.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): p
    for p in PACKAGE.rglob("*.py")
}
LISTED = {room for room, path in SOURCES.items() if room.count(".") == 1 and "What other rooms use" in path.read_text()}


def used_of(room: str) -> set[tuple[str, str]]:
    """Functions and classes of a room that other rooms import, with the module that defines them."""
    found = set()
    for module, path in SOURCES.items():
        if module == room or module.startswith(f"{room}."):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{room}."):
                names = {a.name for a in node.names if f"{node.module}.{a.name}" not in SOURCES}
                inside = str(node.module).removeprefix(room).lstrip(".")
                found |= {(inside, n) for n in names if inside and not n.isupper() and not n.startswith("_")}
    return found


def told_of(room: str) -> set[tuple[str, str]]:
    doc = ast.get_docstring(ast.parse(SOURCES[room].read_text(encoding="utf-8"))) or ""
    items = re.findall(r"^- ``([\w.]+)``: ((?:``\w+``(?:,\s+)?)+)", doc, flags=re.M)
    return {(module, name) for module, names in items for name in re.findall(r"``(\w+)``", names)}


def test_the_root_is_small() -> None:
    """A newcomer sees rooms: at most eight files beside them."""
    files = [p.name for p in PACKAGE.iterdir() if p.is_file()]
    assert len(files) <= 8, files
    assert len(ls.__all__) < 60


@pytest.mark.parametrize("room", sorted(LISTED))
def test_a_room_names_what_others_use_of_it(room: str) -> None:
    """Nothing that is used is missing, and nothing is named that is not there."""
    told = told_of(room)
    assert used_of(room) - told == set()
    assert [name for module, name in told if not hasattr(import_module(f"{room}.{module}"), name)] == []


def test_most_rooms_do() -> None:
    assert len(LISTED) >= 14
