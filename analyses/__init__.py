"""One script a figure or table; ``python -m analyses --model M --out DIR`` runs them all on a model."""
