"""The table of steering methods (Markdown)."""

from __future__ import annotations

import argparse
from pathlib import Path

from analyses import tables
from lens_steer.method_table import markdown_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write methods.md to")
    parser.add_argument("--readme", type=Path, help="put the table between the markers of this file too")
    args = parser.parse_args()
    tables.write("methods", markdown_table(), args.out, args.readme)


if __name__ == "__main__":
    main()
