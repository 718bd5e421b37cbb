"""The results in a directory: `results.csv`, and beside it what its numbers come from.

`evaluated.json` has, for each dataset in a template, a digest of the rows, the parameters and the
setting behind its numbers, so that nothing is evaluated twice. `signatures.json` has what to quote
beside the numbers of each metric.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flan_jax import metrics
from flan_jax.errors import UserError
from flan_jax.evaluation import unit_scores
from flan_jax.evaluation.known_runs import RUNS, known_runs, run_name
from flan_jax.evaluation.result_rows import (
    MAJORITY,
    ResultRow,
    Setting,
    read_results,
    write_results,
)
from flan_jax.storage.files import read_json, readable, write_file
from flan_jax.storage.locks import alone_in
from flan_jax.storage.places import place
from flan_jax.storage.working_copy import address

RESULTS, EVALUATED, SIGNATURES = "results.csv", "evaluated.json", "signatures.json"


class ResultsStore:
    """The results in a directory, which several processes may add to at the same time.

    A file is read again only after another process has replaced it.

    Attributes:
      directory: where the files lie; it need not exist.
    """

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self._rows = _CachedFile(directory / RESULTS, _read_rows)
        self._evaluated = _CachedFile(directory / EVALUATED, _read_texts)
        self._signatures = _CachedFile(directory / SIGNATURES, _read_texts)

    def check(self) -> None:
        """Reads all files, so that damage is found before an evaluation and not after it.

        Raises:
          UserError: if one of them is damaged.
        """
        known_runs(self.directory)
        for file in (self._evaluated, self._signatures, self._rows):
            file.read()
        for _ in unit_scores.read_all(self.directory):
            pass

    def check_run(self, run: pathlib.Path, model: str) -> None:
        """Checks that numbers of a run do not replace those of another run of the same name.

        Args:
          run: the directory of the run.
          model: the column `model` of the numbers.

        Raises:
          UserError: if there are numbers of that model of a run that lies elsewhere.
        """
        name = run_name(run)
        home = known_runs(self.directory).get(name, {}).get("directory", address(run))
        if home == address(run) or self._is_in(run) or not place(home, RUNS).exists():
            return
        if any((row.run, row.model) == (name, model) for row in self.rows()):
            raise UserError(
                f"{self.directory / RESULTS} has the numbers of {model!r} of another run {name!r}, "
                f"that in {home}; give another --name or --output."
            )

    def _is_in(self, run: pathlib.Path) -> bool:
        return self.directory.resolve() == run.resolve()

    def rows(self) -> Sequence[ResultRow]:
        """Returns the rows of `results.csv`; none without the file.

        Raises:
          UserError: if it is damaged.
        """
        return self._rows.read()

    def complete(self, digests: Mapping[str, str]) -> set[str]:
        """Returns the names whose numbers are all there and come from what the digests stand for.

        Args:
          digests: by `name_of` some rows, a digest of what their numbers come from.

        Raises:
          UserError: if a file is damaged.
        """
        evaluated = self._evaluated.read()
        count = collections.Counter(_name_of_row(row) for row in self.rows())
        return {
            name
            for name, digest in digests.items()
            if evaluated.get(name) == f"{digest} {count[name]}"
        }

    def rows_evaluated(self) -> collections.Counter[str]:
        """Returns how many rows of a dataset the numbers are of, by their `name_of`."""
        most = collections.Counter[str]()
        for row in self.rows():
            name = _name_of_row(row)
            most[name] = max(most[name], row.n)
        return most

    def add(
        self, rows: Sequence[ResultRow], baselines: Sequence[ResultRow], name: str, digest: str
    ) -> None:
        """Adds the numbers of a dataset in a template, in place of those of an older evaluation.

        Args:
          rows: the numbers of the model.
          baselines: numbers that belong beside them.
          name: see `name_of`.
          digest: of what the numbers come from.

        Raises:
          UserError: if a file is damaged or cannot be written.
        """
        with alone_in(self.directory):
            self._write_rows(merged(self.rows(), [*rows, *baselines]))
            self._write_texts(
                self._evaluated, {**self._evaluated.read(), name: f"{digest} {len(rows)}"}, indent=0
            )

    def remove(self, is_stale: Callable[[ResultRow], bool]) -> None:
        """Removes rows from `results.csv`.

        Raises:
          UserError: if it is damaged or cannot be written.
        """
        with alone_in(self.directory):
            self._write_rows([row for row in self.rows() if not is_stale(row)])

    def add_signatures(self, names: Iterable[str]) -> None:
        """Notes what to quote beside the numbers of metrics.

        Raises:
          UserError: if the file is damaged or cannot be written.
        """
        signatures = {name: metrics.signature(name) for name in sorted(names)}
        with alone_in(self.directory):
            self._write_texts(self._signatures, {**self._signatures.read(), **signatures}, indent=1)

    def _write_rows(self, rows: Sequence[ResultRow]) -> None:
        write_results(self._rows.path, rows)
        self._rows.replaced_by(rows)

    def _write_texts(self, file: _CachedFile, texts: dict[str, str], indent: int) -> None:
        write_file(file.path, json.dumps(texts, indent=indent))
        file.replaced_by(texts)


def name_of(setting: Setting | ResultRow, dataset: str, split: str, template: str) -> str:
    """Returns how `evaluated.json` names the rows of a dataset in a template.

    Args:
      setting: of the evaluation, or one of its rows.
      dataset: its name.
      split: of the dataset.
      template: its id.
    """
    parts = [
        setting.run,
        setting.model,
        f"step {setting.step}",
        setting.instruction_mode,
        f"{setting.shots} shots",
        dataset,
        split,
        template,
    ]
    return "/".join(parts)


def merged(old: Iterable[ResultRow], new: Iterable[ResultRow]) -> list[ResultRow]:
    """Returns old and new rows, without old ones of an evaluation that the new ones repeat."""
    groups: dict[tuple, list[ResultRow]] = {}
    for row in old:
        groups.setdefault(evaluation_of_row(row), []).append(row)
    replacements: dict[tuple, list[ResultRow]] = {}
    for row in new:
        replacements.setdefault(evaluation_of_row(row), []).append(row)
    return [row for group in (groups | replacements).values() for row in group]


def evaluation_of_row(row: ResultRow) -> tuple[str, int]:
    """Returns the evaluation that a row comes from; the majority class of other rows is another."""
    return _name_of_row(row), row.n if row.model == MAJORITY else 0


def _name_of_row(row: ResultRow) -> str:
    return name_of(row, row.dataset, row.split, row.template)


class _CachedFile:
    """The contents of a file, which is read again only after it was replaced.

    Attributes:
      path: of the file.
    """

    def __init__(self, path: pathlib.Path, read: Callable[[pathlib.Path], Any]):
        self.path = path
        self._read = read
        self._state: tuple[int, int, int] | None = None
        self._contents: Any = None

    def read(self) -> Any:
        """Returns the contents."""
        state = self._current_state()
        if state is None or state != self._state:
            # A file that is replaced meanwhile has another state, and is read again next time.
            self._contents, self._state = self._read(self.path), state
        return self._contents

    def replaced_by(self, contents: Any) -> None:
        """Notes the contents that just replaced the file under the lock of its directory."""
        self._contents, self._state = contents, self._current_state()

    def _current_state(self) -> tuple[int, int, int] | None:
        try:
            # Opened, since a network file system answers `stat` from its cache, but not `open`.
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


def _read_rows(path: pathlib.Path) -> list[ResultRow]:
    return read_results(path) if path.exists() else []


def _read_texts(path: pathlib.Path) -> dict[str, str]:
    """The object of a JSON file whose values are texts; empty without the file."""
    advice = "delete it: it is written again, after an evaluation of what it named"
    texts = read_json(path, advice=advice) if path.is_file() else {}
    with readable(path, advice):
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("a value is not a text")
    return texts
