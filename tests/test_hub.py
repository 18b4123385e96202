"""A hub name where there is no network ends in seconds, with one line."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lens_steer.errors import LensSteerError
from lens_steer.models import hub
from lens_steer.models.location import read_config

NAME = "somebody/NoSuchModel"
SCRIPT = """
import sys, time
import torch, transformers, huggingface_hub
from lens_steer.cli import main
sys.argv = ["lens-steer", "calibrate", "--model", sys.argv[1], "--out", sys.argv[2]]
start = time.monotonic()
try:
    main()
finally:
    print(time.monotonic() - start)
"""


@pytest.fixture(autouse=True)
def forgotten() -> None:
    hub.answers.cache_clear()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_command_without_a_network(tmp_path: Path) -> None:
    """In a process of its own: 20 s are generous (a few are measured, and it was 50 before), after the imports, on a
    busy machine.
    """
    there = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment = there | {
        "HF_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
    }
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, NAME, str(tmp_path / "out")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2, ran.stderr
    assert float(ran.stdout) < 20
    *before, line = ran.stderr.strip().splitlines()
    assert not any(told.startswith("lens-steer:") for told in before)  # what was read, and nothing of the hub's client
    assert len(before) < 5
    assert line.startswith(f"lens-steer: model '{NAME}' is neither an embedded model")
    assert line.endswith(
        "127.0.0.1 cannot be reached, and it is not in the cache; give the folder of a copy, or fetch it"
    )


def test_offline_is_obeyed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody is asked, not even whether there is a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "answers", None)
    assert hub.only_here(NAME)
    with pytest.raises(LensSteerError, match="HF_HUB_OFFLINE is set, and it is not in the cache"):
        read_config(NAME, NAME)


def test_a_cached_model_is_found_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the hub's client lays it down."""
    from huggingface_hub import constants

    commit = "0" * 40
    folder = tmp_path / "models--somebody--Model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "snapshots" / commit / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64}))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert read_config("somebody/Model", "somebody/Model").hidden_size == 64


def test_what_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that takes connections does, one that is silent does not and is waited for no longer than said; a proxy is
    left to the client.
    """
    from huggingface_hub import constants

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert hub.answers("127.0.0.1", server.getsockname()[1])

    def silent(*args: Any, **kwargs: Any) -> Any:
        time.sleep(5)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", silent)
    start = time.monotonic()
    assert not hub.answers("somewhere.invalid", 443, 0.1)
    assert time.monotonic() - start < 4
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy", "http": "http://proxy"})
    assert hub.why_not() is None
