"""A trace of some steps for a profiler: TensorBoard's, XProf's or Perfetto's."""

from __future__ import annotations

import logging
import pathlib
from typing import Any

import jax

_log = logging.getLogger(__name__)
_FROM = 3  # the first steps after a start wait for compilation and input, later ones do not


class Profile:
    """Traces steps first..last of a run into a directory."""

    def __init__(self, directory: pathlib.Path, begin: int, end: int, steps: int):
        """Traces nothing yet.

        Args:
          directory: where the trace is written.
          begin: steps taken before this start.
          end: steps of the run.
          steps: how many to trace, fewer if the run ends before; 0: none.
        """
        self.directory, self.first = directory, min(begin + _FROM, end)
        self.last = min(self.first + steps - 1, end)

    def before(self, step: int) -> None:
        """Starts the trace if this is its first step."""
        if step == self.first <= self.last:
            jax.profiler.start_trace(str(self.directory))

    def after(self, step: int, metrics: Any, ended: bool = False) -> None:
        """Stops the trace if this was its last step.

        Args:
          step: the step that was taken.
          metrics: of the step; the trace stops when they are computed.
          ended: whether the run ends here, before its last step.
        """
        if self.first <= step < self.last if ended else step == self.last >= self.first:
            jax.block_until_ready(metrics)
            jax.profiler.stop_trace()
            if jax.process_index() == 0:
                _log.info(
                    f"profile of steps {self.first} to {step} in {self.directory}: open it with "
                    "`xprof --logdir` or TensorBoard"
                )
