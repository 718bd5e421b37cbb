"""Baselines that the runs of a sweep share: the first run evaluates them, the others copy.

A baseline lies in a directory that is named after all that its numbers come from (`HeldOut.digest`)
and is a directory of results of its own: one that was interrupted is resumed by the next run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from flan_jax.catalogue.records import Dataset, Template
from flan_jax.errors import UserError
from flan_jax.evaluation import evaluator, unit_scores
from flan_jax.evaluation.concurrent_results import MERGES
from flan_jax.evaluation.held_out import Copy, HeldOut
from flan_jax.evaluation.predictions import file_name
from flan_jax.evaluation.result_rows import Setting
from flan_jax.evaluation.results_store import ResultsStore, name_of
from flan_jax.evaluation.template_evaluation import TemplateResult
from flan_jax.parallel import processes
from flan_jax.storage import bucket_lock
from flan_jax.storage.files import write_file
from flan_jax.storage.locks import is_locked, locked
from flan_jax.storage.places import Place
from flan_jax.storage.working_copy import forget, open_copy, working_copy_of

_LOCK, _PURPOSE = ".baseline.lock", "flan-jax train"
_RUN = "baseline"  # the column `run` of shared results
_POLL_S = 1.0
_log = logging.getLogger(__name__)

# Makes the evaluation into some results, with the numbers from elsewhere if a `Copy` is given.
Make = Callable[[ResultsStore, Setting, Copy | None], HeldOut]


def evaluate(
    make: Make,
    params: Any,
    step: int,
    results: ResultsStore,
    setting: Setting,
    directory: Place,
    split: str,
    stop: Callable[[], object],
) -> bool:
    """Adds the numbers of a baseline to the results of a run; evaluates it if no other run has.

    The results are those that the run alone would write.

    Args:
      make: see `Make`.
      params: the parameters as they are in memory.
      step: of the parameters.
      results: of the run.
      setting: the columns that all numbers of the run share.
      directory: of all baselines that are shared.
      split: that is evaluated.
      stop: see `evaluator.evaluate`.

    Returns:
      Whether everything is evaluated.
    """
    own = make(results, setting, None)
    if not own.is_done(params, step):
        place = directory / own.digest(params, step)
        shared = _open_results(place)
        baseline = make(shared, dataclasses.replace(setting, run=_RUN), None)
        with _alone(shared.directory, stop) as is_held, _uploading(shared.directory):
            if not is_held or not evaluator.evaluate(baseline, params, step, shared, stop):
                return False
        shared = _as_uploaded(place, shared)
        _log.info(f"[{setting.model}] step {step}: copied from {place}, which other runs use, too")
        own = make(results, setting, _copier(shared, baseline.predictions_dir(step), split))
    return evaluator.evaluate(own, params, step, results, stop)


def _open_results(place: Place) -> ResultsStore:
    """Returns the results in a directory; of one in a bucket, those of its working copy."""
    is_here = isinstance(place, pathlib.Path)
    return ResultsStore(place if is_here else open_copy(place, MERGES).local)


@contextlib.contextmanager
def _uploading(directory: pathlib.Path) -> Iterator[None]:
    """Has what the bucket has, and uploads what the block adds; nothing on the disk."""
    copy = working_copy_of(directory)
    if copy is not None:
        copy.fetch_for_report()  # predictions are copied, too
    is_first = processes.index_and_count()[0] == 0
    with copy.uploading() if copy is not None and is_first else contextlib.nullcontext():
        yield


def _as_uploaded(place: Place, shared: ResultsStore) -> ResultsStore:
    """Returns the shared results; on the other processes, as the first one has uploaded them."""
    if isinstance(place, pathlib.Path) or not processes.several():
        return shared
    processes.wait_for_all(f"the baseline {place.name}")
    if processes.index_and_count()[0] > 0:
        forget(shared.directory)
        shared = _open_results(place)
        working_copy_of(shared.directory).fetch()
    return shared


@contextlib.contextmanager
def _alone(directory: pathlib.Path, stop: Callable[[], object]) -> Iterator[bool]:
    """Waits until no other run evaluates the baseline, or to stop; yields whether it is held.

    The first of several processes locks for all.
    """
    is_first, is_logged = processes.index_and_count()[0] == 0, False
    with contextlib.ExitStack() as stack:
        while True:
            is_held = not is_first or _entered(stack, directory)
            if not processes.any_of_all(not is_held):
                yield True
                return
            if stop():
                yield False
                return
            if not is_logged:
                _log.info("another run of the sweep evaluates the same baseline: waiting for it")
            is_logged = True
            time.sleep(_POLL_S)


def _entered(stack: contextlib.ExitStack, directory: pathlib.Path) -> bool:
    """Locks if no other process has; returns whether it did."""
    copy = working_copy_of(directory)
    if copy is not None and bucket_lock.is_held((copy.remote / _LOCK).read_version()[0]):
        return False
    lock = locked(directory / _LOCK, _PURPOSE) if copy is None else copy.locked(_LOCK, _PURPOSE)
    try:
        stack.enter_context(lock)
    except UserError:
        if copy is None and is_locked(directory / _LOCK):
            return False
        if copy is not None and bucket_lock.is_held((copy.remote / _LOCK).read_version()[0]):
            return False
        raise
    return True


def _copier(shared: ResultsStore, predictions: pathlib.Path, split: str) -> Copy:
    """Returns the function that copies the numbers of a dataset in a template.

    Args:
      shared: the results that have them.
      predictions: the folder of their predictions.
      split: that was evaluated.
    """

    def copy(
        dataset: Dataset, template: Template, setting: Setting, folder: pathlib.Path | None
    ) -> TemplateResult:
        source = dataclasses.replace(setting, run=_RUN)
        name = name_of(source, dataset.name, split, template.id)
        rows = [
            dataclasses.replace(row, run=setting.run)
            for row in shared.rows()
            if name_of(row, row.dataset, row.split, row.template) == name
        ]
        if folder is not None:
            file = predictions / file_name(dataset.name, split, template.id)
            write_file(folder / file.name, file.read_bytes())
            units = file.with_suffix(unit_scores.SUFFIX)
            unit_scores.copy(units, folder / units.name, setting.run)
        return TemplateResult(rows, 0)

    return copy
