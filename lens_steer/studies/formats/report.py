"""The files of the study: numbers, claims, the table and the figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lens_steer._io.atomic import whole_folder
from lens_steer._io.tables import markdown
from lens_steer.data import Contrast
from lens_steer.evaluation.pieces import drop
from lens_steer.evaluation.provenance import provenance
from lens_steer.figures import saving
from lens_steer.studies import claim_tables
from lens_steer.studies.claim import Claim
from lens_steer.studies.formats.claims import claims
from lens_steer.studies.formats.drawings import drawings, format_rows
from lens_steer.studies.formats.study import STEPS, Formats, formats
from lens_steer.studies.formats.wording import Format

HEADS = (
    "format", "kind", "site", "sites of L_disc", "cosine, same prompts", "other prompts", "Jaccard, same prompts",
    "other prompts", "by chance", "area on the own format's direction", "on this format's",
)  # fmt: skip


def formats_and_write(
    model: Any,
    contrast: Contrast,
    others: Sequence[Format],
    out: str | Path,
    *,
    command: str = "",
    seed: int = 0,
    **options: Any,
) -> tuple[Formats, list[Claim]]:
    """Run :func:`lens_steer.studies.formats.study.formats` and write all results to a folder.

    An interrupted run goes on. The files are ``formats.json`` (every number, and the formats), ``formats.md``,
    ``claims.tex`` and the figure.

    Args:
        model, contrast, others, seed, options: See :func:`lens_steer.studies.formats.study.formats`.
        out: The folder.
        command: The command line, stored with the numbers.
    """
    found = formats(model, contrast, others, seed=seed, folder=out, **options)
    decided = claims(found)
    meta = provenance(model, command=command, seed=seed, prompt_hashes={"fit": contrast.hash})
    record = {
        "meta": meta,
        "formats": [{"name": of.name, "system": of.system, "template": of.template} for of in others],
        "draws": len(found.own.area),
        "halves": list(found.halves),
        "held_out": found.held_out,
        "rows": format_rows(found),
        "claims": [c.row() for c in decided],
    }
    with whole_folder(out) as work:
        (work / "formats.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (work / "formats.md").write_text(text(found, decided), encoding="utf-8")
        (work / "claims.tex").write_text(claim_tables.latex(decided), encoding="utf-8")
        for name, drawing in drawings(found).items():
            saving.save(drawing, name, work, meta)
    drop(out, STEPS)
    return found, decided


def text(found: Formats, decided: list[Claim]) -> str:
    """Return the page of the study: the table and the claims."""
    return (
        f"# Does a direction depend on the format of the prompts? `{found.model}`\n\n"
        f"{len(found.own.area)} times the prompts were dealt into halves. The direction and the discriminative sites "
        "of one half in the model's own format, compared with those of the same half, and of the other one, in each "
        "format. The areas under the ROC curve are of the other half's prompts in that format, on the direction of the "
        "own format and on that of the format; beside each, the greatest of random directions. Medians, with 90 % of "
        f"the draws.\n\n{markdown(HEADS, [cells(row) for row in format_rows(found)])}\n"
        f"![Agreement](format_agreement.png)\n\n## Claims\n\n{claim_tables.markdown(decided)}"
    )


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of a row of :func:`lens_steer.studies.formats.drawings.format_rows` for a table."""
    same = row["same_ids"] == 1 and row["kind"] != "own"
    agreements = [_middle(row, name) for name in ("cosine", "cosine_other", "jaccard", "jaccard_other")]
    areas = [
        f"{_middle(row, name, 3)}; random {row[random]:.2f}"
        for name, random in (("area", "random"), ("area_there", "random_there"))
    ]
    return (
        row["format"], f"{row['kind']}, same token ids" if same else row["kind"],
        f"`{row['site']}`" if row["site"] else "—", str(row["n_sites"]), *agreements, f"{row['chance_other']:.2f}",
        *areas,
    )  # fmt: skip


def _middle(row: Mapping[str, Any], name: str, digits: int = 2) -> str:
    if row[name] is None:
        return "—"
    low, value, high = (f"{row[f'{name}{end}']:.{digits}f}" for end in ("_low", "", "_high"))
    return f"{value} [{low}, {high}]"
