"""The one exception for what a user can mend; the command line prints its message on one line and exits with code 2."""


class LensSteerError(ValueError):
    """Bad input: the message names the argument, the value found and what to do."""


def expect(name: str, value: object, kind: type | tuple[type, ...], mend: str) -> None:
    """Refuse an argument of another kind.

    Raises:
        LensSteerError: with the argument's name, what it is, what is needed and where that comes from.

    >>> expect("plan", 3, (int, float), "any number")
    """
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise LensSteerError(
            f"{name} is of type {type(value).__name__}, and {' or '.join(k.__name__ for k in kinds)} is needed: {mend}"
        )


def first_line(error: Exception) -> str:
    """The first line of another library's message, cut to 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
