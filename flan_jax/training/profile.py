"""A trace of some steps for a profiler: TensorBoard's, XProf's or Perfetto's."""

from __future__ import annotations

import pathlib
from typing import Any

import jax

_FROM = 3  # the first steps after a start wait for what later ones do not


class Profile:
    """Traces steps first..last of a run into a directory.

    Args:
      directory: where the trace goes.
      begin, end: steps taken before this start, and at the end of the run.
      steps: how many are traced, less where the run ends before; 0: none.
    """

    def __init__(self, directory: pathlib.Path, begin: int, end: int, steps: int):
        self.directory, self.first = directory, min(begin + _FROM, end)
        self.last = min(self.first + steps - 1, end)

    def before(self, step: int) -> None:
        """Begins the trace if this is the first step of it."""
        if step == self.first <= self.last:
            jax.profiler.start_trace(str(self.directory))

    def after(self, step: int, metrics: Any, ended: bool = False) -> None:
        """Ends the trace, once `metrics` are there, if this was the last step of it, or the run's
        (`ended`).
        """
        if self.first <= step < self.last if ended else step == self.last >= self.first:
            jax.block_until_ready(metrics)
            jax.profiler.stop_trace()
            if jax.process_index() == 0:
                print(
                    f"profile of steps {self.first} to {step} in {self.directory}: open it with "
                    "`xprof --logdir` or TensorBoard",
                    flush=True,
                )
