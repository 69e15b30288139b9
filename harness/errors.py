"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Bad input, said as a sentence that tells the reader what to do.

    The command line prints it without a traceback and exits 3; a notebook sees it as it is.
    """
