"""Views of claims: first the verdict, then the measured value and the criterion."""

from __future__ import annotations

import json
from typing import Any

from lens_steer.notebook.views import html
from lens_steer.notebook.views.pieces import Page, Table, page_of, table_of
from lens_steer.studies.claim import Claim, criterion_of, measured
from lens_steer.studies.propositions.verify import Verification

LONGEST = 40  # the most claims that a page shows


def claim_row(claim: Claim) -> dict[str, Any]:
    """Return the record of a claim as one flat row.

    The interval is split into ``low`` and ``high``, and the witness is JSON.
    """
    names = "id level verdict value low high n quantity criterion statement domain formula witness".split()
    low, high = claim.interval or (None, None)
    witness = json.dumps(dict(claim.witness), ensure_ascii=False, default=str)
    values = vars(claim) | {"low": low, "high": high, "witness": witness}
    return {name: values[name] for name in names}


@table_of.register
def _(claim: Claim) -> Table:
    """Return one row."""
    return Table.of([claim_row(claim)])


@page_of.register
def _(claim: Claim) -> Page:
    facts = {
        "claim": claim.statement,
        "measured": f"{measured(claim)}: {claim.quantity}, n = {claim.n}",
        "criterion": criterion_of(claim.id, claim.criterion),
        "computed": claim.formula,
        "over": claim.domain,
        "level": claim.level,
    }
    witness = [{"witness": name, "is": value} for name, value in claim.witness.items()]
    return Page(f"{claim.verdict}: {claim.id}", facts, (html.grid(witness),) if witness else ())


@table_of.register
def _(found: Verification) -> Table:
    """Return one row for each claim."""
    return Table.of([claim_row(c) for c in found.claims], "id")


@page_of.register
def _(found: Verification) -> Page:
    rows = [
        {
            "verdict": c.verdict,
            "level": c.level,
            "claim": c.statement,
            "measured": f"{measured(c)}: {c.quantity}",
            "criterion": criterion_of(c.id, c.criterion),
            "n": c.n,
        }
        for c in found.claims
    ]
    grid = html.first(rows, "claims", limit=LONGEST, strong=("verdict",))
    return Page(repr(found), {"figures": ", ".join(found.drawings)}, (grid,))
