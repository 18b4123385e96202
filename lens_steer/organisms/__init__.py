"""The embedded models: their closed world, its tasks and contrasts, their training, gates and trained weights.

What other rooms use of it:

- ``contrasts``: ``Row``, ``build``
- ``grading``: ``grade``, ``is_valid_json``
- ``grammar``: ``capitalised``
- ``tasks``: ``Task``, ``sample``
"""
