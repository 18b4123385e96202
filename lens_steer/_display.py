"""The common display of results in a notebook: a view of the most important facts, and a labelled table.

The view of each type and the columns of its table are defined in :mod:`lens_steer.notebook.views`, which is imported at
the first use.
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pandas import DataFrame


def withheld(text: str) -> str:
    """Return a replacement for a text that must not be shown: the beginning of its SHA-256 hash.

    A reader who has the text can identify it by the hash.

    >>> withheld("Hello")
    'SHA-256 185f8db32271'
    """
    return f"SHA-256 {hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


class Shown:
    """A result that displays itself in a notebook.

    Each subclass names the module of :mod:`lens_steer.notebook.views` that displays it:
    ``class Calibration(Shown, view="geometry")``.
    """

    _view: ClassVar[str]

    def __init_subclass__(cls, *, view: str | None = None, **more: Any) -> None:
        super().__init_subclass__(**more)
        if view is not None:
            cls._view = view

    def to_pandas(self) -> DataFrame:
        """Return the result as a labelled table.

        The index identifies the rows, units are in the names of the columns, and values that do not exist are missing.

        The meaning of a row depends on the type:

        - prompt set, contrast or split: a prompt
        - dialogue: a turn
        - activations, moments: a vector, with one column per dimension
        - calibration, its summary, a stability or a comparison of directions: a site
        - selected direction: a candidate
        - resamples: a resample
        - plan: a site of a step
        - effect log: a site
        - probes across depth: a site
        - result of one probe: a quantity
        - divergence or monitor: a token
        - verification: a claim
        - rows of a sweep: an answer
        - settings, an evaluation, the search of a trait, a study of externalities: a condition at a value
        - figure: a row of its data
        - any other result: a single row for the result

        Raises:
            LensSteerError: If pandas is not installed.

        >>> from lens_steer.stats.rates import wilson
        >>> wilson(9, 10).to_pandas().round(3).values.tolist()
        [[0.9, 0.596, 0.982, 10.0]]
        """
        return self._looks().table_of(self).frame()

    def _repr_html_(self) -> str:
        return self._looks().page_of(self).html()

    def _looks(self) -> Any:
        """Return the module that displays the type."""
        return import_module(f"lens_steer.notebook.views.{self._view}")
