"""The notebook views of results and their tables: one module for each kind of result.

A module is imported when a result of its kind is first shown (see :class:`lens_steer._display.Shown`). The functions
``table_of`` and ``page_of`` of :mod:`lens_steer.notebook.views.pieces` are registered for every type. Only
:mod:`lens_steer.notebook.views.html` writes markup.
"""
