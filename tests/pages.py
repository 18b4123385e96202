"""The pages of the documentation as they stand in the checkout, and the tables that commands put between their
markers.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
GENERATED = ROOT / "docs" / "generated"
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if GENERATED not in p.parents),
)


def tables() -> list[tuple[str, Path]]:
    """Every table's name, and the page that shows it; a table of several pages once for each."""
    return [(name, page) for page in PAGES for name in re.findall(r"<!-- (\w+) -->", page.read_text(encoding="utf-8"))]


def shown(name: str, page: Path) -> str:
    """What stands between a table's markers on a page."""
    text = page.read_text(encoding="utf-8")
    opening = f"<!-- {name} -->\n"
    return text[text.index(opening) + len(opening) : text.index(f"<!-- /{name} -->")]


def pages_of(name: str) -> list[Path]:
    """The pages that show a table."""
    return [page for found, page in tables() if found == name]
