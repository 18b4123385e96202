"""The files of the study: numbers, claims, the table and the figure."""

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
from lens_steer.studies import claim_tables
from lens_steer.studies.angle_transfer.claims import claims
from lens_steer.studies.angle_transfer.drawings import SETTINGS, drawings, pair_rows
from lens_steer.studies.angle_transfer.study import AngleTransfer, angle_transfer
from lens_steer.studies.claim import Claim

HEADS = (
    "set on", "tried on", "sites", "angle", "fall", "angle found again", "fall at it", "the source's own angle",
    "fall under its own", "random planes", "left out",
)  # fmt: skip


def angle_transfer_and_write(
    model: Any, sources: Mapping[str, ContrastSet], out: str | Path, *, command: str = "", seed: int = 0, **options: Any
) -> tuple[AngleTransfer, list[Claim]]:
    """Run :func:`lens_steer.studies.angle_transfer.study.angle_transfer` and write all results to a folder.

    The files are ``angle_transfer.json`` (every number), ``angle_transfer.md``, ``claims.tex`` and the figure. Beside
    them are the rows (``select.csv``, ``report.csv``) and the calibrations.

    Args:
        model, sources, out, seed, options: See
            :func:`lens_steer.studies.angle_transfer.study.angle_transfer`.
        command: The command line, stored with the numbers.
    """
    found = angle_transfer(model, sources, out, seed=seed, **options)
    decided = claims(found, seed=seed)
    hashes = {name: of.hashes for name, of in sources.items()}
    meta = provenance(model, command=command, seed=seed, prompt_hashes=hashes)
    record = {
        "meta": meta,
        "budget": found.budget,
        "costs": dict(found.costs),
        "pairs": pair_rows(found, seed=seed),
        "random": {name: [float(draw.mean()) for draw in falls] for name, falls in found.random.items()},
        "claims": [c.row() for c in decided],
    }
    with whole_folder(out) as work:
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        (work / "angle_transfer.json").write_text(text, encoding="utf-8")
        (work / "angle_transfer.md").write_text(page(found, decided, seed=seed), encoding="utf-8")
        (work / "claims.tex").write_text(claim_tables.latex(decided), encoding="utf-8")
        for name, drawing in drawings(found, seed=seed).items():
            saving.save(drawing, name, work, meta)
    return found, decided


def page(found: AngleTransfer, decided: list[Claim], *, seed: int = 0) -> str:
    """Return the page of the study: every pair of sources, and the claims."""
    rows = []
    for r in pair_rows(found, seed=seed):
        falls = [f"{r[n]:.2f} [{r[f'{n}_low']:.2f}, {r[f'{n}_high']:.2f}]" for n in SETTINGS]
        angles = ["none" if r[n] is None else f"{r[n]:g}°" for n in ("angle", "again", "own")]
        random = "" if r["random_low"] is None else f"{r['random_low']:.2f} to {r['random_high']:.2f}"
        pairs = [word for both in zip(angles, falls, strict=True) for word in both]
        rows.append((r["fitted"], r["on"], str(r["sites"]), *pairs, random, str(r["left_out"])))
    costs = ", ".join(f"{name} {'none' if c is None else f'{c:.3f}'}" for name, c in found.costs.items())
    return (
        f"# Does an angle hold on other prompts? `{found.model}`\n\n"
        "Selective Steering at the discriminative sites of the source that it was set on. Angles are those of the "
        "largest fall of the refusal score on *select* among those whose KL along the model's own answers to harmless "
        f"prompts is at most {found.budget:g} nats a token there; falls (nats, mean with 95 % interval) are those of "
        "harmful *report* prompts. *Found again*: the direction and the sites stay, the angle is chosen on the source "
        "that it is tried on. Nothing is generated but the unsteered answers to harmless prompts.\n\n"
        f"{markdown(HEADS, rows)}\nKL on harmless report prompts at each source's own angle: {costs}.\n\n"
        f"![Falls of the refusal score](angle_falls.png)\n\n## Claims\n\n{claim_tables.markdown(decided)}"
    )
