"""Paper-ready figures, each drawn from a :class:`~lens_steer.figures.core.Drawing` and saved with its data."""
