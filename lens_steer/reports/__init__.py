"""Folders that the commands write: report, sweep, comparison and probe."""
