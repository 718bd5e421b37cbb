"""Log lines of the verbs: time, level where it is not INFO, and text, on standard output.

Each module logs with `logging.getLogger(__name__)`. The result of a verb, such as the table of
`report` or the answers of `generate`, is printed; progress and facts are logged. `configure` is
called once the command line is parsed; a program that imports flan_jax configures `logging` itself.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from collections.abc import Iterator
from typing import TextIO

from flan_jax.messages import renamed

LEVELS = ("debug", "info", "warning", "error")
DEFAULT_LEVEL = "info"
# `_log.info(text, extra=PROGRESS)`: on a terminal the next line takes the place of this one.
PROGRESS = {"is_progress": True}
_CLEAR = "\r\x1b[K"  # to the begin of the line, which becomes empty


class _StandardStream(logging.StreamHandler):
    """Writes to the present `sys.stdout` or `sys.stderr`, which may be redirected."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.on_standard_error = False
        self._has_progress = False  # whether the cursor is behind a line that is to be replaced

    @property
    def stream(self) -> TextIO:
        return sys.stderr if self.on_standard_error else sys.stdout

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line; one of progress, on a terminal, without its end."""
        is_progress = getattr(record, "is_progress", False) and self.stream.isatty()
        text = self.format(record)
        if is_progress:
            text = text[: shutil.get_terminal_size().columns - 1]
        before = _CLEAR if self._has_progress or is_progress else ""
        self.stream.write(before + text + ("" if is_progress else "\n"))
        self.flush()
        self._has_progress = is_progress

    def handleError(self, record: logging.LogRecord) -> None:
        """Raises what went wrong, as `print` would: a closed pipe or a full disk ends the verb."""
        raise


class _Formatter(logging.Formatter):
    """`20:15:03 text`, and `20:15:03 WARNING: text` for levels other than INFO."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        text = renamed(super().format(record))
        if record.levelno == logging.INFO:
            return text
        time, _, message = text.partition(" ")
        return f"{time} {record.levelname}: {message}"


def configure(level: str = DEFAULT_LEVEL) -> None:
    """Sends the lines of flan_jax's loggers to standard output.

    Args:
      level: the least severe that is shown, one of `LEVELS`.
    """
    logger = logging.getLogger("flan_jax")
    logger.setLevel(level.upper())
    logger.propagate = False
    _handler().on_standard_error = False


def include_main_module() -> None:
    """Makes `__main__`, the logger of `python -m flan_jax.VERB`, one of flan_jax's loggers."""
    logging.getLogger("__main__").parent = logging.getLogger("flan_jax")


def use_standard_error() -> None:
    """Sends the lines to standard error instead: standard output is for the result of a verb."""
    _handler().on_standard_error = True


@contextlib.contextmanager
def root_handlers_kept() -> Iterator[None]:
    """Takes away again the handlers that the block adds to the root logger.

    absl, through which Orbax logs, adds one where there is none, and `logging.basicConfig` of the
    program would have no effect afterwards.
    """
    before = list(logging.root.handlers)
    try:
        yield
    finally:
        for handler in set(logging.root.handlers).difference(before):
            logging.root.removeHandler(handler)


def _handler() -> _StandardStream:
    """Returns the handler of flan_jax's loggers; adds it if there is none."""
    logger = logging.getLogger("flan_jax")
    for handler in logger.handlers:
        if isinstance(handler, _StandardStream):
            return handler
    handler = _StandardStream()
    handler.setFormatter(_Formatter())
    logger.addHandler(handler)
    return handler
