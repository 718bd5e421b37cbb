"""The evaluation on held-out rows: every dataset in every template, zero-shot or few-shot."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils

from flan_jax.catalogue.records import Dataset, Template
from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.data.eval_data import Protocol
from flan_jax.data.run_data import RunData
from flan_jax.data.shards import EvalExamples
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.errors import UserError
from flan_jax.evaluation import unit_scores
from flan_jax.evaluation.digests import model_digest, parameters_digest
from flan_jax.evaluation.evaluator import Part
from flan_jax.evaluation.generator import Generator
from flan_jax.evaluation.known_runs import known_runs
from flan_jax.evaluation.majority import majority_rows
from flan_jax.evaluation.option_scores import UNCONDITIONAL_INPUT
from flan_jax.evaluation.predictions import file_name
from flan_jax.evaluation.rank_scorer import RankScorer
from flan_jax.evaluation.result_rows import ANY, UNTUNED, ResultRow, Setting
from flan_jax.evaluation.results_store import RESULTS, ResultsStore, name_of
from flan_jax.evaluation.scored_rows import metrics_of
from flan_jax.evaluation.template_evaluation import TemplateResult, evaluate_templates
from flan_jax.models.adapters import prompt_length_of
from flan_jax.storage.hashing import digest

_log = logging.getLogger(__name__)

# A dataset, a template, the setting, and the folder for predictions (None: not written) -> the
# numbers.
Copy = Callable[[Dataset, Template, Setting, pathlib.Path | None], TemplateResult]


class _Job(NamedTuple):
    """A dataset in a template, with what identifies its numbers.

    Attributes:
      dataset, template: what is evaluated.
      name: how `evaluated.json` names the numbers.
      digest: of what the numbers come from.
    """

    dataset: Dataset
    template: Template
    name: str
    digest: str


class HeldOut:
    """Evaluates the held-out datasets of one configuration; an `Evaluator`.

    Options are ranked by their log-probability, other answers are generated.
    """

    def __init__(
        self,
        data: RunData,
        model: nn.Module,
        mesh: jax.sharding.Mesh,
        results: ResultsStore,
        setting: Setting,
        protocol: Protocol,
        numbers_only: bool = False,
        copy: Copy | None = None,
    ):
        """Sets up; nothing is computed yet.

        Args:
          data: the data of the run; the rows are in the cache.
          model: a T5 or a decoder.
          mesh: where the parameters are.
          results: the results so far; the predictions go to `predictions` in its directory.
          setting: the columns that all numbers share; the step is that of the parameters.
          protocol: which rows, and how they are rendered.
          numbers_only: while training: without predictions and the majority class.
          copy: takes the numbers from elsewhere; None: the model is evaluated.
        """
        self._data, self._results, self._setting = data, results, setting
        self._protocol, self._numbers_only, self._copy = protocol, numbers_only, copy
        self._model, self._mesh = model_digest(model.config), mesh
        bos_id = data.vocabulary.bos_id
        self._scorer = RankScorer(model, mesh, bos_id=bos_id)
        self._generator = Generator(
            model, data.vocabulary, mesh, max_length=data.config.lengths()[1], bos_id=bos_id
        )

    def run(self, params: Any, step: int) -> Iterator[Part]:
        """Yields the numbers of each dataset in a template that are not in the results yet.

        Args:
          params: the parameters as they are in memory.
          step: of the parameters.

        Raises:
          UserError: if numbers of fewer rows would replace those of more, or scores are not finite.
        """
        setting = dataclasses.replace(self._setting, step=step)
        writes = jax.process_index() == 0
        if writes:
            self._remove_stale_templates()
        pairs = self._pairs()
        if writes:
            self._add_signatures(pairs)
        predictions = self._predictions_dir(setting)
        jobs, is_done = self._find_done(pairs, params, setting, predictions)
        todo = [job for job, done in zip(jobs, is_done) if not done]
        if len(todo) < len(jobs):
            _log.info(
                f"[{setting.model}] step {setting.step}: {len(jobs) - len(todo)} of {len(jobs)} "
                "are evaluated already"
            )
        if not self._numbers_only:
            self._check_not_fewer(todo)
        written = predictions if writes and not self._numbers_only else None
        if self._copy is not None:
            results = (self._copy(job.dataset, job.template, setting, written) for job in todo)
        else:
            examples = self._examples(pairs, is_done, prompt_length_of(params))
            results = self._evaluated(params, examples, setting, written)
        yield from self._parts(todo, results, setting)

    def is_done(self, params: Any, step: int) -> bool:
        """Returns whether all numbers are in the results already; see `run`."""
        setting = dataclasses.replace(self._setting, step=step)
        predictions = self._predictions_dir(setting)
        return bool(self._find_done(self._pairs(), params, setting, predictions)[1].all())

    def digest(self, params: Any, step: int) -> str:
        """Returns a digest of all that the numbers come from, except for the name of the run.

        It includes the devices and the order of the evaluation, since the last digits of scores
        depend on them.
        """
        setting = dataclasses.replace(self._setting, step=step, run="")
        identity = [parameters_digest(params), self._model]
        jobs = self._jobs(self._protocol, self._pairs(), setting, identity)
        kinds = sorted({device.device_kind for device in self._mesh.devices.flat})
        return digest([[job.digest for job in jobs], dict(self._mesh.shape), kinds])

    def _parts(
        self, todo: Sequence[_Job], results: Iterator[TemplateResult], setting: Setting
    ) -> Iterator[Part]:
        have_majority: set[str] = set()
        for number, (job, result) in enumerate(zip(todo, results), 1):
            baselines: list[ResultRow] = []
            if not self._numbers_only and job.dataset.name not in have_majority:
                have_majority.add(job.dataset.name)
                examples = self._data.eval.examples(job.dataset, job.template, self._protocol)
                baselines = majority_rows(examples, job.dataset, setting)
            if result.truncated:
                note = self._generator.truncation_note(result.truncated, result.rows[0].n)
                _log.info(f"{job.dataset.name}/{job.template.id}: {note}")
            yield Part(job.name, job.digest, result.rows, baselines, number, len(todo))

    # What is evaluated, and what is in the results already.

    def _pairs(self) -> list[tuple[Dataset, Template]]:
        """The datasets and templates; a dataset without a usable row is left out, and logged."""
        pairs = self._data.eval.jobs(self._protocol)
        # A row is usable in every template or in none.
        one_of_each = {dataset.name: (dataset, template) for dataset, template in pairs}
        empty = {name for name, pair in one_of_each.items() if not self._row_count(*pair)}
        if empty:
            names = ", ".join(sorted(empty))
            _log.info(f"left out: {names} (no row is usable; `flan-jax tasks check` shows why)")
        return [pair for pair in pairs if pair[0].name not in empty]

    def _row_count(self, dataset: Dataset, template: Template) -> int:
        return self._data.eval.counts(dataset, template, self._protocol)["rows"]

    def _find_done(
        self,
        pairs: Sequence[tuple[Dataset, Template]],
        params: Any,
        setting: Setting,
        predictions: pathlib.Path,
    ) -> tuple[list[_Job], np.ndarray]:
        """The jobs, and which of them are in the results already, bool [jobs]."""
        identity = [parameters_digest(params), self._model]
        jobs = self._jobs(
            self._protocol,
            pairs,
            setting,
            [identity, None if self._numbers_only else predictions.name],
        )
        is_done = self._are_complete(jobs)
        if self._numbers_only:
            # Numbers of all rows, where this step was evaluated on them, are not replaced by those
            # of a sample.
            protocol = self._data.eval.eval_protocol
            whole = self._jobs(protocol, pairs, setting, [identity, predictions.name])
            is_done |= self._are_complete(whole)
        else:
            is_done &= np.array([self._has_unit_scores(job, predictions) for job in jobs], bool)
        if jax.process_count() > 1:  # what the first host reads counts for all
            is_done = np.array(multihost_utils.broadcast_one_to_all(is_done))
        return jobs, is_done

    def _jobs(
        self,
        protocol: Protocol,
        pairs: Sequence[tuple[Dataset, Template]],
        setting: Setting,
        origin: Sequence[Any],
    ) -> list[_Job]:
        jobs = []
        for dataset, template in pairs:
            name = name_of(setting, dataset.name, self._data.config.eval_split, template.id)
            contents = [
                self._data.eval.key(dataset, template, protocol),
                metrics_of(dataset, template.kind),
                UNCONDITIONAL_INPUT,
                dataclasses.asdict(setting),
                *origin,
            ]
            jobs.append(_Job(dataset, template, name, digest(contents)))
        return jobs

    def _are_complete(self, jobs: Sequence[_Job]) -> np.ndarray:
        """Whether the numbers of each job are in the results, bool [jobs]."""
        complete = self._results.complete({job.name: job.digest for job in jobs})
        return np.array([job.name in complete for job in jobs], bool)

    def _has_unit_scores(self, job: _Job, predictions: pathlib.Path) -> bool:
        """Whether predictions, if there are any, have beside them what each row contributes.

        It is missing where the file was damaged and the user deleted it.
        """
        split = self._data.config.eval_split
        path = predictions / file_name(job.dataset.name, split, job.template.id)
        return not path.is_file() or path.with_suffix(unit_scores.SUFFIX).is_file()

    def _check_not_fewer(self, todo: Sequence[_Job]) -> None:
        """Checks that numbers of all rows are not replaced by those of a sample.

        Raises:
          UserError: if they would be.
        """
        evaluated = self._results.rows_evaluated()
        for job in todo:
            count = self._row_count(job.dataset, job.template)
            if evaluated[job.name] > count:
                raise UserError(
                    f"{self._results.directory / RESULTS} has numbers of {evaluated[job.name]} "
                    f"rows of {job.dataset.name}/{job.template.id}, which those of {count} would "
                    "replace; write them elsewhere (flan-jax eval --output=DIR), or move the old "
                    "ones away."
                )

    def _remove_stale_templates(self) -> None:
        """Removes rows of results whose dataset no longer has their template."""
        known = {(d.name, template.id) for d in CATALOGUE for template in d.templates}
        stale = {
            (row.dataset, row.template)
            for row in self._results.rows()
            if row.dataset in CATALOGUE and row.template != ANY
        } - known
        if stale:
            names = ", ".join(sorted(map("/".join, stale)))
            path = self._results.directory / RESULTS
            _log.info(f"removed from {path}: {names} (the template no longer exists)")
            self._results.remove(lambda row: (row.dataset, row.template) in stale)

    def _add_signatures(self, pairs: Sequence[tuple[Dataset, Template]]) -> None:
        names = {name for dataset, t in pairs for name in metrics_of(dataset, t.kind)}
        self._results.add_signatures(names)

    def predictions_dir(self, step: int) -> pathlib.Path:
        """Returns the folder of the predictions of a step."""
        return self._predictions_dir(dataclasses.replace(self._setting, step=step))

    def _predictions_dir(self, setting: Setting) -> pathlib.Path:
        """The folder of the predictions: the model's name, and what differs from a usual run.

        Of several runs in one directory, all but the first one that was evaluated there are named
        before the model.
        """
        directory = self._results.directory
        at_end = setting.step == self._data.config.train_steps or setting.model == UNTUNED
        first = next(iter(known_runs(directory)), setting.run)
        parts = [setting.run] if setting.run != first else []
        parts += [setting.model, *([] if at_end else [f"step_{setting.step}"])]
        mode = setting.instruction_mode.replace(", ", ".").replace(" ", "_")
        parts += [mode] if mode != "template" else []
        parts += [f"{setting.shots}_shots"] if setting.shots else []
        return directory / "predictions" / ".".join(parts)

    # The rows, and the model on them.

    def _examples(
        self,
        pairs: Sequence[tuple[Dataset, Template]],
        is_done: np.ndarray,
        prompt_length: int,
    ) -> Iterator[EvalExamples]:
        """The rows that are to be evaluated.

        The others before them are passed over, not skipped: the widths of batches depend on what
        came before, and the last digits of scores on the widths.
        """
        self._scorer.shapes.clear()
        self._generator.shapes.clear()
        for (dataset, template), done in zip(pairs, is_done):
            examples = self._data.eval.examples(dataset, template, self._protocol)
            if not done:
                yield examples
            elif examples.options is None:
                self._generator.pass_over(examples.inputs, prompt_length)
            else:
                self._scorer.pass_over(examples.inputs, examples.options, prompt_length)

    def _evaluated(
        self,
        params: Any,
        examples: Iterator[EvalExamples],
        setting: Setting,
        predictions: pathlib.Path | None,
    ) -> Iterator[TemplateResult]:
        scorer, generator = self._scorer, self._generator
        unconditional = unconditional_input(self._data.vocabulary)
        return evaluate_templates(
            examples,
            CATALOGUE,
            setting,
            rank=lambda inputs, options: scorer.scores(params, inputs, options),
            generate=lambda inputs: generator.answers(params, inputs),
            rank_unconditional=lambda options: scorer.scores_apart(params, unconditional, options),
            predictions_dir=predictions,
        )


def unconditional_input(vocabulary: Vocabulary) -> np.ndarray:
    """Returns the ids after which options are scored for 'unconditional', int32 [S]."""
    return np.array(vocabulary.encode_input(UNCONDITIONAL_INPUT), np.int32)
