"""The held-out cluster, zero-shot: every dataset, every template, for the model at hand; into `results.csv`."""

from __future__ import annotations

import pathlib
import time
from typing import Any

import jax

from flan_jax.data.assemble import Data
from flan_jax.data.catalogue import CATALOGUE
from flan_jax.evaluation import results
from flan_jax.evaluation.generation import Generator
from flan_jax.evaluation.rank import RankScorer
from flan_jax.evaluation.results import ResultRow, Setting

RESULTS = "results.csv"


class HeldOut:
    """Evaluates parameters of one model on the held-out rows of one configuration; programs are compiled once.

    Attributes:
      directory: `results.csv` and `predictions/<model>/` lie below it.
    """

    def __init__(self, data: Data, model, mesh: jax.sharding.Mesh, directory: pathlib.Path):
        self.data, self.directory = data, directory
        self._scorer = RankScorer(model, mesh)
        self._generator = Generator(model, data.vocabulary, mesh, max_length=data.config.lengths()[1])

    def evaluate(self, params: Any, setting: Setting) -> None:
        """Adds to `results.csv` what is not in it yet: the model's numbers and those of the majority class.

        Args:
          params: the parameters in memory.
          setting: run, step, model and size columns of the results.
        """
        path, split = self.directory / RESULTS, self.data.config.eval_split
        writes = jax.process_index() == 0
        predictions = self.directory / "predictions" / setting.model if writes else None
        written = results.read_results(path) if path.exists() else []
        done = {(r.dataset, r.template, r.split) for r in written if _of(r, setting)}
        jobs = [job for job in self.data.eval_jobs() if (job[0].name, job[1].id, split) not in done]
        start, majority = time.perf_counter(), set()
        for number, (dataset, template) in enumerate(jobs, 1):
            examples = self.data.eval_examples(dataset, template)
            groups = results.evaluate(
                [examples], CATALOGUE, setting, lambda inputs, options: self._scorer.scores(params, inputs, options),
                lambda inputs: self._generator.texts(params, inputs), predictions)
            rows = [row for group in groups for row in group]
            if dataset.name not in majority:
                majority.add(dataset.name)
                rows += results.majority_rows(examples, dataset, setting)
            if writes:
                results.update_results(path, rows)
            _print_progress(setting, rows[0], number, len(jobs), time.perf_counter() - start)


def _of(row: ResultRow, setting: Setting) -> bool:
    return (row.run, row.step, row.model, row.size) == (setting.run, setting.step, setting.model, setting.size)


def _print_progress(setting: Setting, row: ResultRow, number: int, count: int, elapsed: float) -> None:
    eta = time.strftime("%H:%M:%S", time.gmtime(elapsed / number * (count - number)))
    print(f"[{setting.model}] {number}/{count}  {row.dataset}/{row.template}  {row.metric} {row.value:.1f}  "
          f"n={row.n}  ETA {eta}", flush=True)
