"""Tables written to a folder as Markdown and LaTeX, and the Markdown, between two markers, into the README."""

from __future__ import annotations

import argparse
from pathlib import Path

from lens_steer._io.atomic import whole_file
from lens_steer._io.tables import from_markdown
from lens_steer.errors import LensSteerError


def main(name: str, table: str, description: str | None) -> None:
    """The command of a script that writes one table."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help=f"folder to write {name}.md to")
    parser.add_argument("--readme", type=Path, help="put the table between the markers of this file too")
    args = parser.parse_args()
    write(name, table, args.out, args.readme)


def write(name: str, table: str, out: Path, readme: Path | None = None) -> None:
    r"""Write ``NAME.md`` and ``NAME.tex`` (to be ``\input``), and put the table between ``<!-- NAME -->`` and ``<!-- /NAME -->`` of a README.

    Raises:
        LensSteerError: a README without the two markers.
    """
    with whole_file(out / f"{name}.md") as work:
        work.write_text(table, encoding="utf-8")
    with whole_file(out / f"{name}.tex") as work:
        work.write_text(from_markdown(table), encoding="utf-8")
    if readme is None:
        return
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    text = readme.read_text(encoding="utf-8")
    if text.count(opening) != 1 or text.count(closing) != 1:
        raise LensSteerError(f"{readme} needs the markers {opening} and {closing}, once each")
    head, rest = text.split(opening)
    with whole_file(readme) as work:
        work.write_text(f"{head}{opening}\n{table}{closing}{rest.split(closing)[1]}", encoding="utf-8")
