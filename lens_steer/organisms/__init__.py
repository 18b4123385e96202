"""The embedded models: the closed world they speak about, its tasks and contrasts, training, gates, and the trained
weights.
"""
