"""The checks and timings on a GPU: prints a table, writes it with its numbers, and names the card."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from analyses import tables
from lens_steer._io.atomic import whole_file
from lens_steer._io.tables import markdown
from lens_steer.geometry.calibration import versions
from tests.gpu import cases
from tests.gpu.cases import Row

NOT_RUN = "not run"
PLANNED = (
    "norm outputs in float32, float16 and bfloat16, from float32's",
    "steered answers, hf against tl, in each dtype",
    "norms under selective steering, in each dtype",
    "n_devices=2, answers as on one device",
    "recording at all norm outputs, against a bare forward, random Llama of about 1 B, bfloat16",
    "generation steered at all norm outputs, against plain generate, the same model",
    "sweep of 12 angles, vLLM against hf",
)


def measure(device: str, *, small: bool, turns: int) -> Iterator[Row]:
    """All rows, in order; one that fails with an error says which, and the others are run."""
    with tempfile.TemporaryDirectory() as name:
        folder = cases.large_folder(Path(name) / "model", small=small)
        for part in (
            lambda: cases.half_precision(device, small=small),
            lambda: cases.several_devices(device),
            lambda: cases.at_size(device, folder, small=small, turns=turns),
            lambda: cases.bank_in_vllm(device, folder, small=small),
        ):
            begun = time.perf_counter()
            try:
                yield from part()
            except Exception as error:
                yield Row("error", f"{type(error).__name__}: {error}", "none", False)
            sys.stderr.write(f"{time.perf_counter() - begun:.0f} s\n")


def table(rows: list[Row]) -> str:
    kept = {True: "yes", False: "**no**", None: ""}
    return markdown(("what", "value", "bound", "kept"), [(r.what, r.value, r.bound, kept[r.passed]) for r in rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.md and gpu.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes: whether the script runs, no more")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--not-run", action="store_true", help="write the table of what would be run")
    tables.add_page(parser)
    args = parser.parse_args()
    if args.not_run:
        rows, card = [Row(what, NOT_RUN) for what in PLANNED], NOT_RUN
    else:
        if args.device.startswith("cuda") and not torch.cuda.is_available():
            sys.stderr.write("no CUDA device here: give --device, or --not-run for the table of what would be run\n")
            return 2
        card = torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.processor() or "CPU"
        rows = list(measure(args.device, small=args.small, turns=args.turns))
    text = f"On: {card}\n\n{table(rows)}"
    record = {"card": card, "versions": versions(), "rows": [asdict(r) for r in rows]}
    tables.write("gpu", text, args.out, args.page)
    with whole_file(args.out / "gpu.json") as work:
        work.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(text)
    return 1 if any(r.passed is False for r in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
