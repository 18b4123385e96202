"""Metrics of generated texts and of next-token distributions."""
