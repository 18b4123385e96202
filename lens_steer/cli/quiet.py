"""The error stream of a command is for what concerns its user: other libraries' notices are kept off it."""

from __future__ import annotations

import logging
import os
import sys
import warnings

VERBOSITY = (
    "TRANSFORMERS_VERBOSITY",
    "HF_HUB_VERBOSITY",
)  # libraries that write by themselves, and read this when they are imported


def quiet() -> None:
    """Let through our own warnings and whatever any library calls an error; not that optional kernels are missing, that
    something is deprecated or tried again.

    ``TRANSFORMERS_VERBOSITY``, ``HF_HUB_VERBOSITY`` and ``python -W`` have the last word.
    """
    handler = logging.StreamHandler()
    handler.addFilter(concerns_the_user)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    for name in VERBOSITY:
        os.environ.setdefault(name, "error")
    for library in ("transformers", "huggingface_hub"):  # where it is imported already
        if library in sys.modules:
            logging.getLogger(library).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def concerns_the_user(record: logging.LogRecord) -> bool:
    """Whether a record is ours, or an error.

    >>> notice = {"name": "bitsandbytes.backends", "levelno": logging.WARNING}
    >>> [
    ...     concerns_the_user(logging.makeLogRecord(notice | other))
    ...     for other in ({}, {"name": "lens_steer.steer.hooks"}, {"levelno": logging.ERROR})
    ... ]
    [False, True, True]
    """
    return record.levelno >= logging.ERROR or record.name.split(".")[0] == "lens_steer"
