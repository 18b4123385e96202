"""Other evaluation code: the lm-evaluation-harness, benchmarks that grade files of answers."""
