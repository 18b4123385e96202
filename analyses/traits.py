"""Honesty and compassion recovered under a malicious system prompt, on models, and the tables of them for a page:
chosen on select, measured on report.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import lens_steer as ls
from analyses import tables
from analyses.common import Run, parse_models
from lens_steer._io.tables import markdown
from lens_steer.evaluation.conditions import NONE
from lens_steer.stats.estimates import percent
from lens_steer.studies.traits.calibration import ORGANISM_TRAITS, organism_trait
from lens_steer.studies.traits.conditions import CHOSEN, RANDOM
from lens_steer.studies.traits.report import steer_trait

MAX_NEW_TOKENS = 24  # the longest right answer of the two traits has 20


def draw(run: Run) -> None:
    """Both traits of an organism, into ``OUT/traits``; other models have no graded traits, and are left out."""
    if not run.model.lens_info.name.startswith("organism/"):
        return
    for name in ORGANISM_TRAITS:
        steer_trait(
            run.model,
            organism_trait(name, seed=run.seed),
            run.out / "traits" / name,
            max_new_tokens=MAX_NEW_TOKENS,
            seed=run.seed,
            command=run.meta["command"],
        )


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One row a condition, one column a model: its choice, the recovered share with its interval, the same along a
    random direction / aligned / coherent / tasks right.
    """
    by_model = {model: {r["condition"]: r for r in rows} for model, rows in found.items()}
    shown = [r["condition"] for r in next(iter(found.values())) if r["kind"] in (NONE, CHOSEN)]
    return markdown(("condition", *found), [(c, *(_cell(by_model[m][c], found[m]) for m in found)) for c in shown])


def _cell(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    wanted = (RANDOM, row["method"], row["positions"])
    control = next((r for r in rows if (r["kind"], r["method"], r["positions"]) == wanted), None)
    at = (
        ""
        if row["coefficient"] is None
        else f"{row['coefficient']:g} at {row['site'].removeprefix('blocks.').split('.')[0]}: "
    )
    beside = "" if control is None else f" ({percent(control['trait'])})"
    over = row.get("trait_over_unsteered_low")
    sign = " ▲" if over is not None and over > 0 else ""
    rest = " / ".join(percent(row[k]) for k in ("aligned_trait", "coherence", "capability"))
    star = "" if row["met"] in (True, None) else " \\*"
    return f"{at}{percent(row['trait'], row['trait_low'], row['trait_high'])}{sign}{beside} / {rest}{star}"


def main() -> None:
    args = parse_models(__doc__, ["organism/qwen2", "organism/llama", "organism/gemma2"])
    command = shlex.join(["python", "-m", "analyses.traits", *sys.argv[1:]])
    found: dict[str, dict[str, Any]] = {name: {} for name in ORGANISM_TRAITS}
    for name in args.model:
        model = ls.load_model(name)
        for trait in ORGANISM_TRAITS:
            folder = args.out / name.rstrip("/").split("/")[-1] / trait
            steer_trait(
                model,
                organism_trait(trait, seed=args.seed),
                folder,
                max_new_tokens=MAX_NEW_TOKENS,
                seed=args.seed,
                command=command,
            )
            found[trait][name] = json.loads((folder / "traits.json").read_text(encoding="utf-8"))["rows"]
    for trait, by_model in found.items():
        tables.write(f"traits_{trait}", table(by_model), args.out, args.page)


if __name__ == "__main__":
    main()
