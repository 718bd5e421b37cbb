"""The exceptions that the command line explains in one clear message, without a traceback."""


class UserError(Exception):
    """Bad input from the user: what was wrong, what was expected, what to type instead.

    The command line exits with status 2.
    """


class NotHere(UserError):
    """A file or directory that the user named is not on this machine."""


class Diverged(Exception):
    """The training gives numbers that are not finite. The command line exits with status 1."""
