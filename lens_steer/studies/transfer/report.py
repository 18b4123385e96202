"""The files of the study: numbers, claims, tables and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lens_steer._io.atomic import whole_folder
from lens_steer._io.tables import markdown
from lens_steer.data import ContrastSet
from lens_steer.evaluation.provenance import provenance
from lens_steer.figures import saving
from lens_steer.stats.estimates import percent
from lens_steer.studies import claim_tables
from lens_steer.studies.claim import Claim
from lens_steer.studies.transfer.claims import claims
from lens_steer.studies.transfer.drawings import drawings, pair_rows, size_rows
from lens_steer.studies.transfer.study import Transfer, transfer

HEADS = ("direction of", "on", "site", "area", "random", "length or mark", "cosine", "Jaccard of L_disc", "left out")
SIZE_HEADS = ("source", "prompts of a class", "area", "cosine", "Jaccard of L_disc", "by chance", "same site (%)")


def transfer_and_write(
    model: Any, sources: Mapping[str, ContrastSet], out: str | Path, *, command: str = "", seed: int = 0, **options: Any
) -> tuple[Transfer, list[Claim]]:
    """Run :func:`lens_steer.studies.transfer.study.transfer` and write all results to a folder.

    The files are ``transfer.json`` (every number), ``transfer.md``, ``claims.tex`` and the figures.

    Args:
        model, sources, seed, options: See :func:`lens_steer.studies.transfer.study.transfer`.
        out: The folder.
        command: The command line, stored with the numbers.
    """
    found = transfer(model, sources, seed=seed, **options)
    decided = claims(found)
    hashes = {name: of.hashes for name, of in sources.items()}
    meta = provenance(model, command=command, seed=seed, prompt_hashes=hashes)
    record = {"meta": meta, "pairs": pair_rows(found), "draws": size_rows(found), "claims": [c.row() for c in decided]}
    with whole_folder(out) as work:
        (work / "transfer.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (work / "transfer.md").write_text(text(found, decided), encoding="utf-8")
        (work / "claims.tex").write_text(claim_tables.latex(decided), encoding="utf-8")
        for name, drawing in drawings(found).items():
            saving.save(drawing, name, work, meta)
    return found, decided


def text(found: Transfer, decided: list[Claim]) -> str:
    """Return the page of the study: the pairs, what few prompts give, and the claims."""
    pairs = [
        (
            r["fitted"], r["on"], f"`{r['site']}`", f"{r['area']:.3f} [{r['area_low']:.3f}, {r['area_high']:.3f}]",
            f"{r['random_low']:.2f} to {r['random_high']:.2f}", f"{r['surface']:.2f} ({r['surface_by']})",
            *(_number(None if r["fitted"] == r["on"] else r[name]) for name in ("cosine", "jaccard")),
            str(r["left_out"]),
        )
        for r in pair_rows(found)
    ]  # fmt: skip
    sizes = [
        (
            r["source"], str(r["n"]), *(_band(r, name) for name in ("area", "cosine", "jaccard")),
            f"{r['by_chance']:.2f}", percent(r["same_site"]),
        )
        for r in size_rows(found)
    ]  # fmt: skip
    needed = (
        f"\n## Few prompts\n\nAgainst as many others: medians, with 90 % of the draws.\n\n{markdown(SIZE_HEADS, sizes)}"
        if sizes
        else ""
    )
    figure = "\n![What few prompts give](prompts_needed.png)\n" if sizes else ""
    return (
        f"# Does a direction hold on other prompts? `{found.model}`\n\n"
        "The area under the ROC curve of held-out prompts, projected on the direction of each source at the site that "
        "it selected. Beside it: the range of random directions there, what the number of words or a mark at the end "
        "of the prompt separates, the cosine of the two sources' candidates, and how far their discriminative sites "
        f"agree.\n\n{markdown(HEADS, pairs)}\n![Areas](transfer_areas.png)\n{needed}"
        f"{figure}\n## Claims\n\n{claim_tables.markdown(decided)}"
    )


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}"


def _band(row: Mapping[str, Any], name: str) -> str:
    if row[name] is None:
        return "—"
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"
