"""The files of the study: numbers, claims, the table and the figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lens_steer._io.atomic import whole_folder
from lens_steer._io.tables import markdown
from lens_steer.data import Contrast
from lens_steer.evaluation.provenance import provenance
from lens_steer.figures import saving
from lens_steer.studies import claim_tables
from lens_steer.studies.claim import Claim
from lens_steer.studies.formats.claims import claims
from lens_steer.studies.formats.drawings import drawings, format_rows
from lens_steer.studies.formats.study import Formats, formats
from lens_steer.studies.formats.wording import Format

HEADS = (
    "format", "kind", "site", "sites of L_disc", "cosine", "Jaccard of L_disc", "by chance", "area",
    "area, its own direction", "random up to",
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

    The files are ``formats.json`` (every number, and the formats), ``formats.md``, ``claims.tex`` and the figure.

    Args:
        model, contrast, others, seed, options: See :func:`lens_steer.studies.formats.study.formats`.
        out: The folder.
        command: The command line, stored with the numbers.
    """
    found = formats(model, contrast, others, seed=seed, **options)
    decided = claims(found)
    meta = provenance(model, command=command, seed=seed, prompt_hashes={"fit": contrast.hash})
    record = {
        "meta": meta,
        "formats": [{"name": of.name, "system": of.system, "template": of.template} for of in others],
        "draws": len(found.prompts_cosine),
        "n": found.n,
        "rows": format_rows(found),
        "claims": [c.row() for c in decided],
    }
    with whole_folder(out) as work:
        (work / "formats.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (work / "formats.md").write_text(text(found, decided), encoding="utf-8")
        (work / "claims.tex").write_text(claim_tables.latex(decided), encoding="utf-8")
        for name, drawing in drawings(found).items():
            saving.save(drawing, name, work, meta)
    return found, decided


def text(found: Formats, decided: list[Claim]) -> str:
    """Return the page of the study: the table and the claims."""
    return (
        f"# Does a direction depend on the format of the prompts? `{found.model}`\n\n"
        f"{len(found.prompts_cosine)} times the prompts were dealt into halves, of {found.n} prompts of a class. The "
        "direction and the discriminative sites of one half in the model's own format, compared with those of the same "
        "half in another format; the first row compares them with those of the other half in the own format. The areas "
        "under the ROC curve are of the other half's prompts in the format, projected on the own format's direction "
        "and on that of the format. Medians, with 90 % of the draws.\n\n"
        f"{markdown(HEADS, [cells(row) for row in format_rows(found)])}\n![Agreement](format_agreement.png)\n\n"
        f"## Claims\n\n{claim_tables.markdown(decided)}"
    )


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of a row of :func:`lens_steer.studies.formats.drawings.format_rows` for a table."""
    kind = f"{row['kind']}, same token ids" if row["same_ids"] == 1 else row["kind"]
    middles = [_middle(row, name) for name in ("cosine", "jaccard")]
    areas = [_middle(row, name, 3) for name in ("area", "area_there")]
    return (
        row["format"], kind, f"`{row['site']}`", str(row["n_sites"]), *middles, f"{row['chance']:.2f}", *areas,
        f"{row['random']:.2f}",
    )  # fmt: skip


def _middle(row: Mapping[str, Any], name: str, digits: int = 2) -> str:
    if row[name] is None:
        return "—"
    low, value, high = (f"{row[f'{name}{end}']:.{digits}f}" for end in ("_low", "", "_high"))
    return f"{value} [{low}, {high}]"
