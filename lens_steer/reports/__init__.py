"""Folders that a command writes: report, sweep, comparison, probe."""
