"""What each unit of rows contributes to a headline number: `*.units.json`, beside the predictions.

Reports need it for the standard error of a mean over templates and for paired differences of
models.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flan_jax.metrics.measures import STATISTICS, Measure
from flan_jax.storage.files import read_json, readable, write_file

if TYPE_CHECKING:
    from flan_jax.evaluation.result_rows import ResultRow

SUFFIX = ".units.json"
_ADVICE = "delete it and run `flan-jax eval` again"
# Numbers are percentages; what lies far beyond is damage.
_LARGEST_VALUE = 1e6
# The columns of a result row that name the evaluation that a file belongs to.
COLUMNS = (
    "run",
    "model",
    "step",
    "shots",
    "instruction_mode",
    "dataset",
    "split",
    "template",
    "scoring",
    "metric",
)


def key(row: ResultRow) -> tuple:
    """Returns the evaluation and metric of a result row."""
    return tuple(getattr(row, name) for name in COLUMNS)


def evaluation_of(row: ResultRow) -> tuple:
    """Returns the evaluation of a result row: its `key` without scoring and metric."""
    return tuple(getattr(row, name) for name in COLUMNS[:-2])


def write(path: pathlib.Path, row: ResultRow, measure: Measure, row_ids: Sequence[str]) -> None:
    """Writes the measure of a result row.

    Args:
      path: ends in `SUFFIX`.
      row: the result row.
      measure: its units are numbers of rows.
      row_ids: the rows' ids.
    """
    columns = dict(zip(COLUMNS, key(row)))
    record = {
        **columns,
        "statistic": measure.statistic,
        "units": [row_ids[number] for number in measure.units],
        "parts": measure.parts.tolist(),
    }
    write_file(path, json.dumps(record, ensure_ascii=False) + "\n")


def copy(source: pathlib.Path, path: pathlib.Path, run: str) -> None:
    """Writes the measure of a file as that of another run.

    Raises:
      UserError: if the file is damaged.
    """
    record = {**read_json(source, advice=_ADVICE), "run": run}
    write_file(path, json.dumps(record, ensure_ascii=False) + "\n")


def read_all(directory: pathlib.Path) -> Iterator[tuple[tuple, Measure, pathlib.Path]]:
    """Yields the `key` and the measure of every file below `directory`/predictions.

    With them comes the file of the predictions that it belongs to, which need not be there.

    Raises:
      UserError: if a file is damaged.
    """
    for path in sorted((directory / "predictions").glob(f"*/*{SUFFIX}")):
        record = read_json(path, advice=_ADVICE)
        with readable(path, _ADVICE):
            item = _read(record)
        yield *item, path.with_name(path.name.removesuffix(SUFFIX) + ".jsonl")


def _read(record: dict[str, Any]) -> tuple[tuple, Measure]:
    """The key and the measure of a record.

    Raises:
      ValueError, KeyError, TypeError and the like: if it is damaged.
    """
    columns = {name: record[name] for name in COLUMNS}
    measure = Measure(
        record["statistic"], tuple(record["units"]), np.array(record["parts"], np.float64)
    )
    if measure.statistic not in STATISTICS or measure.parts.shape[0] != len(measure.units):
        raise ValueError("its statistic is unknown, or it does not have one part for each unit")
    numbers = [columns[name] for name in ("step", "shots")]
    texts = [value for name, value in columns.items() if name not in ("step", "shots")]
    texts += measure.units
    if not all(type(value) is int for value in numbers) or not all(
        isinstance(value, str) for value in texts
    ):
        raise ValueError("a number or a text is of another type")
    with np.errstate(all="ignore"):
        if not (np.isfinite(measure.parts).all() and abs(measure.value()) < _LARGEST_VALUE):
            raise ValueError("its parts make no number")
    return tuple(columns.values()), measure
