"""The held-out cluster: every dataset in every template, for the model at hand; into
`results.csv`.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import itertools
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from flan_jax.catalogue.records import Dataset, Template
from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.data.eval_data import Protocol
from flan_jax.data.run_data import RunData
from flan_jax.data.shards import EvalExamples
from flan_jax.errors import UserError
from flan_jax.evaluation import results, unit_scores
from flan_jax.evaluation.generator import Generator
from flan_jax.evaluation.option_scorer import RankScorer
from flan_jax.evaluation.results import EVALUATED, RESULTS, SIGNATURES, UNTUNED, ResultRow, Setting
from flan_jax.metrics import signature
from flan_jax.storage.files import write_file
from flan_jax.storage.hashing import digest

_SECONDS_BETWEEN_LINES = 5
_ODD = tuple(
    np.uint32(number) for number in (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1)
)


class HeldOut:
    """Evaluates parameters of one model on the held-out rows of one configuration; programs are
    compiled once.

    Attributes:
      directory: `results.csv`, `signatures.json` and `predictions/` lie below it.
    """

    def __init__(self, data: RunData, model, mesh: jax.sharding.Mesh, directory: pathlib.Path):
        self.data, self.directory = data, directory
        self._model = model_digest(model.config)
        self._scorer = RankScorer(model, mesh, bos_id=data.vocabulary.bos_id)
        self._generator = Generator(
            model,
            data.vocabulary,
            mesh,
            max_length=data.config.lengths()[1],
            bos_id=data.vocabulary.bos_id,
        )

    def evaluate(
        self,
        params: Any,
        setting: Setting,
        protocol: Protocol,
        while_training: bool = False,
        stop: Callable[[], object] = lambda: False,
    ) -> bool:
        """Adds to `results.csv` what is not in it yet: the model's numbers and those of the
        majority class.

        What is in it is told by `evaluated.json`, which remembers for each number the rows and
        parameters behind it.

        Args:
          params: the parameters in memory.
          setting: the columns that all numbers share.
          protocol: which rows, and how they are evaluated.
          while_training: numbers alone: without predictions and the majority class.
          stop: called after each template of a dataset, of all hosts; what is not evaluated then is
            left for another time.

        Returns:
          Whether everything is evaluated.
        """
        writes = jax.process_index() == 0
        if writes:
            self._drop_gone()
        predictions = self.directory / "predictions" / self._predictions_name(setting)
        jobs, identity = self._jobs(protocol), [parameters_digest(params), self._model]
        if writes:
            self._sign(jobs)
        keys = [
            self._key(
                setting, *job, protocol, [identity, None if while_training else predictions.name]
            )
            for job in jobs
        ]
        files = [
            predictions
            / results.predictions_name(dataset.name, self.data.config.eval_split, template.id)
            for dataset, template in jobs
        ]
        done = self._done(keys, () if while_training else files)
        # Numbers of all rows, where somebody evaluated this step, do not give way to those of some.
        if while_training:
            done |= self._done(
                [
                    self._key(
                        setting, *job, self.data.eval.eval_protocol, [identity, predictions.name]
                    )
                    for job in jobs
                ]
            )
        todo = [(key, *job) for key, job, is_done in zip(keys, jobs, done) if not is_done]
        if len(todo) < len(jobs):
            print(
                f"[{setting.model}] step {setting.step}: {len(jobs) - len(todo)} of {len(jobs)} "
                "are evaluated already",
                flush=True,
            )
        if not while_training:
            self._check_not_fewer(todo, protocol)
        start, printed, majority = time.perf_counter(), 0.0, set()
        unconditional_input = self._unconditional_input()
        groups = results.evaluate(
            self._examples_of(jobs, done, protocol),
            CATALOGUE,
            setting,
            lambda inputs, options: self._scorer.scores(params, inputs, options),
            lambda inputs: self._generator.answers(params, inputs),
            lambda options: self._scorer.scores_apart(params, unconditional_input, options),
            predictions if writes and not while_training else None,
        )
        for number, ((key, dataset, template), (rows, cut)) in enumerate(zip(todo, groups), 1):
            count = len(rows)
            if not while_training and dataset.name not in majority:
                majority.add(dataset.name)
                rows += results.majority_rows(
                    self.data.eval.examples(dataset, template, protocol), dataset, setting
                )
            if writes:
                with results.alone_in(self.directory):
                    results.update_results(self.directory / RESULTS, rows)
                    self._remember(*key, count)
            if cut:
                answers = self._generator.about_cut(cut, rows[0].n)
                print(f"{dataset.name}/{template.id}: {answers}", flush=True)
            now = time.perf_counter()
            if now - printed > _SECONDS_BETWEEN_LINES or number == len(todo):
                printed = now
                _print_progress(setting, rows[0], number, len(todo), now - start)
            if number < len(todo) and stop():
                return False
        return True

    def _examples_of(
        self, jobs: Sequence[tuple[Dataset, Template]], done: np.ndarray, protocol: Protocol
    ) -> Iterator[EvalExamples]:
        """The rows of the jobs that are not done. Those before them are passed over, not left out:
        the widths of batches depend on what came before, and the last digits of scores on the
        widths.
        """
        self._scorer.shapes.clear()
        self._generator.shapes.clear()
        for job, is_done in zip(jobs, done):
            examples = self.data.eval.examples(*job, protocol)
            if not is_done:
                yield examples
            elif examples.options is None:
                self._generator.pass_over(examples.inputs)
            else:
                self._scorer.pass_over(examples.inputs, examples.options)

    def _unconditional_input(self) -> np.ndarray:
        """The ids after which options are scored for 'unconditional'."""
        return np.array(self.data.vocabulary.encode_input(results.UNCONDITIONAL_INPUT), np.int32)

    def _sign(self, jobs: Sequence[tuple[Dataset, Template]]) -> None:
        """Says in `signatures.json` what to quote beside the numbers of each metric."""
        path = self.directory / SIGNATURES
        names = {
            name
            for dataset, template in jobs
            for name in results.metrics_of(dataset, template.kind)
        }
        with results.alone_in(self.directory):
            known = results.read_texts(path)
            write_file(
                path,
                json.dumps(known | {name: signature(name) for name in sorted(names)}, indent=1),
            )

    def _jobs(self, protocol: Protocol) -> list[tuple[Dataset, Template]]:
        """What is evaluated; a dataset without a usable row is left out, and that is printed."""
        jobs = self.data.eval.jobs(protocol)
        # a row is usable in every template or in none
        one_each = {job[0].name: job for job in jobs}
        empty = {
            name
            for name, job in one_each.items()
            if not self.data.eval.counts(*job, protocol)["rows"]
        }
        if empty:
            names = ", ".join(sorted(empty))
            print(
                f"left out: {names} (no row is usable; `flan-jax tasks check` shows why)",
                flush=True,
            )
        return [job for job in jobs if job[0].name not in empty]

    def _key(
        self,
        setting: Setting,
        dataset: Dataset,
        template: Template,
        protocol: Protocol,
        behind: Sequence[Any],
    ) -> tuple[str, str]:
        """(name, digest) in `evaluated.json`: the rows of `results.csv` that it stands for, and
        what they come from.
        """
        name = _name(setting, dataset.name, self.data.config.eval_split, template.id)
        shard = self.data.eval.key(dataset, template, protocol)
        metrics = results.metrics_of(dataset, template.kind)
        return name, digest(
            [shard, metrics, results.UNCONDITIONAL_INPUT, dataclasses.asdict(setting), *behind]
        )

    def _drop_gone(self) -> None:
        """Takes lines out of `results.csv` whose dataset no longer has their template: no table is
        to count them.
        """
        path = self.directory / RESULTS
        if not path.exists():
            return
        with results.alone_in(self.directory):
            rows = results.read_results(path)
            known = {
                (dataset.name, template.id)
                for dataset in CATALOGUE
                for template in dataset.templates
            }
            gone = {
                (row.dataset, row.template)
                for row in rows
                if row.dataset in CATALOGUE and row.template != results.ANY
            } - known
            if gone:
                print(
                    f"taken out of {path}: {', '.join(sorted(map('/'.join, gone)))} (there is no "
                    "such template any more)",
                    flush=True,
                )
                results.write_results(
                    path, [row for row in rows if (row.dataset, row.template) not in gone]
                )

    def _check_not_fewer(
        self, todo: Sequence[tuple[tuple[str, str], Dataset, Template]], protocol: Protocol
    ) -> None:
        """Makes sure that numbers of many rows do not give way to those of some.

        Raises:
          UserError: if they would.
        """
        path, most = self.directory / RESULTS, collections.Counter[str]()
        for row in results.read_results(path) if path.exists() else ():
            name = _name(row, row.dataset, row.split, row.template)
            most[name] = max(most[name], row.n)
        for (name, _), dataset, template in todo:
            count = self.data.eval.counts(dataset, template, protocol)["rows"]
            if most[name] > count:
                raise UserError(
                    f"{path} has numbers of {most[name]} rows of {dataset.name}/{template.id}, and "
                    f"those of {count} would take their place; write them elsewhere (flan-jax eval "
                    "--output=DIR), or move the old ones away."
                )

    def _predictions_name(self, setting: Setting) -> str:
        """The folder of the predictions: the model's name, and what is not as at the end of a usual
        run.

        Of several runs in one directory, all but the first one that was evaluated there stand
        before the name.
        """
        at_end = setting.step == self.data.config.train_steps or setting.model == UNTUNED
        first = next(iter(results.known_runs(self.directory)), setting.run)
        parts = [setting.run] if setting.run != first else []
        parts += [setting.model, *([] if at_end else [f"step_{setting.step}"])]
        mode = setting.instruction_mode.replace(", ", ".").replace(" ", "_")
        parts += [mode] if mode != "template" else []
        parts += [f"{setting.shots}_shots"] if setting.shots else []
        return ".".join(parts)

    def _done(
        self, keys: Sequence[tuple[str, str]], predictions: Sequence[pathlib.Path] = ()
    ) -> np.ndarray:
        """Which keys `evaluated.json` holds, bool [keys]; what the first host reads counts for all.

        Predictions that lack what each row contributes beside them are made again: a damaged file
          of it was deleted.
        """
        known, path = self._known(), self.directory / RESULTS
        rows = results.read_results(path) if path.exists() else ()
        lines = collections.Counter(
            _name(row, row.dataset, row.split, row.template) for row in rows
        )
        done = np.array([known.get(name) == f"{key} {lines[name]}" for name, key in keys], bool)
        if predictions:
            done &= [
                not file.is_file() or file.with_suffix(unit_scores.SUFFIX).is_file()
                for file in predictions
            ]
        return (
            np.array(multihost_utils.broadcast_one_to_all(done))
            if jax.process_count() > 1
            else done
        )

    def _known(self) -> dict[str, str]:
        return results.read_texts(self.directory / EVALUATED)

    def _remember(self, name: str, key: str, lines: int) -> None:
        known = {**self._known(), name: f"{key} {lines}"}
        write_file(self.directory / EVALUATED, json.dumps(known, indent=0))


def _name(of: Setting | ResultRow, dataset: str, split: str, template: str) -> str:
    """What `evaluated.json` calls the lines of `results.csv` that a dataset in a template makes."""
    return "/".join(
        [
            of.run,
            of.model,
            f"step {of.step}",
            of.instruction_mode,
            f"{of.shots} shots",
            dataset,
            split,
            template,
        ]
    )


@jax.jit
def _sums(params: Any) -> list[jax.Array]:
    # Sums of whole numbers are the same on any mesh; those of floats are not.
    def hashed(leaf, seed):
        x = (
            jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}").astype(jnp.uint32)
            * _ODD[0]
            + seed
        )
        for axis, odd in zip(range(leaf.ndim), itertools.cycle(_ODD[1:])):
            x = _mixed(x + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * odd)
        return jnp.sum(x)

    return [hashed(leaf, np.uint32(seed)) for leaf in jax.tree.leaves(params) for seed in (1, 2)]


def _mixed(x: jax.Array) -> jax.Array:
    """Each bit of the result hangs on all bits of x, uint32: the last step of MurmurHash3 (Appleby,
    2011).
    """
    for shift, odd in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * np.uint32(odd)
    return x ^ (x >> 16)


def parameters_digest(params: Any) -> str:
    """Names parameters by a hash of each array's bits and their places: another order of the same
    is another name.
    """
    return digest([int(value) for value in jax.device_get(_sums(params))])


def model_digest(config: Any) -> str:
    """Names a model by the fields of its configuration that decide what it answers."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return digest(
        {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in fields.items()
            if name not in ("remat", "scan_layers", "dropout_rate")
        }
    )


def _print_progress(
    setting: Setting, row: ResultRow, number: int, count: int, elapsed: float
) -> None:
    eta = datetime.timedelta(seconds=round(elapsed / number * (count - number)))
    print(
        f"[{setting.model}] step {setting.step}: {number}/{count}  {row.dataset}/{row.template}  "
        f"{row.metric} {row.value:.1f}  n={row.n}  ETA {eta}",
        flush=True,
    )
