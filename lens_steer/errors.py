"""The one exception for what a user can mend; the command line prints its message on one line and exits with code 2."""


class LensSteerError(ValueError):
    """Bad input: the message names the argument, the value found and what to do."""


def first_line(error: Exception) -> str:
    """The first line of another library's message, cut to 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
