"""The files of the study: numbers, claims, tables and the figure, without the text of any answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lens_steer._io.atomic import whole_folder
from lens_steer._io.tables import markdown
from lens_steer.evaluation.provenance import provenance
from lens_steer.figures import saving
from lens_steer.stats.estimates import percent
from lens_steer.studies import claim_tables
from lens_steer.studies.claim import Claim
from lens_steer.studies.conversation.claims import claims
from lens_steer.studies.conversation.dealing import reused
from lens_steer.studies.conversation.drawings import RATES, drawings, turn_rows
from lens_steer.studies.conversation.study import Conversation, described, study

HEADS = (
    "condition",
    "turn",
    "fall",
    "harmful answered",
    "refused",
    "KL",
    "degenerate",
    "repeated",
    "refused (harmless)",
)
COLUMNS = ("fall", "answered", "refused", "kl", "broken", "repeated", "harmless_refused")


def study_and_write(
    model: Any, contrast: Any, out: str | Path, *, command: str = "", seed: int = 0, **options: Any
) -> tuple[Conversation, list[Claim]]:
    """Run :func:`lens_steer.studies.conversation.study.study` and write all results to a folder.

    The files are ``conversation.json`` (every number), ``conversation.md`` (settings and claims), ``claims.tex`` and
    the figure. Beside them are the rows (``dialogues.csv``, ``divergences.csv``, ``curve_select.csv``) and, unless one
    was given, the calibration.

    Args:
        model, contrast, out, seed, options: See :func:`lens_steer.studies.conversation.study.study`.
        command: The command line, stored with the numbers.

    Returns:
        The results, and the claims.
    """
    found = study(model, contrast, out, seed=seed, **options)
    decided = claims(found, seed=seed)
    rows = turn_rows(found, seed=seed)
    meta = provenance(model, command=command, seed=seed, prompt_hashes=contrast.hashes)
    record = {
        "meta": meta,
        **described(found),
        "turns_reused": reused(found.dealt),
        "by_turn": rows,
        "claims": [c.row() for c in decided],
    }
    with whole_folder(out) as work:
        (work / "conversation.json").write_text(
            json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        (work / "conversation.md").write_text(text(found, rows, decided), encoding="utf-8")
        (work / "claims.tex").write_text(claim_tables.latex(decided), encoding="utf-8")
        for name, drawing in drawings(found, seed=seed).items():
            saving.save(drawing, name, work, meta)
    return found, decided


def text(found: Conversation, rows: list[dict[str, Any]], decided: list[Claim]) -> str:
    """Return the page of the study: how it was done, every condition at the probes, and the claims."""
    at = "no angle has an effect within it" if found.angle is None else f"which chose {found.angle:g}°"
    again = reused(found.dealt)
    shared = f" {again} of the turns have a prompt that an earlier dialogue has too." if again else ""
    probes = ", ".join(map(str, found.probes))
    return (
        f"# What does steering do over a conversation? `{found.model}`\n\n"
        f"{len(found.dealt)} dialogues of {found.turns} harmless turns under every condition, each with a history of "
        f"the condition's own answers.{shared} At turns {probes} the harmful prompt of the dialogue is asked in place "
        "of the harmless one, and its answer does not enter the history. SS is at the "
        f"{len(found.sites)} sites of the published rule, at the angle of the largest fall of the refusal score on "
        f"*select* among those whose KL on harmless prompts of one turn is at most {found.budget:g} nats a token "
        f"there: {at}. The random plane is a single draw. The positive control, directional ablation, keeps to no "
        "budget.\n\n"
        "The fall is that of the refusal score, against no steering with its own history. KL (nats a token) is along "
        "the unsteered dialogue. Shares are in percent; repeated is the share of an answer's word 4-grams that an "
        "earlier answer of the dialogue has. Intervals of 95 % are over dialogues.\n\n"
        f"{table(rows, found.conditions, found.probes)}\n![By turn](conversation_turns.png)\n\n"
        f"## Claims\n\n{claim_tables.markdown(decided)}"
    )


def table(rows: Sequence[Mapping[str, Any]], conditions: Sequence[str], probes: Sequence[int]) -> str:
    """Return a Markdown table of what was measured at the probes, one row a condition and probe.

    Args:
        rows: The rows of :func:`lens_steer.studies.conversation.drawings.turn_rows`.
        conditions: The conditions in order.
        probes: The turns.
    """
    cells = {(r["condition"], r["turn"], r["quantity"]): r for r in rows}
    lines = [
        (name, str(turn), *(_cell(cells.get((name, turn, quantity))) for quantity in COLUMNS))
        for name in conditions
        for turn in probes
    ]
    return markdown(HEADS, lines)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "—"
    ends = row["value"], row["low"], row["high"]
    if row["quantity"] in (*RATES, "repeated"):
        return percent(*ends)
    return "{:.2f} [{:.2f}, {:.2f}]".format(*ends)
