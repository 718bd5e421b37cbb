"""Log lines of the verbs: time, level where it is not INFO, and text, on standard output.

Each package logs with `logging.getLogger(__name__)`. What a verb is run for, such as the table of
`report` or the answers of `generate`, is printed; everything said on the way is logged. `configure`
is called once the command line is parsed; a program that imports flan_jax configures `logging`
itself.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

LEVELS = ("debug", "info", "warning", "error")
DEFAULT_LEVEL = "info"


class _StandardOutput(logging.StreamHandler):
    """Writes to what `sys.stdout` is at that moment, so that redirection holds."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stdout


class _Formatter(logging.Formatter):
    """`20:15:03 text`, and `20:15:03 WARNING: text` for levels other than INFO."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno == logging.INFO:
            return text
        time, _, message = text.partition(" ")
        return f"{time} {record.levelname}: {message}"


def configure(level: str = DEFAULT_LEVEL) -> None:
    """Sends the lines of flan_jax's loggers to standard output; a second call changes only the
    level.

    Args:
      level: one of `LEVELS`, the least severe that is shown.
    """
    logger = logging.getLogger("flan_jax")
    logger.setLevel(level.upper())
    logger.propagate = False
    if not any(isinstance(handler, _StandardOutput) for handler in logger.handlers):
        handler = _StandardOutput()
        handler.setFormatter(_Formatter())
        logger.addHandler(handler)
