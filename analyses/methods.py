"""The table of steering methods (Markdown)."""

from __future__ import annotations

from analyses import tables
from lens_steer.steer.method_table import markdown_table

if __name__ == "__main__":
    tables.main("methods", markdown_table(), __doc__)
