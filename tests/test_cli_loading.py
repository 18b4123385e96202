"""Commands that load a model have the same options for it, passed on as they were given."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

import lens_steer as ls
from lens_steer.cli import app as cli
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load
from tests.test_cli import run

OPTIONS = {
    "--dtype",
    "--device",
    "--device-map",
    "--n-devices",
    "--quantization",
    "--chat-template",
    "--template-args",
    "--template-date",
    "--adapter",
    "--revision",
}


def options(command: Any) -> set[str]:
    return {name for p in command.params for name in p.opts if name.startswith("--")}


def test_every_command_with_a_model_has_them() -> None:
    """All of them or, where no model is loaded, none; and each option once."""
    found: Any = typer.main.get_command(cli.app)
    commands = {n: c for n, c in found.commands.items() if not hasattr(c, "commands")} | dict(
        found.commands["export"].commands
    )
    with_model = {name for name, c in commands.items() if "--model" in options(c)}
    no_weights = {"plan-resources", "sites", "tokens"}
    assert {name for name, c in commands.items() if options(c) >= OPTIONS} == with_model - no_weights
    assert all(options(commands[name]) >= {o for o in OPTIONS if "template" in o} for name in no_weights - {"sites"})
    assert len(with_model) > 10
    for command in commands.values():
        names = [name for p in command.params for name in p.opts]
        assert len(names) == len(set(names))


def test_load_gets_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command of its own parameters and ``load``: what is left out has its default, every field is passed on."""
    seen: dict[str, Any] = {}

    def described(name: str, **given: Any) -> tuple[str, str]:
        seen.update(given, name=name)
        return "told", "config"

    def loaded(told: str, config: str, **given: Any) -> Any:
        assert (told, config) == ("told", "config")
        assert not set(given) & set(seen)
        seen.update(given)
        return type("Model", (), {"lens_info": "told"})()

    monkeypatch.setattr("lens_steer.models.info.read_info", described)
    monkeypatch.setattr("lens_steer.models.loading.load_described", loaded)

    @grouped
    def command(load: Load, number: int = 1) -> None:
        seen["number"] = number
        load("somewhere")

    command(
        **{f.name: f.default for f in fields(Load)}
        | {"dtype": "bfloat16", "device_map": "auto", "template_args": '{"a": 1}'},
        number=3,
    )
    assert seen == {
        "name": "somewhere",
        "number": 3,
        "dtype": "bfloat16",
        "device": None,
        "device_map": "auto",
        "n_devices": 1,
        "quantization": None,
        "chat_template": None,
        "template_args": {"a": 1},
        "template_date": None,
        "adapter": None,
        "revision": None,
    }


def test_what_was_read_for_the_check_is_not_read_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The tokenizer is read once by a command that checks a model before it loads it, and the answers are the same as
    without the check; every model that is loaded has a tokenizer of its own.
    """
    from transformers import AutoTokenizer

    read: list[Any] = []
    original = AutoTokenizer.from_pretrained

    def counted(*args: Any, **options: Any) -> Any:
        read.append(args)
        return original(*args, **options)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", counted)
    (tmp_path / "p.txt").write_text("What is 4 plus 3?\n", encoding="utf-8")
    options = ("--method", "none", "--prompts", tmp_path / "p.txt", "--max-new-tokens", 4)
    code, _, error = run(
        monkeypatch, capsys, "steer", "--model", "organism/llama", *options, "--out", tmp_path / "o.jsonl"
    )
    assert code == 0, error
    assert len(read) == 1
    texts = [json.loads(line)["text"] for line in (tmp_path / "o.jsonl").read_text(encoding="utf-8").splitlines()]
    load = Load()
    loaded = load("organism/llama")
    assert ls.generate(loaded, ["What is 4 plus 3?"], max_new_tokens=4) == texts
    told = load.check("organism/llama")
    first, second = load("organism/llama"), load("organism/llama")
    assert first.lens_info.tokenizer is told.lens_info.tokenizer
    assert len({id(model.lens_info.tokenizer) for model in (loaded, first, second)}) == 3
    assert len(read) == 4
