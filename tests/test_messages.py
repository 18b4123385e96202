"""The library speaks of arguments; only the command line speaks of options."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lens_steer
from lens_steer.cli.wording import as_options

OPTION = re.compile(r"--[a-z]")
ROOT = Path(lens_steer.__file__).parent


def told(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every string inside ``LensSteerError(…)`` and ``log.…(…)``, the parts of f-strings among them."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name == "LensSteerError" or name.startswith("log."):
            for part in (p for argument in node.args for p in ast.walk(argument)):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.lineno, part.value


def test_messages_of_the_library_name_arguments() -> None:
    """None names an option, except where it quotes a whole command."""
    checked, wrong = 0, []
    for file in sorted(ROOT.rglob("*.py")):
        if file.is_relative_to(ROOT / "cli"):
            continue
        for line, text in told(file.read_text(encoding="utf-8")):
            checked += 1
            if OPTION.search(text) and "lens-steer " not in text:
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {text}")
    assert not wrong
    assert checked > 400


def test_the_search_finds_what_it_looks_for() -> None:
    """Plain strings, f-strings, several lines, warnings."""
    source = 'raise LensSteerError(f"a {b}: give " "--split")\nlog.warning("such as %s --out", 3)\nprint("--free")\n'
    assert sorted(text for _, text in told(source) if OPTION.search(text)) == [": give --split", "such as %s --out"]


@pytest.mark.parametrize("command", ["sweep", "report", "probe"])
def test_the_command_line_says_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, qwen: Any, command: str
) -> None:
    """The same hint, as it is typed."""
    from tests.test_cli import run

    files = []
    for side in ("positive", "negative"):
        path = tmp_path / f"{side}.txt"
        path.write_text("".join(f"{side} request number {i}\n" for i in range(12)))
        files += [f"--{side}", path]
    code, _, err = run(monkeypatch, capsys, command, *files, "--split", "1,0,0", "--out", tmp_path / "out")
    assert code == 2, err
    assert "give a split, such as --split 0.5,0.25,0.25" in err.splitlines()[-1]
    assert "split=" not in err


def test_other_words_stay() -> None:
    """Only arguments that are spelled out with a value are an option's."""
    assert as_options("the split is split: split") == "the split is split: split"
    assert as_options("backsplit=3, split=0.5,0.25") == "backsplit=3, --split 0.5,0.25"
