"""Claims as a table: Markdown for a page, LaTeX (booktabs) for a paper."""

from __future__ import annotations

from collections.abc import Sequence

from lens_steer._io.tables import escaped
from lens_steer.studies.claim import Claim, shown

HEADS = ("claim", "verdict", "measured", "criterion", "n")


def markdown(claims: Sequence[Claim]) -> str:
    """One row a claim, grouped by level in the order given.

    >>> markdown([Claim("a", "x keeps y", "f", "formula", "all", "q", "at most 1", 0.5, 9, "HOLDS")]).splitlines()[-1]
    '| x keeps y | **HOLDS** | 0.5: q | at most 1 | 9 |'
    """
    lines = []
    for level in dict.fromkeys(c.level for c in claims):
        lines += [f"\n**Level: {level}**\n", f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
        for c in (c for c in claims if c.level == level):
            cells = (c.statement, f"**{c.verdict}**", f"{_measured(c)}: {c.quantity}", c.criterion, str(c.n))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines).lstrip("\n") + "\n"


def latex(claims: Sequence[Claim]) -> str:
    r"""A table over as many pages as it takes, to be ``\input``; needs the packages array, booktabs and longtable.

    >>> print(latex([Claim("a", "x & y", "f", "formula", "all", "q", "at most 1", 0.5, 9, "HOLDS")]).splitlines()[-2])
    x \& y & \textsc{holds} & 0.5 & at most 1 & 9 \\
    """
    head = " & ".join(HEADS) + r" \\"
    lines = [
        r"% needs \usepackage{array,booktabs,longtable}", r"{\small\begin{longtable}{*{4}{>{\raggedright\arraybackslash}p{3.4cm}}r}\toprule", head,
        r"\midrule\endhead\bottomrule\endlastfoot",
    ]  # fmt: skip
    for level in dict.fromkeys(c.level for c in claims):
        lines.append(rf"\multicolumn{{5}}{{l}}{{\emph{{{level}}}}} \\")
        for c in (c for c in claims if c.level == level):
            cells = (
                escaped(c.statement),
                rf"\textsc{{{c.verdict.lower()}}}",
                escaped(_measured(c)),
                escaped(c.criterion),
                str(c.n),
            )
            lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\end{longtable}}"]) + "\n"


def _measured(claim: Claim) -> str:
    value = shown(claim.value)
    return value if claim.interval is None else f"{value} [{shown(claim.interval[0])}, {shown(claim.interval[1])}]"
