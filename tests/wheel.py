"""What a wheel must be: complete, nothing else in it, and able to work where no checkout is.

``python -m tests.wheel WHEEL BIN``: BIN is the ``bin`` folder of a bare virtual environment with that wheel in it.
Needs the standard library alone.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lens_steer"
MAX_MIB = 20.0  # three organisms in float16 are 16.8 MiB
MAX_IMPORT = 0.3  # seconds, the best of five
DATA = ("py.typed", "*.pyi", "*.mplstyle", "organisms/weights/*/*")
PROMPTS = """
import lens_steer as ls
found = ls.load_contrast("organism/refusal").fit
for side in ("positive", "negative"):
    with open(f"{side}.txt", "w") as stream:
        stream.writelines(p.text + "\\n" for p in getattr(found, side)[:16])
"""
IMPORT = (
    "import time; start = time.perf_counter(); import lens_steer; print(time.perf_counter() - start, "
    "lens_steer.__file__)"
)


def expected(package: Path = PACKAGE) -> set[str]:
    """The package files that a wheel holds: every module, the stub, the style, the typing mark and the weights."""
    found = [
        path for pattern in ("**/*.py", *DATA) for path in package.glob(pattern if "/" in pattern else f"**/{pattern}")
    ]
    return {path.relative_to(package.parent).as_posix() for path in found if path.is_file()}


def complaints(names: Iterable[str], mib: float, wanted: set[str]) -> list[str]:
    """What is wrong with a wheel of these files and this size; empty where nothing is.

    >>> complaints(
    ...     ["lens_steer/a.py", "tests/b.py", "lens_steer-0.1.dist-info/RECORD"],
    ...     1.0,
    ...     {"lens_steer/a.py", "lens_steer/py.typed"},
    ... )
    ['lens_steer/py.typed is missing', 'tests/b.py does not belong in it']
    """
    held = {name for name in names if ".dist-info/" not in name}
    return [
        *(f"{name} is missing" for name in sorted(wanted - held)),
        *(f"{name} does not belong in it" for name in sorted(held - wanted)),
        *([f"it has {mib:.1f} MiB, more than {MAX_MIB:g}"] if mib > MAX_MIB else []),
    ]


def run(*command: object, folder: Path) -> str:
    """A command's output, run offline in a folder outside of the checkout, with nothing of this one's Python in its
    way.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    settings = {**kept, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=settings, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def check_installed(binaries: Path) -> float:
    """Requirements, import, help and a small report, in an environment with the wheel; returns the seconds of an
    import.
    """
    python, command = binaries / "python", binaries / "lens-steer"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        run(python, "-m", "pip", "check", folder=folder)
        imports = [run(python, "-c", IMPORT, folder=folder).split() for _ in range(5)]
        seconds = min(float(taken) for taken, _ in imports)
        if (
            ROOT.resolve() in Path(imports[0][1]).resolve().parents
            and binaries.parent.resolve() not in Path(imports[0][1]).parents
        ):
            raise SystemExit(f"lens_steer was imported from the checkout ({imports[0][1]}), not from the wheel")
        if seconds > MAX_IMPORT:
            raise SystemExit(f"import lens_steer takes {seconds:.2f} s, more than {MAX_IMPORT} s")
        if "report" not in run(command, "--help", folder=folder):
            raise SystemExit("lens-steer --help does not name the commands")
        run(python, "-c", PROMPTS, folder=folder)
        files = ("--positive", "positive.txt", "--negative", "negative.txt", "--split", "0.5,0.25,0.25")
        told = run(command, "report", *files, "--engine", "hf", "--max-new-tokens", 4, "--out", "out", folder=folder)
        report = Path(folder / json.loads(told)["report"])
        if (
            "organism/qwen2" not in report.read_text(encoding="utf-8")
            or not (folder / "out" / "outcomes_by_angle.pdf").exists()
        ):
            raise SystemExit("the report names no model or has no figure")
    return seconds


def main(wheel: Path, binaries: Path) -> None:
    """Check a wheel and the environment it was installed in."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    mib = wheel.stat().st_size / 2**20
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    if wrong := complaints(names, mib, expected()):
        raise SystemExit(f"{wheel.name}:\n" + "\n".join(wrong))
    seconds = check_installed(binaries.absolute())
    logging.getLogger(__name__).info(
        "%s: %d files, %.1f MiB, imported in %.3f s; the report runs", wheel.name, len(names), mib, seconds
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
