"""A JupyterLab of the test's own in a headless Chromium: nothing of the user's is read or written."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
PACKAGES = ("jupyterlab", "playwright", "nbformat", "ipywidgets", "ipykernel")
MISSING = [name for name in PACKAGES if find_spec(name) is None] + ([] if CHROMIUM else ["chromium"])
START, RUN = 120, 120  # seconds, for a server and for a cell
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
PLACES = (
    "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTERLAB_WORKSPACES_DIR",
    "JUPYTERLAB_SETTINGS_DIR",
)  # fmt: skip


@contextmanager
def lab(folder: Path, cells: list[str], *, dark: bool = False) -> Iterator[Any]:
    """A page that shows a notebook of some cells, in a JupyterLab that serves ``folder``; see :func:`run_all`."""
    served, own = folder / "served", folder / "own"
    served.mkdir(parents=True)
    nbformat = import_module("nbformat")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata=KERNEL)
    nbformat.write(book, served / "book.ipynb")
    settings = own / "jupyterlab_settings_dir" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    chosen = {
        "themes": {"theme": f"JupyterLab {'Dark' if dark else 'Light'}"},
        "notification": {"fetchNews": "false", "checkForUpdates": False},
    }
    for name, value in chosen.items():
        (settings / f"{name}.jupyterlab-settings").write_text(json.dumps(value), encoding="utf-8")
    with _server(served, own) as (address, token), import_module("playwright.sync_api").sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 1000}, color_scheme="dark" if dark else "light")
        page.goto(f"{address}/doc/tree/book.ipynb?token={token}", timeout=1000 * START)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=1000 * START)
        page.wait_for_selector("text=| Idle", timeout=1000 * START)  # what is run before the kernel is there is lost
        yield page
        browser.close()


def run_all(page: Any) -> None:
    """Run every cell, one after the other; returns when the last one is done."""
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    cells.first.locator(".cm-content").click()
    for i in range(cells.count()):
        page.keyboard.press("Shift+Enter")
        done = (
            "i => /\\d/.test(document.querySelectorAll('.jp-Notebook "
            ".jp-CodeCell')[i].querySelector('.jp-InputPrompt').textContent)"
        )
        page.wait_for_function(done, arg=i, timeout=1000 * RUN)


@contextmanager
def _server(served: Path, own: Path) -> Iterator[tuple[str, str]]:
    """Address and token of a JupyterLab that ends with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token, log = secrets.token_hex(16), own / "server.log"
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    environment |= {name: str(own / name.lower()) for name in PLACES}
    environment |= {
        "JUPYTER_TOKEN": token,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    options = ["--no-browser", "--ip=127.0.0.1", f"--port={port}", f"--ServerApp.root_dir={served}", "--allow-root"]
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=environment, stdout=stream, stderr=stream
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, log)
        yield f"http://127.0.0.1:{port}", token
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(errors='replace')[-2000:]}")
