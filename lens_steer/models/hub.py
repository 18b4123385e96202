"""The availability of the Hugging Face hub.

Without a network the client of the hub tries to connect for almost a minute, so the connection is tested first.
"""

from __future__ import annotations

import socket
from functools import cache
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies

SECONDS = 4.0  # The timeout of a connection, including the name lookup.


def only_here(folder: str | Path) -> bool:
    """Return True if the files of a model are only searched on this machine.

    This is the case for a folder, and for every name if the hub cannot be asked.

    >>> only_here(Path(__file__).parent)
    True
    """
    return Path(folder).is_dir() or why_not() is not None


def why_not() -> str | None:
    """Return the reason why the hub is not asked; None if it is asked.

    The connection is tested once per process, for a few seconds at most.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    address = urlsplit(constants.ENDPOINT)
    host, port = address.hostname or "", address.port or (80 if address.scheme == "http" else 443)
    # Behind a proxy a direct connection says nothing, so the client of the hub decides.
    if address.scheme in getproxies() or answers(host, port):
        return None
    return f"{host} cannot be reached"


@cache
def answers(host: str, port: int, seconds: float = SECONDS) -> bool:
    """Return True if a host accepts a connection within ``seconds``; a name server that does not reply counts as False.

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
