r"""Tables as text: a head and rows of cells as Markdown, as LaTeX that a paper can ``\input``, and as CSV.

pandas' ``to_markdown`` and ``to_latex`` are not used. The former pads every cell to the width of its column and needs
tabulate. The latter writes "continued on next page" into a table of several pages and has no rows that span all
columns.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from lens_steer.errors import LensSteerError

CHARACTERS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "~": r"\textasciitilde{}", "&": r"\&", "%": r"\%",
    "_": r"\_", "#": r"\#", "‖": r"$\|$", "′": "'", "−": "$-$", "≤": r"$\le$", "≥": r"$\ge$", "·": r"$\cdot$",
    "θ": r"$\theta$", "φ": r"$\varphi$", "ρ": r"$\rho$", "²": "$^2$", "≪": r"$\ll$", "°": r"$^\circ$", "∘": r"$\circ$",
    "|": r"$|$", "⟨": r"$\langle$", "⟩": r"$\rangle$", "Δ": r"$\Delta$", "μ": r"$\mu$", "—": "---", "–": "--",
    "⁺": "$^+$", "⁻": "$^-$", "∓": r"$\mp$", "±": r"$\pm$", "^": r"\^{}", "α": r"$\alpha$", "σ": r"$\sigma$",
    "τ": r"$\tau$", "…": r"\ldots{}", "×": r"$\times$", "→": r"$\to$", "▲": r"$\uparrow$", "▼": r"$\downarrow$",
    "<": "$<$", ">": "$>$", "†": r"$^{\dagger}$", "‰": r"\textperthousand{}", "κ": r"$\kappa$",
}  # fmt: skip
ACCENTS = {"\u0302": "hat", "\u0304": "bar"}
_ACCENTED = re.compile(rf"(\w)([{''.join(ACCENTS)}])")
_MARKS = (
    (re.compile(r"\*\*(.+?)\*\*"), "textbf"),
    (re.compile(r"(?<!\*)\*([^*]+)\*(?!\*)"), "emph"),
    (re.compile(r"`([^`]+)`"), "texttt"),
)
NEEDS = r"% needs \usepackage{array,booktabs,longtable}" + "\n"  # This line is written before longtables.
_BOLD = re.compile(r"\*\*[^*]+\*\*")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Write a Markdown table, one line per row, with a line end after the last row.

    A cell is Markdown itself. A ``|`` in it is escaped and a line end becomes a space, so that it remains one cell.

    Args:
        head: The names of the columns.
        rows: The cells of each row, as many as there are columns.

    Raises:
        LensSteerError: If a row and the head have different numbers of cells.

    >>> print(markdown(["a", "b"], [["|x|", "1"]]), end="")
    | a | b |
    |---|---|
    | \|x\| | 1 |
    """
    lines = [_markdown_row(head), "|---" * len(head) + "|"]
    for i, row in enumerate(rows, start=1):
        _check_width(row, head, i)
        lines.append(_markdown_row(row))
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    plain = [text.replace("|", r"\|").replace("\n", " ") for text in cells]
    return f"| {' | '.join(plain)} |"


def _check_width(row: Sequence[str], head: Sequence[str], number: int) -> None:
    if len(row) != len(head):
        raise LensSteerError(
            f"table has {len(row)} cells in row {number}, and {len(head)} in its head: give every row as many"
        )


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    r"""Write rows as CSV with ``\n`` at their ends.

    Every value is quoted in a row that holds a carriage return, because readers also take a carriage return as the end
    of a row.

    >>> csv_text([["a", 1], ["b\rc", 2]])
    'a,1\n"b\rc","2"\n'
    """
    with io.StringIO(newline="") as stream:
        plain, quoted = (
            csv.writer(stream, lineterminator="\n", quoting=how) for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
        )
        for row in rows:
            (quoted if any(isinstance(v, str) and "\r" in v for v in row) else plain).writerow(row)
        return stream.getvalue()


def csv_records(records: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    r"""Write records as CSV under a head; a value that is missing or None is an empty cell.

    Args:
        records: The rows, as values by column name.
        columns: The columns in order; other values of a record are left out. None: the keys of the first record.

    >>> csv_records([{"a": 1, "b": None}, {"a": 2}])
    'a,b\n1,\n2,\n'
    """
    names = list(columns if columns is not None else records[0] if records else ())
    return csv_text([names, *([record.get(name) for name in names] for record in records)]) if names else ""


def tabular(columns: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, gap: str = "") -> str:
    r"""Write a LaTeX table of one page, which needs the package booktabs.

    Args:
        columns: The column specification, such as ``lrr``.
        head: The names of the columns. They must be LaTeX, as all cells must; see :func:`escaped` and :func:`cell`.
        rows: The cells of each row.
        gap: The text between the line of the environment and the rule next to it, where TeX reads no space.

    >>> print(tabular("lr", ["a", "n"], [["x", "1"]]), end="")
    \begin{tabular}{lr}\toprule
    a & n \\
    \midrule
    x & 1 \\
    \bottomrule\end{tabular}
    """
    begin, end = rf"\begin{{tabular}}{{{columns}}}{gap}\toprule", rf"\bottomrule{gap}\end{{tabular}}"
    return "\n".join([begin, _latex_row(head), r"\midrule", *map(_latex_row, rows), end]) + "\n"


def longtable(columns: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Write a LaTeX table over as many pages as it needs, with its head on each page.

    It needs the packages array, booktabs and longtable, see :data:`NEEDS`. For the arguments see :func:`tabular`.

    >>> print(longtable("lr", ["a", "n"], [["x", "1"]]), end="")
    {\small\begin{longtable}{lr}\toprule
    a & n \\
    \midrule\endhead\bottomrule\endlastfoot
    x & 1 \\
    \end{longtable}}
    """
    begin, rules = rf"{{\small\begin{{longtable}}{{{columns}}}\toprule", r"\midrule\endhead\bottomrule\endlastfoot"
    return "\n".join([begin, _latex_row(head), rules, *map(_latex_row, rows), r"\end{longtable}}"]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    r"""Write one row.

    An empty group is put before a bracket or a star at the beginning, which the preceding ``\\`` would read as its
    option.
    """
    text = " &".join(f" {cell}" if cell else "" for cell in cells).lstrip()
    return ("{}" if text.startswith(("[", "*")) else "") + text + r" \\"


def escaped(text: str) -> str:
    r"""Escape plain text for LaTeX: its special characters, and the characters that its fonts lack.

    >>> escaped("50 % of v_i ≥ θ")
    '50 \\% of v\\_i $\\ge$ $\\theta$'
    """
    parts = _ACCENTED.split(text)  # text, letter, accent, text, …
    found = []
    for i in range(0, len(parts), 3):
        found.append("".join(CHARACTERS.get(c, c) for c in parts[i]))
        if i + 2 < len(parts):
            letter = CHARACTERS.get(parts[i + 1], parts[i + 1]).strip("$")
            found.append(rf"$\{ACCENTS[parts[i + 2]]}{{{letter}}}$")
    return "".join(found)


def cell(text: str) -> str:
    r"""Convert a cell of a Markdown table to LaTeX: bold, emphasis, code and links; everything else is escaped.

    >>> cell("**holds**: `cos θ` at \\*")
    '\\textbf{holds}: \\texttt{cos $\\theta$} at *'
    """
    text = _LINK.sub(r"\1", text.strip()).replace(r"\|", "|").replace(r"\*", "\x00")
    for pattern, command in _MARKS:
        text = pattern.sub(lambda m, name=command: f"\x01{name}\x02{m[1]}\x03", text)
    found = escaped(text).replace("\x00", "*")
    return re.sub("\x01(\\w+)\x02", r"\\\1{", found).replace("\x03", "}")


def from_markdown(text: str) -> str:
    r"""Convert the tables of a Markdown text to LaTeX, for ``\input``.

    The result needs the packages array, booktabs and longtable. Each table may run over several pages. A line in bold
    in the text is put above the table that follows it.

    Raises:
        LensSteerError: If the text holds no table, or if rows have different lengths.

    >>> print(from_markdown("**Some**\n\n| a | b |\n|---|---|\n| x & y | 1 |\n"))
    % needs \usepackage{array,booktabs,longtable}
    \noindent\textbf{Some}
    {\small\begin{longtable}{>{\raggedright\arraybackslash}p{0.45\linewidth}>{\raggedright\arraybackslash}p{0.45\linewidth}}\toprule
    a & b \\
    \midrule\endhead\bottomrule\endlastfoot
    x \& y & 1 \\
    \end{longtable}}
    <BLANKLINE>
    """
    groups = [
        (inside, list(lines)) for inside, lines in groupby(text.splitlines(), key=lambda line: line.startswith("|"))
    ]
    if not any(inside for inside, _ in groups):
        raise LensSteerError(
            "the text holds no Markdown table: a head, a line of dashes and rows, each beginning with |"
        )
    parts = [NEEDS]
    for inside, lines in groups:
        titles = (rf"\noindent{cell(line)}" + "\n" for line in lines if _BOLD.fullmatch(line))
        parts += [_as_longtable(lines)] if inside else titles
    return "".join(parts)


def _as_longtable(lines: list[str]) -> str:
    if len(lines) < 2 or set(lines[1]) - set("|-: "):
        raise LensSteerError(f"{lines[0][:60]!r} is no Markdown table's head: a line of dashes has to follow it")
    head, *rows = (
        [cell(part) for part in re.split(r"(?<!\\)\|", line.strip()[1:-1])] for line in (lines[0], *lines[2:])
    )
    for i, row in enumerate(rows, start=1):
        _check_width(row, head, i)
    column = rf">{{\raggedright\arraybackslash}}p{{{0.9 / len(head):.3g}\linewidth}}"
    return longtable(column * len(head), head, rows)
