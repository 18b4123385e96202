r"""LaTeX for what is written as Markdown: characters, marks, and whole tables that a paper may ``\input``."""

from __future__ import annotations

import re
from itertools import groupby

from lens_steer.errors import LensSteerError

CHARACTERS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "~": r"\textasciitilde{}",
    "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "‖": r"$\|$", "′": "'", "−": "$-$", "≤": r"$\le$", "≥": r"$\ge$", "·": r"$\cdot$",
    "θ": r"$\theta$", "φ": r"$\varphi$", "ρ": r"$\rho$", "²": "$^2$", "≪": r"$\ll$", "°": r"$^\circ$", "∘": r"$\circ$", "|": r"$|$",
    "⟨": r"$\langle$", "⟩": r"$\rangle$", "Δ": r"$\Delta$", "μ": r"$\mu$", "—": "---", "–": "--", "⁺": "$^+$", "⁻": "$^-$", "∓": r"$\mp$", "±": r"$\pm$",
    "^": r"\^{}", "α": r"$\alpha$", "σ": r"$\sigma$", "τ": r"$\tau$", "…": r"\ldots{}", "×": r"$\times$", "→": r"$\to$", "▲": r"$\uparrow$", "▼": r"$\downarrow$",
    "<": "$<$", ">": "$>$",
}  # fmt: skip
ACCENTS = {"\u0302": "hat", "\u0304": "bar"}
_ACCENTED = re.compile(rf"(\w)([{''.join(ACCENTS)}])")
_MARKS = (
    (re.compile(r"\*\*(.+?)\*\*"), "textbf"),
    (re.compile(r"(?<!\*)\*([^*]+)\*(?!\*)"), "emph"),
    (re.compile(r"`([^`]+)`"), "texttt"),
)
_BOLD = re.compile(r"\*\*[^*]+\*\*")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")


def escaped(text: str) -> str:
    r"""Plain text with what LaTeX reads as commands, and characters that its fonts lack, written out.

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
    r"""One cell of a Markdown table: bold, emphasis, code and links, and everything else escaped.

    >>> cell("**holds**: `cos θ` at \\*")
    '\\textbf{holds}: \\texttt{cos $\\theta$} at *'
    """
    text = _LINK.sub(r"\1", text.strip()).replace(r"\|", "|").replace(r"\*", "\x00")
    for pattern, command in _MARKS:
        text = pattern.sub(lambda m, name=command: f"\x01{name}\x02{m[1]}\x03", text)
    found = escaped(text).replace("\x00", "*")
    return re.sub("\x01(\\w+)\x02", r"\\\1{", found).replace("\x03", "}")


def from_markdown(text: str) -> str:
    r"""The tables of a Markdown text, each over as many pages as it takes and under its line in bold if it has one, to be ``\input``; needs the packages array, booktabs and longtable.

    Raises:
        LensSteerError: a text without a table, rows of different length.

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
    parts = [r"% needs \usepackage{array,booktabs,longtable}"]
    found = False
    for inside, group in groupby(text.splitlines(), key=lambda line: line.startswith("|")):
        if inside:
            found = True
            parts += _longtable(list(group))
        else:
            parts += [rf"\noindent{cell(line)}" for line in group if _BOLD.fullmatch(line)]
    if not found:
        raise LensSteerError("the text holds no Markdown table: a head, a line of dashes and rows, each beginning with |")
    return "\n".join(parts) + "\n"


def _longtable(lines: list[str]) -> list[str]:
    if len(lines) < 2 or set(lines[1]) - set("|-: "):
        raise LensSteerError(f"{lines[0][:60]!r} is no Markdown table's head: a line of dashes has to follow it")
    rows = [[cell(part) for part in re.split(r"(?<!\\)\|", line.strip()[1:-1])] for line in (lines[0], *lines[2:])]
    width = len(rows[0])
    odd = next((i for i, row in enumerate(rows) if len(row) != width), None)
    if odd is not None:
        raise LensSteerError(f"table has {len(rows[odd])} cells in row {odd}, and {width} in its head: give every row as many")
    column = rf">{{\raggedright\arraybackslash}}p{{{0.9 / width:.3g}\linewidth}}"
    body = [("{}" if row[0].startswith(("[", "*")) else "") + " & ".join(row) + r" \\" for row in rows]  # \\ would take either
    return [
        rf"{{\small\begin{{longtable}}{{{column * width}}}\toprule", body[0], r"\midrule\endhead\bottomrule\endlastfoot", *body[1:], r"\end{longtable}}",
    ]  # fmt: skip
