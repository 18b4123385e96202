"""Commands that load a model have the same options for it, passed on as they were given."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import typer

from lens_steer.cli import app as cli
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load

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
    no_weights = {"plan-resources", "tokens"}
    assert {name for name, c in commands.items() if options(c) >= OPTIONS} == with_model - no_weights
    assert all(options(commands[name]) >= {o for o in OPTIONS if "template" in o} for name in no_weights)
    assert len(with_model) > 10
    for command in commands.values():
        names = [name for p in command.params for name in p.opts]
        assert len(names) == len(set(names))


def test_load_gets_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command of its own parameters and ``load``: what is left out has its default, every field is passed on."""
    seen: dict[str, Any] = {}

    def loaded(name: str, **given: Any) -> Any:
        seen.update(given, name=name)
        return type("Model", (), {"lens_info": "told"})()

    monkeypatch.setattr("lens_steer.models.loading.load_model", loaded)

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
