"""The exceptions that the command line explains in one clear message, without a traceback."""


class UserError(Exception):
    """Bad input from the user: what was wrong, what was expected, what to type instead.

    The command line exits with status 2.
    """


class NotHere(UserError):
    """A file or directory that the user named is not on this machine."""


class Diverged(Exception):
    """The training gives numbers that are not finite. The command line exits with status 1."""


def message_of(error: Exception) -> str:
    """Returns the message of an error, without lines that gin adds.

    It adds them to an error that passes through a configurable function.
    """
    return str(error).split("\n  In call to configurable ")[0]
