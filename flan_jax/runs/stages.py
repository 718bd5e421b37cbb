"""Stages of a run in the log: a heading when one begins, and at the end how long each took."""

from __future__ import annotations

import logging
import time

_log = logging.getLogger(__name__)


class Stages:
    """Times the stages of a run, which follow one another."""

    def __init__(self, started: float):
        """Begins the first stage, 'start'; `started` is `time.perf_counter()` at the start."""
        self._names, self._begins = ["start"], [started]

    def begin(self, name: str) -> None:
        """Ends the present stage and begins another one."""
        self._names.append(name)
        self._begins.append(time.perf_counter())
        _log.info(f"--- {name} ---")

    def log_times(self) -> None:
        """Ends the last stage and logs the time of each."""
        now = time.perf_counter()
        ends = [*self._begins[1:], now]
        times = [
            f"{name} {clock_text(end - begin)}"
            for name, begin, end in zip(self._names, self._begins, ends)
        ]
        _log.info(f"times: {', '.join(times)}; total {clock_text(now - self._begins[0])}")


def clock_text(seconds: float) -> str:
    """Returns seconds as minutes and seconds, '3:05', or with hours, '1:03:05'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
