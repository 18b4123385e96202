"""Tables written to a folder as Markdown and LaTeX, and the Markdown, between two markers, into pages of the
documentation.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lens_steer._io.atomic import whole_file
from lens_steer._io.tables import from_markdown
from lens_steer.errors import LensSteerError


def main(name: str, table: str, description: str | None) -> None:
    """The command of a script that writes one table."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help=f"folder to write {name}.md to")
    add_page(parser)
    args = parser.parse_args()
    write(name, table, args.out, args.page)


def add_page(parser: argparse.ArgumentParser) -> None:
    """Add the option of every script that fills tables of pages."""
    parser.add_argument(
        "--page",
        type=Path,
        nargs="+",
        default=[],
        help="put each table between its markers in those of these files that have them",
    )


def write(name: str, table: str, out: Path, pages: Sequence[Path] = (), *, latex: bool = True) -> None:
    r"""Write ``NAME.md`` and ``NAME.tex`` (to be ``\input``), and put the table between ``<!-- NAME -->`` and
    ``<!-- /NAME -->`` of the pages that have these markers. ``latex=False`` is for text that holds no table.

    Raises:
        LensSteerError: No page has the markers, or one has them more than once; then no page is changed.
    """
    with whole_file(out / f"{name}.md") as work:
        work.write_text(table, encoding="utf-8")
    if latex:
        with whole_file(out / f"{name}.tex") as work:
            work.write_text(from_markdown(table), encoding="utf-8")
    filled = [(page, text) for page in pages if (text := _filled(page, name, table)) is not None]
    if pages and not filled:
        said = " or ".join(map(str, pages))
        raise LensSteerError(f"{said} needs the markers <!-- {name} --> and <!-- /{name} -->, once each")
    for page, text in filled:
        with whole_file(page) as work:
            work.write_text(text, encoding="utf-8")


def _filled(page: Path, name: str, table: str) -> str | None:
    """The text of a page with the table between its markers; None for a page without them."""
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    text = page.read_text(encoding="utf-8")
    if opening not in text and closing not in text:
        return None
    if text.count(opening) != 1 or text.count(closing) != 1:
        raise LensSteerError(f"{page} needs the markers {opening} and {closing}, once each")
    head, rest = text.split(opening)
    return f"{head}{opening}\n{table}{closing}{rest.split(closing)[1]}"
