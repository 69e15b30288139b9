"""The one exception that a user is meant to read, and what others' come to in a sentence."""


class UserError(Exception):
    """Bad input, said as a sentence that tells the reader what to do.

    The command line prints it without a traceback and exits 3; a notebook sees it as it is.
    """


def first_line(error: Exception) -> str:
    """What a library's error says, in at most 300 characters; its type, where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
