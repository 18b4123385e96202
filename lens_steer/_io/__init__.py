"""Files: written whole or not at all, rows that a long run goes on from, tables, progress."""
