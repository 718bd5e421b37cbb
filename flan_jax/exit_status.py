"""Exit statuses of the verbs, and the messages of errors that a user can correct."""

from __future__ import annotations

import errno
import sys

from flan_jax import signals
from flan_jax.errors import Diverged, UserError, message_of
from flan_jax.messages import escaped, renamed

# Characters: enough for the list of the tensors in which two models of this project differ.
_LONGEST_MESSAGE = 8_000

# Errors of a file system that is full or read-only.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def explained(error: BaseException) -> int | None:
    """Prints the message of an error that a user can correct, on standard error.

    Returns:
      The exit status; None, and no message, for any other error.
    """
    if isinstance(error, KeyboardInterrupt):
        print(
            f"flan-jax: {str(error) or signals.CTRL_C}: ended; what was finished is kept, and the "
            "same command does the rest.",
            file=sys.stderr,
        )
        return signals.SAVED
    if isinstance(error, Diverged):
        print(f"flan-jax: error: {escaped(renamed(str(error)))}", file=sys.stderr)
        return 1
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        error = UserError(
            f"{error.filename or 'a file of this run'} cannot be written ({error.strerror}); make "
            "room, or give another directory; then the same command resumes."
        )
    if isinstance(error, UserError):
        message = escaped(renamed(message_of(error)))
        if len(message) > _LONGEST_MESSAGE:
            message = (
                f"{message[: _LONGEST_MESSAGE // 2]} ... {message[-(_LONGEST_MESSAGE // 2) :]}"
            )
        print(f"flan-jax: error: {message}", file=sys.stderr)
        return 2
    return None
