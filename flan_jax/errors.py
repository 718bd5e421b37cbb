"""The one exception that means: the user can fix this, and the message says how."""


class UserError(Exception):
    """Bad input from the user: what was wrong, what was expected, what to type instead.

    The command line prints it as one sentence, without a traceback, and exits with status 2.
    """
