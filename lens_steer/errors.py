"""The one exception for what a user can mend; the command line prints its message on one line and exits with code 2."""


class LensSteerError(ValueError):
    """Bad input: the message names the argument, the value found and what to do."""
