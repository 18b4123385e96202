"""Other estimators of the direction against the difference of class means: what they select, which plane they span, how
they part held-out prompts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lens_steer as ls
from analyses import tables
from analyses.common import Run, begin, parse
from lens_steer._io.atomic import whole_file
from lens_steer._io.tables import markdown
from lens_steer.errors import LensSteerError
from lens_steer.figures import directions, saving
from lens_steer.geometry.direction_comparison import compare_directions
from lens_steer.geometry.estimators import ESTIMATORS, check_classes

NAME = "directions"


def draw(run: Run, pages: Sequence[Path] = ()) -> None:
    """Write the figure, ``directions.json`` (a summary an estimator, a row an estimator and site) and the table
    ``directions.md``.

    An estimator that these prompts do not allow, such as one that pairs them where the classes differ in size, is left
    out and named.
    """
    fit = ls.record(run.model, run.contrast, run.calibration.sites)
    held_out = ls.record(run.model, run.contrast.report, run.calibration.sites)
    left_out = {name: why for name in ESTIMATORS if (why := _refusal(name, len(fit.positive), len(fit.negative)))}
    names = [name for name in ESTIMATORS if name not in left_out]
    compared = compare_directions(fit, names, held_out=held_out, rule=run.calibration.rule, seed=run.seed)
    saving.save(directions.drawing(compared), "direction_estimators", run.out, run.meta)
    summary = compared.summary()
    record = {"meta": run.meta, "left_out": left_out, "estimators": summary, "sites": compared.rows()}
    with whole_file(run.out / f"{NAME}.json") as work:
        work.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    tables.write(NAME, table(summary, compared.default.n_layers, len(compared.default.sites)), run.out, pages)


def table(summary: Sequence[dict[str, Any]], n_blocks: int, n_sites: int) -> str:
    """One row an estimator, in Markdown."""
    head = (
        "estimator", "selected site", f"L_disc: sites of {n_sites} (blocks of {n_blocks})", "Jaccard of L_disc",
        "principal angles of the planes", "median cosine", "median non-zero coordinates", "AUROC at the selected site",
        "mean AUROC", "first site apart",
    )  # fmt: skip
    rows = [
        (
            row["estimator"],
            _short(row["selected_site"]),
            f"{row['discriminative_sites']} ({row['discriminative_blocks']})",
            f"{row['jaccard']:.2f}",
            f"{row['first_angle']:.0f}°, {row['second_angle']:.0f}°",
            _value(row["median_cosine"]),
            f"{row['median_nonzero']:.0f}",
            f"{_value(row['auroc'])} [{_value(row['auroc_low'])}, {_value(row['auroc_high'])}]",
            _value(row["mean_auroc"]),
            _short(row["first_apart"]),
        )
        for row in summary
    ]
    return markdown(head, rows)


def _refusal(name: str, n_positive: int, n_negative: int) -> str | None:
    try:
        check_classes(name, n_positive, n_negative)
    except LensSteerError as error:
        return str(error)
    return None


def _short(site: str | None) -> str:
    return "—" if site is None else site.removeprefix("blocks.").removesuffix(".hook_out")


def _value(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    args = parse(__doc__, page=True)
    draw(begin(args), args.page)
