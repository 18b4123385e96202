"""All benchmarks: prints a table, writes it with its numbers, and puts it into a page of the documentation if asked
to.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

import lens_steer as ls
from analyses import tables
from lens_steer._io.atomic import whole_file
from lens_steer._io.tables import markdown
from lens_steer.geometry.calibration import versions
from tests.benchmarks import cases, merged_cases, reading_cases, real_cases, sweep_cases
from tests.benchmarks.timing import Ratio

PARTS = ("embedded", "real")


def measure(turns: int, parts: Sequence[str] = PARTS, *, small: bool = False) -> dict[str, Any]:
    """The cases of some parts, each with what it was measured on; ``small`` is a quick run through all of them, whose
    numbers mean nothing.
    """
    made = {"embedded": embedded, "real": real}
    return {part: made[part](turns, small=small) | _circumstances() for part in parts}


def _circumstances() -> dict[str, Any]:
    return {
        "versions": versions(),
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "command": "python -m " + " ".join(["tests.benchmarks", *sys.argv[1:]]),
    }


def embedded(turns: int, *, small: bool = False) -> dict[str, Any]:
    """The cases that every clone can run."""
    prompts = cases.prompts_of_refusal()
    few = prompts[:8] if small else prompts
    organism = ls.load_model("organism/qwen2")
    ratios: list[Ratio] = []
    with tempfile.TemporaryDirectory() as folder, tqdm(total=12, desc="benchmarks", leave=False) as bar:
        mid = ls.load_model(cases.mid_llama(Path(folder)))
        for name, model in (("organism/qwen2 (3 M)", organism), ("a random Llama (25 M)", mid)):
            calibration = ls.calibrate(ls.record(model, ls.load_contrast("organism/refusal"), progress=False))
            ratios += cases.calibration_throughput(name, model, few, turns)
            bar.update()
            ratios += cases.generation(name, model, calibration, few[:16], 4 if small else 48, turns)
            bar.update()
            ratios += merged_cases.merged_generation(name, model, calibration, few[:16], 4 if small else 48, turns)
            bar.update()
            ratios += sweep_cases.forced_sweep(name, model, calibration, few[:16], 4 if small else 36, turns)
            ratios += sweep_cases.generation_sweep(
                name, model, calibration, few[:16], 2 if small else 12, 4 if small else 48, turns
            )
            ratios += reading_cases.options(name, model, 6 if small else 48, turns)
            ratios += reading_cases.scores(name, model, calibration, few[:16], 4 if small else 48, turns)
            bar.update()
        for d_model in (64,) if small else (1536, 4096, 8192):
            ratios += cases.dense_rotation(d_model, 8 if small else 512, turns)
            bar.update()
        memory = cases.recording_memory(organism, cases.repeated(prompts, 256 if small else 32768))
        bar.update()
    seconds = statistics.median(cases.import_seconds(turns))
    return {"ratios": [asdict(r) for r in ratios], "memory": memory, "import_seconds": seconds}


def real(turns: int, *, small: bool = False) -> dict[str, Any]:
    """The part "0.5 B parameters", where the model is."""
    where = None if small else real_cases.folder()
    if where is None:
        why = "a quick run" if small else "LENS_STEER_REAL_MODELS names no folder with the model"
        return {"ratios": [], "skipped": why}
    found = real_cases.every(where, turns)
    return found | {"ratios": [asdict(r) for r in found["ratios"]]}


def table(found: dict[str, Any]) -> str:
    """One row a ratio."""
    rows = []
    here, real = found["embedded"], found["real"]
    for r in (*here["ratios"], *real["ratios"]):
        aim = "reported" if r["aim"] is None else f"≥ {r['aim']:g}"
        value = f"{r['median']:.2f} ({r['low']:.2f} … {r['high']:.2f})"
        missed = r["aim"] is not None and r["median"] < r["aim"]
        rows.append((r["case"], f"{r['of']}, against {r['to']}", aim, f"{'**missed:** ' if missed else ''}{value}"))
    if "dtypes" in real:
        d = real["dtypes"]
        same = f"same first choice {d['top_1_equal']:.1%}"
        told = (
            f"KL of the next token after {d['prompts']} prompts: mean {d['kl_mean']:.1e}, largest {d['kl_max']:.1e} "
            f"nats; {same}"
        )
        times = f"{d['seconds_float32'] / d['seconds_bfloat16']:.2f} times as fast"
        rows.append((f"bfloat16 for float32, {real_cases.NAME}", told, "reported", times))
    else:
        rows.append(("0.5 B parameters", f"skipped: {real['skipped']}", "", ""))
    memory, seconds = here["memory"], here["import_seconds"]
    missed = "**missed:** " if memory["ratio"] > memory["aim"] else ""
    returned = f"beyond the model, over the {memory['returned_mib']:.0f} MiB returned"
    rows.append(("peak memory of recording", returned, f"≤ {memory['aim']:g}", f"{missed}{memory['ratio']:.2f}"))
    missed = "**missed:** " if seconds > 0.3 else ""
    rows.append(("`import lens_steer`", "seconds", "≤ 0.3", f"{missed}{seconds:.3f}"))
    return markdown(("case", "ratio", "aim", "measured (lowest … highest of the turns)"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write benchmarks.md and benchmarks.json to")
    tables.add_page(parser)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(
        "--part", choices=PARTS, help="measure this part alone; the other is as benchmarks.json in the folder has it"
    )
    args = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    written = args.out / "benchmarks.json"
    kept = json.loads(written.read_text(encoding="utf-8")) if args.part else {}
    found = kept | measure(args.turns, PARTS if args.part is None else (args.part,))
    tables.write("benchmarks", table(found), args.out, args.page)
    with whole_file(written) as work:
        work.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(table(found))


if __name__ == "__main__":
    main()
