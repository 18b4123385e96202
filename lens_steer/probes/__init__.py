"""Linear probes: fitting at one site, evaluation across depth, and storage on disk."""
