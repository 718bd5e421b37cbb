"""The held-out cluster, zero-shot: every dataset, every template, for the model at hand; into `results.csv`."""

from __future__ import annotations

import dataclasses
import datetime
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from flan_jax.data.assemble import Data
from flan_jax.data.catalogue import CATALOGUE
from flan_jax.data.hashing import digest
from flan_jax.evaluation import results
from flan_jax.evaluation.generation import Generator
from flan_jax.evaluation.rank import RankScorer
from flan_jax.evaluation.results import ResultRow, Setting

_SECONDS_BETWEEN_LINES = 5
RESULTS, EVALUATED = "results.csv", "evaluated.json"


class HeldOut:
    """Evaluates parameters of one model on the held-out rows of one configuration; programs are compiled once.

    Attributes:
      directory: `results.csv` and `predictions/<model>/` lie below it.
    """

    def __init__(self, data: Data, model, mesh: jax.sharding.Mesh, directory: pathlib.Path):
        self.data, self.directory = data, directory
        self._scorer = RankScorer(model, mesh, bos_id=data.vocabulary.bos_id)
        self._generator = Generator(model, data.vocabulary, mesh, max_length=data.config.lengths()[1],
                                    bos_id=data.vocabulary.bos_id)

    def evaluate(self, params: Any, setting: Setting) -> None:
        """Adds to `results.csv` what is not in it yet: the model's numbers and those of the majority class.

        What is in it is told by `evaluated.json`, which remembers for each number the rows and parameters behind it.

        Args:
          params: the parameters in memory.
          setting: run, step, model and size columns of the results.
        """
        writes = jax.process_index() == 0
        predictions = self.directory / "predictions" / setting.model if writes else None
        identity = parameters_digest(params)
        jobs, keys = self.data.eval_jobs(), {}
        for dataset, template in jobs:
            keys[f"{setting.model}/{dataset.name}/{template.id}/{self.data.config.eval_split}"] = digest(
                [self.data.eval_path(dataset, template).name, identity, dataclasses.asdict(setting)])
        done = self._done(keys)
        todo = [(name, *job) for name, job, is_done in zip(keys, jobs, done) if not is_done]
        if len(todo) < len(jobs):
            print(f"[{setting.model}] {len(jobs) - len(todo)} of {len(jobs)} are evaluated already", flush=True)
        start, printed, majority = time.perf_counter(), 0.0, set()
        groups = results.evaluate(
            (self.data.eval_examples(dataset, template) for _, dataset, template in todo), CATALOGUE, setting,
            lambda inputs, options: self._scorer.scores(params, inputs, options),
            lambda inputs: self._generator.texts(params, inputs),
            np.array(self.data.vocabulary.input_end, np.int32), predictions)
        for number, ((name, dataset, template), rows) in enumerate(zip(todo, groups), 1):
            if dataset.name not in majority:
                majority.add(dataset.name)
                rows += results.majority_rows(self.data.eval_examples(dataset, template), dataset, setting)
            if writes:
                results.update_results(self.directory / RESULTS, rows)
                self._remember({name: keys[name]})
            now = time.perf_counter()
            if now - printed > _SECONDS_BETWEEN_LINES or number == len(todo):
                printed = now
                _print_progress(setting, rows[0], number, len(todo), now - start)

    def _done(self, keys: dict[str, str]) -> list[bool]:
        """Which keys `evaluated.json` holds; what the first host reads counts for all."""
        known = self._known() if (self.directory / RESULTS).exists() else {}
        done = np.array([known.get(name) == key for name, key in keys.items()], bool)
        return multihost_utils.broadcast_one_to_all(done).tolist() if jax.process_count() > 1 else done.tolist()

    def _known(self) -> dict[str, str]:
        path = self.directory / EVALUATED
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _remember(self, keys: dict[str, str]) -> None:
        results.write_file(self.directory / EVALUATED, json.dumps({**self._known(), **keys}, indent=0).encode())


@jax.jit
def _sums(params: Any) -> list[jax.Array]:
    return [f(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(params) for f in (jnp.sum, jnp.linalg.norm)]


def parameters_digest(params: Any) -> str:
    """Names parameters by the sum and norm of each array, so that results of other ones are never taken for theirs."""
    return digest([float(value) for value in jax.device_get(_sums(params))])


def _print_progress(setting: Setting, row: ResultRow, number: int, count: int, elapsed: float) -> None:
    eta = datetime.timedelta(seconds=round(elapsed / number * (count - number)))
    print(f"[{setting.model}] {number}/{count}  {row.dataset}/{row.template}  {row.metric} {row.value:.1f}  "
          f"n={row.n}  ETA {eta}", flush=True)
