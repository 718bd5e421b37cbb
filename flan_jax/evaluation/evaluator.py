"""What an evaluation is, and how one runs: part by part into the results of a directory.

A new evaluation is a class with the method of `Evaluator` in a file of its own, beside `held_out`.
"""

from __future__ import annotations

import datetime
import logging
import sys
import time
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from flan_jax.evaluation.result_rows import ResultRow
from flan_jax.evaluation.results_store import ResultsStore
from flan_jax.log import PROGRESS

_log = logging.getLogger(__name__)

# On a terminal, where a line replaces the one before, and elsewhere.
_SECONDS_BETWEEN_LINES = {True: 1, False: 30}


class Part(NamedTuple):
    """A part of an evaluation that is done, such as a dataset in one template.

    Attributes:
      name: how `evaluated.json` names its rows; see `results_store.name_of`.
      digest: of what its numbers come from: rows, parameters, setting.
      rows: the numbers of the model, the headline number first.
      baselines: numbers that belong beside them, such as those of the majority class.
      number: which part it is, from 1 on.
      count: how many parts there are.
    """

    name: str
    digest: str
    rows: list[ResultRow]
    baselines: list[ResultRow]
    number: int
    count: int


class Evaluator(typing.Protocol):
    """Measures parameters of one model."""

    def run(self, params: Any, step: int) -> Iterator[Part]:
        """Yields the parts of the evaluation that are not in the results yet.

        Every host iterates over the same parts; only the first one writes files.

        Args:
          params: the parameters as they are in memory.
          step: of the parameters.
        """
        ...


def evaluate(
    evaluator: Evaluator,
    params: Any,
    step: int,
    results: ResultsStore,
    stop: Callable[[], object] = lambda: False,
) -> bool:
    """Adds to the results what an evaluator measures.

    Args:
      evaluator: see `Evaluator`.
      params: the parameters as they are in memory.
      step: of the parameters.
      results: where the numbers go.
      stop: called after each part on all hosts; if it is true, the rest is left for another time.

    Returns:
      Whether everything is evaluated.
    """
    started = time.perf_counter()
    logged, between = started, _SECONDS_BETWEEN_LINES[sys.stdout.isatty()]
    for part in evaluator.run(params, step):
        if jax.process_index() == 0:
            results.add(part.rows, part.baselines, part.name, part.digest)
        now = time.perf_counter()
        if now - logged > between or part.number == part.count:
            logged = now
            _log_progress(part, now - started)
        if part.number < part.count and stop():
            return False
    return True


def _log_progress(part: Part, elapsed: float) -> None:
    row = part.rows[0]
    left = elapsed / part.number * (part.count - part.number)
    _log.info(
        f"[{row.model}] step {row.step}: {part.number}/{part.count}  {row.dataset}/{row.template}  "
        f"{row.metric} {row.value:.1f}  n={row.n}  ETA {datetime.timedelta(seconds=round(left))}",
        extra=PROGRESS if part.number < part.count else None,
    )
