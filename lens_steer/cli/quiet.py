"""The filter that keeps notices of other libraries off the error stream of a command."""

from __future__ import annotations

import logging
import os
import sys
import warnings

VERBOSITY = (
    "TRANSFORMERS_VERBOSITY",
    "HF_HUB_VERBOSITY",
)  # these libraries configure their own loggers, and read these variables when they are imported


def quiet() -> None:
    """Show this package's warnings and all errors on the error stream, and hide other notices.

    Hidden are, for example, notices of missing optional kernels, of deprecations and of repeated attempts. Settings of
    the user (``TRANSFORMERS_VERBOSITY``, ``HF_HUB_VERBOSITY`` and ``python -W``) take precedence.
    """
    handler = logging.StreamHandler()
    handler.addFilter(concerns_the_user)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    for name in VERBOSITY:
        os.environ.setdefault(name, "error")
    for library in ("transformers", "huggingface_hub"):  # one that is imported already has read its variable
        if library in sys.modules:
            logging.getLogger(library).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def concerns_the_user(record: logging.LogRecord) -> bool:
    """Return True if a log record comes from this package or is an error.

    >>> notice = {"name": "bitsandbytes.backends", "levelno": logging.WARNING}
    >>> [
    ...     concerns_the_user(logging.makeLogRecord(notice | other))
    ...     for other in ({}, {"name": "lens_steer.steer.hooks"}, {"levelno": logging.ERROR})
    ... ]
    [False, True, True]
    """
    return record.levelno >= logging.ERROR or record.name.split(".")[0] == "lens_steer"
