"""How results are shown in a notebook, and their tables: one module a kind of result, imported when a result is first
shown (see :class:`lens_steer._display.Shown`).

``table_of`` and ``page_of`` of :mod:`lens_steer.notebook.views.pieces` are registered for every type;
:mod:`lens_steer.notebook.views.html` writes markup, and alone does so.
"""
