"""Paper-ready figures, each drawn from a :class:`~lens_steer.figures.core.Drawing` and saved with its data.

What other rooms use of it:

- ``comparison``: ``harmonic_drawing``
- ``core``: ``Drawing``, ``styled``, ``Drawn``, ``Target``, ``canvas``, ``figure``, ``banded``, ``legend_below``
- ``directions``: ``drawing``
- ``divergence``: ``drawing``
- ``geometry``: ``drawings``
- ``outcomes``: ``drawing``
- ``probe_plane``: ``boundary_plane_drawing``
- ``probe_tokens``: ``probe_projections_drawing``
- ``probes``: ``probe_depth_drawing``, ``check_shown``, ``reliability_drawing``, ``spread``
- ``rate_rows``: ``rate_rows``
- ``saving``: ``save``, ``draw``, ``load``, ``redraw``
- ``stability``: ``drawing``
- ``sweeps``: ``by_value``
"""
