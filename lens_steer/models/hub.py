"""Whether the Hugging Face hub is to be asked: its client tries for almost a minute where there is no network."""

from __future__ import annotations

import socket
from functools import cache
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies

SECONDS = 4.0  # for a connection, names looked up included


def only_here(folder: str | Path) -> bool:
    """Whether a model's files are looked for on this machine alone: a folder, and whatever is asked for where the hub
    is not to be had.

    >>> only_here(Path(__file__).parent)
    True
    """
    return Path(folder).is_dir() or why_not() is not None


def why_not() -> str | None:
    """Why the hub is not asked; None where it is. Looked at once a process, for a few seconds at most."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    address = urlsplit(constants.ENDPOINT)
    host, port = address.hostname or "", address.port or (80 if address.scheme == "http" else 443)
    if address.scheme in getproxies() or answers(host, port):  # behind a proxy the client knows better
        return None
    return f"{host} cannot be reached"


@cache
def answers(host: str, port: int, seconds: float = SECONDS) -> bool:
    """Whether a host takes a connection within so many seconds; a name server that is silent counts as a no.

    >>> answers("127.0.0.1", 1)
    False
    """
    found: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            found.append(True)
        except OSError:
            found.append(False)

    attempt = Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(seconds)
    return found == [True]
