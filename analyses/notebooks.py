"""The notebooks run anew: every ``notebooks/NAME.py`` is a source (jupytext's percent format), ``NAME.ipynb`` the same
with the outputs of a run.

``python -m analyses.notebooks [NAME …]`` runs them and writes the outputs; ``--check`` runs nothing and says which
committed notebook is not what its source says. What differs from run to run and from machine to machine (times, ids,
versions, widgets, bars and notices on the error stream) is left out, so that a run which finds the same writes the same
bytes.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_steer.errors import LensSteerError

FOLDER = Path(__file__).parent.parent / "notebooks"
METADATA: dict[str, Any] = {
    "jupytext": {"formats": "ipynb,py:percent"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
WIDGET = "application/vnd.jupyter.widget-view+json"
LIVE = "(a widget: it is live while the notebook runs)"
LONGEST = 900  # seconds a cell may take
CLOCK = "import time as _time; _time.process_time()"
# one thread a notebook, so that sums come out the same everywhere; no network; figures as the notebook shows them,
# whatever the caller draws with
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A notebook that was run.

    Attributes:
        notebook: with its outputs.
        seconds: of processor time, the kernel's start included.
    """

    notebook: Any
    seconds: float


def sources(names: Sequence[str] = (), folder: Path = FOLDER) -> list[Path]:
    """The sources, all or those whose names begin so.

    >>> [p.stem for p in sources(["01"])]
    ['01_first_steps']

    Raises:
        LensSteerError: a name that no source has.
    """
    found = sorted(folder.glob("[0-9]*.py"))
    for name in names:
        if not any(p.stem.startswith(name) for p in found):
            raise LensSteerError(f"notebook {name!r} does not exist: there are {', '.join(p.stem for p in found)}")
    return [p for p in found if not names or any(p.stem.startswith(n) for n in names)]


def read(source: Path) -> Any:
    """A source as a notebook without outputs; a cell's id is made from its text."""
    import jupytext

    notebook = jupytext.read(source)
    notebook.metadata = _copy(METADATA)
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        text = f"{cell.cell_type}\n{cell.source}"
        cell["id"] = hashlib.sha256(f"{text}\n{seen[text]}".encode()).hexdigest()[:8]
        cell["metadata"] = {}
        seen[text] += 1
    return notebook


def execute(source: Path) -> Run:
    """Run a source in a kernel of its own, in the notebooks' folder.

    Raises:
        CellExecutionError: a cell that raises.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = read(source)
    notebook.cells.append(nbformat.v4.new_code_cell(CLOCK))
    client = NotebookClient(
        notebook,
        timeout=LONGEST,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--log-level=40"],
        resources={"metadata": {"path": str(source.parent)}},
    )
    client.execute(env={**os.environ, **ENVIRONMENT})
    clock = notebook.cells.pop()
    return Run(plain(notebook), float(clock.outputs[0]["data"]["text/plain"]))


def plain(notebook: Any) -> Any:
    """A notebook without what varies: execution metadata, times, versions, the state of widgets, the error stream;
    cells count from 1.
    """
    notebook = _copy(notebook)
    notebook.metadata = _copy(METADATA)
    number = 0
    for cell in notebook.cells:
        cell["metadata"] = {}
        if cell.cell_type != "code":
            continue
        number += 1
        cell["execution_count"] = number
        cell["outputs"] = _in_order(
            [_plain_output(output, number) for output in cell.outputs if output.get("name") != "stderr"]
        )
    return notebook


def _plain_output(output: Any, number: int) -> Any:
    if "execution_count" in output:
        output["execution_count"] = number
    if WIDGET in output.get("data", {}):
        output["data"] = {"text/plain": LIVE}
    if "image/png" in output.get("data", {}):
        output["data"]["image/png"] = _small(output["data"]["image/png"])
    if "metadata" in output:
        output["metadata"] = {}
    return output


def _small(picture: str) -> str:
    """A picture with a palette of 256 colours, and nothing beside it that names a version; a third of its bytes. What
    is small stays as it is.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    if image.mode == "P":
        return picture
    with io.BytesIO() as stream:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(stream, format="png", optimize=True)
        return base64.b64encode(stream.getvalue()).decode() + "\n"


def _in_order(outputs: list[Any]) -> list[Any]:
    """What a cell prints as one text before everything else: in what pieces it comes, and between what, is chance."""
    said = [output for output in outputs if output.output_type == "stream"]
    for more in said[1:]:
        said[0]["text"] += more["text"]
    return [*said[:1], *(output for output in outputs if output.output_type != "stream")]


def faults(source: Path) -> list[str]:
    """What is wrong with the committed notebook of a source: cells that are not the source's, outputs that are missing,
    failed, or name this machine.
    """
    import nbformat

    path = source.with_suffix(".ipynb")
    if not path.is_file():
        return [f"{path.name} does not exist"]
    notebook, wanted = nbformat.read(path, as_version=4), read(source)
    if [(c.cell_type, c.source, c.id) for c in notebook.cells] != [(c.cell_type, c.source, c.id) for c in wanted.cells]:
        return [f"{path.name} holds other cells than {source.name}"]
    found = []
    if notebook != plain(notebook):
        found.append(f"{path.name} holds what varies from run to run, or cells that were run in another order")
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), start=1):
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"{path.name}, code cell {number}: {output.evalue!r}")
            found += [
                f"{path.name}, code cell {number} names a place of the machine: {where!r}" for where in places(output)
            ]
    return found


def places(output: Any) -> list[str]:
    """Absolute paths in an output's text; pictures are passed over.

    >>> places({"text": "written to /home/me/out, 3 of 4"})
    ['/home/me/out']
    """
    texts = [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if not k.startswith("image/"))]
    homes = "|".join(
        map(re.escape, {"/home", "/root", "/Users", "/tmp", "/var", tempfile.gettempdir(), str(FOLDER.parent)})
    )
    return [found for text in texts for found in re.findall(rf"(?:{homes})/[\w./-]*\w", str(text))]


def write(source: Path) -> float:
    """Run a source and write its notebook; returns seconds of processor time."""
    import nbformat

    run = execute(source)
    path = source.with_suffix(".ipynb")
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as stream:
        nbformat.write(run.notebook, stream)
    Path(stream.name).chmod(0o644)
    Path(stream.name).replace(path)
    return run.seconds


def _copy(value: Any) -> Any:
    import nbformat

    return nbformat.from_dict(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0, or 1 where something is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m analyses.notebooks", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("names", nargs="*", help="such as 02, or all")
    parser.add_argument(
        "--check", action="store_true", help="run nothing; say which committed notebooks are not what their sources say"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="notebooks at a time, one core each")
    args = parser.parse_args(arguments)
    chosen, total = sources(args.names), 0.0
    if not args.check:
        with ThreadPoolExecutor(max(1, args.jobs)) as pool:
            for source, seconds in zip(chosen, pool.map(write, chosen), strict=True):
                sys.stdout.write(f"{source.stem}: {seconds:.0f} s of processor time\n")
                total += seconds
        sys.stdout.write(f"all: {total:.0f} s\n")
    wrong = [fault for source in chosen for fault in faults(source)]
    sys.stderr.writelines(f"{fault}\n" for fault in wrong)
    if args.check and wrong:
        sys.stderr.write("make notebooks writes them anew\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
