"""What results have in common in a notebook: a view of what a person wants first, and a labelled table.

How a type is shown and what its table's columns are stands apart, in :mod:`lens_steer.notebook.views`, and is imported
when it is asked for.
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pandas import DataFrame


def withheld(text: str) -> str:
    """In place of a text that is not to be shown: the beginning of its SHA-256, by which somebody who has it finds it
    again.

    >>> withheld("Hello")
    'SHA-256 185f8db32271'
    """
    return f"SHA-256 {hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


class Shown:
    """A result that shows itself in a notebook.

    A type names the module of :mod:`lens_steer.notebook.views` that knows how:
    ``class Calibration(Shown, view="geometry")``.
    """

    _view: ClassVar[str]

    def __init_subclass__(cls, *, view: str | None = None, **more: Any) -> None:
        super().__init_subclass__(**more)
        if view is not None:
            cls._view = view

    def to_pandas(self) -> DataFrame:
        """The result as a labelled table: what tells the rows apart is the index, units are in the columns' names, what
        does not exist is missing.

        What one row is of: a prompt set, contrast or split: a prompt; a dialogue: a turn; activations, moments: a
        vector, one column a dimension; a calibration, its summary, a stability or a comparison of directions: a site;
        resamples: a resample; a plan: a site of a step; an effect log: a site; probes across depth: a site; one probe's
        result: a quantity; a divergence or monitor: a token; a verification: a claim; a sweep's rows: an answer;
        settings, an evaluation, a trait's search, a study of externalities: a condition at a value; a figure: a row of
        its data. Anything else is a row by itself.

        Raises:
            LensSteerError: pandas is not installed.

        >>> from lens_steer.stats import wilson
        >>> wilson(9, 10).to_pandas().round(3).values.tolist()
        [[0.9, 0.596, 0.982, 10.0]]
        """
        return self._looks().table_of(self).frame()

    def _repr_html_(self) -> str:
        return self._looks().page_of(self).html()

    def _looks(self) -> Any:
        """The module that knows how the type is shown."""
        return import_module(f"lens_steer.notebook.views.{self._view}")
