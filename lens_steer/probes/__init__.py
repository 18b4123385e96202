"""Linear probes: fitted, held against depth, kept on disk."""
