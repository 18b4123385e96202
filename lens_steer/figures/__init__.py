"""Paper-ready figures: each is drawn from a :class:`~lens_steer.figures.core.Drawing` and saved with the numbers behind
it.
"""
