"""LaTeX of what is written as Markdown: every table of the pages comes out whole, with nothing left that LaTeX would
read as a command.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_steer._io.tables import cell, escaped, from_markdown
from lens_steer.errors import LensSteerError
from tests.pages import ROOT, shown, tables

FOLDERS = (".", "comparison", "traits", "externalities", "real", "families")
HEAD = (
    r"\documentclass{article}\usepackage[utf8]{inputenc}\usepackage[T1]{fontenc}"
    r"\usepackage{array,booktabs,longtable}\begin{document}"
)


@pytest.mark.parametrize(("name", "page"), tables(), ids=lambda value: value if isinstance(value, str) else value.stem)
def test_every_table_of_the_pages(name: str, page: Path) -> None:
    """It is the table that a command wrote beside the figures; its LaTeX has as many rows and cells, in Latin-1, and
    the committed file is that.
    """
    source = shown(name, page)
    (file,) = (path for f in FOLDERS if (path := ROOT / "figures" / f / f"{name}.md").exists())
    assert source == file.read_text(encoding="utf-8")
    if "|---|" not in source:  # sentences
        assert not file.with_suffix(".tex").exists()
        return
    made = from_markdown(source)
    rows = [line for line in made.splitlines() if line.endswith(r" \\")]
    assert len(rows) == sum(line.startswith("|") and not line.startswith("|---") for line in source.splitlines())
    for table in made.split(r"\begin{longtable}")[1:]:
        of_table = [line for line in table.splitlines() if line.endswith(r" \\")]
        assert len({len(re.findall(r"(?<!\\)&", row)) for row in of_table}) == 1
    assert all(ord(c) < 256 for c in made)
    assert file.with_suffix(".tex").read_text(encoding="utf-8") == made


@given(st.text(alphabet=st.sampled_from("ab &%_#{}$~^\\<>|θ≤"), max_size=12))
def test_nothing_is_left_to_read_as_a_command(text: str) -> None:
    """Without what the escapes themselves write, no character of LaTeX's own stands in it, and braces and dollars are
    balanced.
    """
    found = escaped(text)
    bare = re.sub(
        r"\\(?:textbackslash|textasciitilde)\{\}|\\\^\{\}|\$[^$]*\$(?<!\\\$)|\\[{}$&%_#]", "", found.replace(r"\$", "")
    )
    assert not set(bare) & set("&%_#{}$~^\\<>|")


def test_a_row_is_not_taken_for_an_option() -> None:
    """A line break in LaTeX reads a star or a bracket after it."""
    made = from_markdown("| a | b |\n|---|---|\n| [0, 1] | 2 |\n| \\* | 3 |\n")
    assert r"{}[0, 1] & 2 \\" in made
    assert r"{}* & 3 \\" in made


def test_marks_become_commands() -> None:
    assert cell("**a_b** *c* `d_e` [f](g.md) h \\| i") == r"\textbf{a\_b} \emph{c} \texttt{d\_e} f h $|$ i"
    assert escaped("v̂ and φ̂") == r"$\hat{v}$ and $\hat{\varphi}$"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "holds no Markdown table"),
        ("| a | b |\n| c | d |\n", "is no Markdown table's head"),
        ("| a | b |\n|---|---|\n| 1 |\n", "1 cells in row 1, and 2 in its head"),
    ],
)
def test_what_is_no_table(text: str, message: str) -> None:
    with pytest.raises(LensSteerError, match=message):
        from_markdown(text)


@pytest.mark.slow
def test_latex_reads_them(tmp_path: Path) -> None:
    """All of them in one document, where LaTeX is installed."""
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    parts = []
    for name, page in dict(tables()).items():
        (tmp_path / f"{name}.tex").write_text(from_markdown(shown(name, page)), encoding="utf-8")
        parts.append(rf"\input{{{name}}}")
    (tmp_path / "all.tex").write_text("\n".join([HEAD, *parts, r"\end{document}"]), encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1500:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000
