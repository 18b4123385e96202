"""The embedded models: their closed world, its tasks and contrasts, their training, gates and trained weights."""
