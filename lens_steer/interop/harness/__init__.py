"""Adapters to other evaluation code: the lm-evaluation-harness, and benchmarks that grade files of answers."""
