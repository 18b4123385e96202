"""The library speaks of arguments; only the command line speaks of options."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import lens_steer
from lens_steer.cli.app import app
from lens_steer.cli.wording import OPTIONS, as_options

OPTION = re.compile(r"--[a-z]")
ROOT = Path(lens_steer.__file__).parent


def told(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every string inside ``LensSteerError(…)`` and ``log.…(…)``, the parts of f-strings among
    them.
    """
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


def written(folder: Path) -> list[object]:
    """Options that name twelve prompts of each class."""
    found: list[object] = []
    for side in ("positive", "negative"):
        path = folder / f"{side}.txt"
        path.write_text("".join(f"{side} request number {i}\n" for i in range(12)))
        found += [f"--{side}", path]
    return found


@pytest.mark.parametrize("command", ["sweep", "report", "probe"])
def test_the_command_line_says_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, qwen: Any, command: str
) -> None:
    """The same hint, as it is typed."""
    from tests.test_cli import run

    files = written(tmp_path)
    code, _, err = run(monkeypatch, capsys, command, *files, "--split", "1,0,0", "--out", tmp_path / "out")
    assert code == 2, err
    assert "give a split, such as --split 0.5,0.25,0.25" in err.splitlines()[-1]
    assert "split=" not in err


def test_every_option_is_one() -> None:
    """What a message is told in is there to be given, in some command."""
    found = typer.main.get_command(app)
    commands: list[Any] = [found]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
    known = {name for command in commands for parameter in command.params for name in parameter.opts}
    assert set(OPTIONS.values()) <= known


def test_what_the_library_names_with_a_value_is_an_option() -> None:
    """Every message that begins with an argument that is an option too; those of arguments that are none stay as they
    are.
    """
    named, own = 0, re.compile(r"([A-Za-z_]+)=")
    for file in sorted(ROOT.rglob("*.py")):
        for _, text in told(file.read_text(encoding="utf-8")):
            if found := own.match(text):
                option, said = OPTIONS.get(found[1]), as_options(f"{text}3: no")
                named += option is not None
                assert said.startswith(
                    f"{found[1]}=" if option is None else f"{option} 3" if text == found[0] else option
                )
    assert named > 40


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "template_args: the chat template has no use for 'a' (=1): check the name",
            "--template-args: the chat template has no use for 'a' (=1): check the name",
        ),
        (
            "template_args and template_date are for a chat template, and the model has none: give chat_template",
            "--template-args and --template-date are for a chat template, and the model has none: give --chat-template",
        ),
        (
            "split=(0.5, 0.5, 0.0) gives select a share and select_positive its prompts",
            "--split 0.5,0.5,0.0 gives select a share and --select-positive its prompts",
        ),
        (
            "split=(0, 1, 0) has nothing to split: give positive and negative too",
            "--split 0,1,0 has nothing to split: give --positive and --negative too",
        ),
        ("positive is missing: a contrast needs prompts", "--positive is missing: a contrast needs prompts"),
        ("report_negative holds no prompts: a contrast", "--report-negative holds no prompts: a contrast"),
        ("limit='few': give a number, or 'N,first'", "--limit 'few': give a number, or 'N,first'"),
        ("say which holds the prompts (column)", "say which holds the prompts (--column)"),
        (
            "device_map leaves parts on disk: quantization='nf4'",
            "--device-map leaves parts on disk: --quantization 'nf4'",
        ),
        ("method 'act-add' needs coefficient: give it", "method 'act-add' needs --coefficient: give it"),
        ("give positive= and negative= files", "give --positive and --negative files"),
        ("C=-1: give a number above 0", "--C -1: give a number above 0"),
    ],
)
def test_arguments_by_their_options(said: str, told: str) -> None:
    assert as_options(said) == told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--template-date", "tomorrow"), "--template-date 'tomorrow': the chat template writes no date"),
        (("--template-args", '{"messages": 1}'), "--template-args: 'messages' is not the caller's to set"),
        (("--limit", "few"), "--limit 'few': give a number"),
        (("--column", "a", "--column", "b", "--column", "c"), "--column ['a', 'b', 'c']: give one name, or two"),
        (("--split", "0,1,0.5", "--select-positive", "{0}"), "--select-negative is missing"),
    ],
)
def test_commands_in_their_own_words(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: tuple[str, ...],
    told: str,
) -> None:
    """One line, that names what was typed."""
    from tests.test_cli import run

    files = written(tmp_path)
    given = [o.format(files[1]) if o == "{0}" else o for o in options]
    code, _, err = run(monkeypatch, capsys, "calibrate", *files, *given, "--out", tmp_path / "out")
    assert code == 2
    assert err.splitlines()[-1].startswith(f"lens-steer: {told}"), err


def test_other_words_stay() -> None:
    """Only arguments that are spelled out with a value are an option's."""
    assert as_options("the split is split: split") == "the split is split: split"
    assert (
        as_options("rename chat_template.jinja, give 'split' or model.device=3")
        == "rename chat_template.jinja, give 'split' or model.device=3"
    )
    assert as_options("the positive and negative classes, seed == 3") == "the positive and negative classes, seed == 3"
    assert as_options("backsplit=3, split=0.5,0.25") == "backsplit=3, --split 0.5,0.25"
