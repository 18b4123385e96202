"""Checks and timings on a GPU, where one is at hand: ``tests/gpu/run.sh``."""
