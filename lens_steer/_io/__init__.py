"""Files that are written completely or not at all, rows of resumable runs, tables, and progress displays."""
