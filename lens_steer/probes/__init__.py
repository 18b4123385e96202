"""Linear probes: fitting at one site, evaluation across depth, and storage on disk.

What other rooms use of it:

- ``depth``: ``ProbeScan``, ``probe_depth``, ``ProbeResult``
- ``io``: ``load_probe``, ``save_probe``, ``check_probe``
- ``probe``: ``Probe``, ``fit_probe``, ``groups_of``
"""
