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
      begin: steps taken before this start.
      steps: how many are traced; 0: none.
    """

    def __init__(self, directory: pathlib.Path, begin: int, steps: int):
        self.directory, self.first, self.last = directory, begin + _FROM, begin + _FROM + steps - 1

    def before(self, step: int) -> None:
        """Begins the trace if this is the first step of it."""
        if step == self.first <= self.last:
            jax.profiler.start_trace(str(self.directory))

    def after(self, step: int, metrics: Any) -> None:
        """Ends the trace, once `metrics` are there, if this was the last step of it."""
        if step == self.last >= self.first:
            jax.block_until_ready(metrics)
            jax.profiler.stop_trace()
            if jax.process_index() == 0:
                print(f"profile of steps {self.first} to {self.last} in {self.directory}: open it with `xprof "
                      "--logdir` or TensorBoard", flush=True)
