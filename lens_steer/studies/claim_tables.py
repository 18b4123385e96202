"""Claims as tables: Markdown for a page, LaTeX (booktabs) for a paper."""

from __future__ import annotations

from collections.abc import Sequence

from lens_steer._io.tables import NEEDS, escaped, longtable
from lens_steer._io.tables import markdown as table
from lens_steer.studies.claim import Claim, criterion_of, marked, measured

HEADS = ("claim", "verdict", "measured", "criterion", "n")


def markdown(claims: Sequence[Claim]) -> str:
    """Return one Markdown table per level, with one row per claim; the levels keep the order of the claims.

    >>> text = dict.fromkeys(("id", "formula", "level", "domain", "quantity", "criterion"), "x ≤ 1")
    >>> markdown([Claim(**text, statement="it is small", value=0.5, n=9, verdict="HOLDS")]).splitlines()[-1]
    '| it is small | **HOLDS** | 0.5: x ≤ 1 | x ≤ 1 | 9 |'
    """
    parts = []
    for level in dict.fromkeys(c.level for c in claims):
        of_level = [c for c in claims if c.level == level]
        rows = [
            (
                c.statement,
                marked(c, c.verdict),
                f"{measured(c)}: {c.quantity}",
                criterion_of(c.id, c.criterion),
                str(c.n),
            )
            for c in of_level
        ]
        parts.append(f"**Level: {level}**\n\n{table(HEADS, rows)}")
    return "\n".join(parts)


def latex(claims: Sequence[Claim]) -> str:
    r"""Return the claims as a LaTeX table to be read with ``\input``; it may span several pages.

    The document needs the packages array, booktabs and longtable.

    >>> text = dict.fromkeys(("id", "formula", "level", "domain", "quantity", "criterion"), "at most 1")
    >>> print(latex([Claim(**text, statement="x & y", value=0.5, n=9, verdict="HOLDS")]).splitlines()[-2])
    x \& y & \textsc{holds} & 0.5 & at most 1 & 9 \\
    """
    rows = []
    for level in dict.fromkeys(c.level for c in claims):
        rows.append([rf"\multicolumn{{5}}{{l}}{{\emph{{{level}}}}}"])
        for c in (c for c in claims if c.level == level):
            verdict, criterion = rf"\textsc{{{c.verdict.lower()}}}", criterion_of(c.id, c.criterion)
            rows.append([escaped(c.statement), verdict, escaped(measured(c)), escaped(criterion), str(c.n)])
    return NEEDS + longtable(r"*{4}{>{\raggedright\arraybackslash}p{3.4cm}}r", HEADS, rows)
