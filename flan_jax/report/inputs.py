"""What a report reads: rows of results files, what each row contributes, and what the runs are."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from flan_jax.config.run_status import FILE
from flan_jax.evaluation import unit_scores
from flan_jax.evaluation.known_runs import known_runs
from flan_jax.evaluation.result_rows import MAJORITY, ResultRow, read_results, without_number
from flan_jax.metrics.measures import Measure
from flan_jax.report.seeds import groups_of_seeds
from flan_jax.storage.working_copy import address

# Directories of a run that a report does not read.
_UNREAD = {"checkpoints", "profile", "tensorboard", "wandb"}


def is_read(name: str) -> bool:
    """Returns whether a report reads a file, by its name in the directory of a run or a sweep."""
    return not _UNREAD & set(name.split("/")[:-1])


class Inputs(NamedTuple):
    """Rows of results files, and what belongs to them.

    Attributes:
      rows: of all files; different runs of one name have the directories of their results for
        names, followed by their own name where a directory has several of them.
      measures: by `unit_scores.key` of a row, what each unit of rows contributes to it.
      seeds: see `seeds.groups_of_seeds`.
      homes: the directories of the runs by name.
      predictions: by `unit_scores.evaluation_of` a row, the file of its predictions.
    """

    rows: list[ResultRow]
    measures: dict[tuple, Measure]
    seeds: dict[str, str]
    homes: dict[str, pathlib.Path]
    predictions: dict[tuple, pathlib.Path]


def read_rows(paths: Sequence[pathlib.Path]) -> Inputs:
    """Returns the rows of several results files, and what belongs to them.

    Different runs of one name get other names, see `Inputs`. They are recognized by their
    directories, or, where a run was copied, by a number that both have.

    Args:
      paths: of results files, beside which `runs.json` and `predictions` lie.

    Raises:
      UserError: if a file is missing or damaged.
    """
    distinct = {path.resolve(): path for path in paths}
    files = {path: read_results(path) for path in distinct.values()}
    new_names = _new_names(files)
    named, measures, homes, predictions = [], {}, {}, {}
    for path, rows in files.items():
        kept = {key: (measure, file) for key, measure, file in unit_scores.read_all(path.parent)}
        for row in rows:
            renamed = dataclasses.replace(row, run=new_names.get((path, row.run), row.run))
            named.append(renamed)
            if unit_scores.key(row) in kept:
                measure, file = kept[unit_scores.key(row)]
                measures[unit_scores.key(renamed)] = measure
                if file.is_file():
                    predictions[unit_scores.evaluation_of(renamed)] = file
            if renamed.run not in homes:
                homes[renamed.run] = _place(path, row.run)
    return Inputs(named, measures, groups_of_seeds(named, homes), homes, predictions)


def tuned_on(paths: Sequence[pathlib.Path]) -> set[str]:
    """Returns the datasets on which the runs of these results files trained."""
    runs = [run for path in paths for run in known_runs(path.parent).values()]
    return {name for run in runs for name in run["trained_on"]}


def row_sources(paths: Sequence[pathlib.Path]) -> set[str]:
    """Returns where the evaluated rows come from, as far as it was noted."""
    runs = [run for path in paths for run in known_runs(path.parent).values()]
    return {run["source"] for run in runs if run.get("source")}


def _new_names(
    files: dict[pathlib.Path, list[ResultRow]],
) -> dict[tuple[pathlib.Path, str], str]:
    """(file, run) -> its name in the report, of runs that share a name with another run."""
    # run -> the run's directory -> the directory of the first results file of it
    homes: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for path, rows in files.items():
        for run in {row.run for row in rows}:
            homes[run].setdefault(_home(path, run), str(path.parent))
    copied = _copied_runs(files)
    names = {}
    for path, rows in files.items():
        for run in {row.run for row in rows}:
            if len(homes[run]) > 1:
                names[path, run] = homes[run][_home(path, run)]
            elif run in copied:
                names[path, run] = str(path.parent)
    # A directory with several of these runs names none of them.
    runs = collections.defaultdict(set)
    for (_, run), name in names.items():
        runs[name].add(run)
    return {
        (path, run): f"{name}/{run}" if len(runs[name]) > 1 else name
        for (path, run), name in names.items()
    }


def _copied_runs(files: dict[pathlib.Path, list[ResultRow]]) -> set[str]:
    """The runs of which two files have the same number."""
    seen = collections.Counter(
        without_number(row) for rows in files.values() for row in rows if row.model != MAJORITY
    )
    return {row.run for rows in files.values() for row in rows if seen[without_number(row)] > 1}


def _place(path: pathlib.Path, run: str) -> pathlib.Path:
    """Where a run lies: after a move, beside its results."""
    home = pathlib.Path(_home(path, run))
    return home if home.is_dir() else path.parent


def _home(path: pathlib.Path, run: str) -> str:
    """The directory of a run that a results file names.

    Of a run that was copied, or moved and another one put in its place, it is that of the results,
    beside which `run.json` lies. The first name in `runs.json` is that of the run there.
    """
    own, known = address(path.parent), known_runs(path.parent)
    home = known.get(run, {}).get("directory", own)
    lies_here = (path.parent / FILE).is_file() and run == next(iter(known), None)
    return own if lies_here and pathlib.Path(home).is_dir() else home
