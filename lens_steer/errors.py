"""The single exception type for errors that a user can correct.

The command line prints its message on one line and exits with code 2.
"""

from importlib import import_module
from typing import Any


class LensSteerError(ValueError):
    """The error for bad input; its message names the argument, the given value and the remedy."""


def expect(name: str, value: object, kind: type | tuple[type, ...], mend: str) -> None:
    """Refuse an argument of a wrong type.

    Args:
        name: The name of the argument.
        value: The given value.
        kind: The accepted type or types.
        mend: A description of a right value, for the message.

    Raises:
        LensSteerError: If the type is wrong. The message says the name of the argument, its type, the needed type and
            how to get a right value.

    >>> expect("plan", 3, (int, float), "any number")
    """
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise LensSteerError(
            f"{name} is of type {type(value).__name__}, and {' or '.join(k.__name__ for k in kinds)} is needed: {mend}"
        )


def installed(module: str, mend: str) -> Any:
    """Import a module of a package that not every installation has.

    Args:
        module: The name of the module.
        mend: The message where it is missing: what needs it, and how to install it.

    Raises:
        LensSteerError: If the module cannot be imported.

    >>> installed("no_such_package", "this needs no_such_package: pip install no_such_package")
    Traceback (most recent call last):
    lens_steer.errors.LensSteerError: this needs no_such_package: pip install no_such_package
    """
    try:
        return import_module(module)
    except ImportError:
        raise LensSteerError(mend) from None


def first_line(error: Exception) -> str:
    """Return the first line of another library's error message, cut to 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
