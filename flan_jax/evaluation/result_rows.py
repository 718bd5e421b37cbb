"""Rows of results: one number each, and the file format of `results.csv`."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from flan_jax.config.checks import quoted
from flan_jax.errors import UserError
from flan_jax.messages import escaped, shown
from flan_jax.storage.files import readable, write_file

# Values of the column `model` with a meaning of their own; any other names a tuned model.
MAJORITY, UNTUNED = "majority", "untuned"
# The columns `template` and `instruction_mode` of the majority class, which no wording changes.
ANY = "any"
# In `instruction_mode` where what the model reads goes through its chat template.
CHAT = "chat template"


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """One number: the columns of `results.csv`, in their order.

    Attributes:
      run: name of the run.
      step: of the checkpoint.
      model: 'majority', 'untuned' or a name.
      size: of the model.
      cluster, dataset, split, template, kind: what was evaluated; the majority class has template
        'any'.
      shots: number of exemplars.
      instruction_mode: 'template', 'none', 'dataset_name' or 'baseline', followed by the style of
        the options where that is not the usual one, e.g. 'template, options none', and by 'chat
        template' where the model reads through one; the majority class has 'any'.
      scoring: one of `option_scores.SCORINGS` (ranked options), 'greedy' (generated text) or
        'majority'.
      metric: a key that a metric returns; the first one of a dataset is the one that tables show.
      value, stderr: in percent; the standard error is None below two rows.
      n: number of rows evaluated.
    """

    run: str
    step: int
    model: str
    size: str
    cluster: str
    dataset: str
    split: str
    template: str
    kind: str
    shots: int
    instruction_mode: str
    scoring: str
    metric: str
    value: float
    stderr: float | None
    n: int


COLUMNS = tuple(field.name for field in dataclasses.fields(ResultRow))


@dataclasses.dataclass(frozen=True)
class Setting:
    """The columns of `ResultRow` that all rows of one evaluation share."""

    run: str
    step: int
    model: str
    size: str
    shots: int = 0
    instruction_mode: str = "template"


def without_number(row: ResultRow) -> tuple:
    """Returns all columns of a row except its number: what the number is of."""
    return tuple({**vars(row), "value": 0.0, "stderr": None, "n": 0}.values())


def write_results(path: str | pathlib.Path, rows: Iterable[ResultRow]) -> None:
    """Writes `results.csv`, whole or not at all.

    Raises:
      UserError: if it cannot be written.
    """
    write_file(path, results_text(rows))


def results_text(rows: Iterable[ResultRow]) -> str:
    """Returns the contents of a `results.csv`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(dataclasses.astuple(row) for row in rows)
    return text.getvalue()


def read_results(path: str | pathlib.Path) -> list[ResultRow]:
    """Reads a `results.csv`.

    Returns:
      Its rows; a line that is there twice counts once.

    Raises:
      UserError: if the file is missing or unreadable, has other columns, a line that is not a
        result, or two numbers for the same thing.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return parse_results(file, path)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist; give the results.csv of a run that was evaluated."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error


def parse_results(lines: Iterable[str], path: object) -> list[ResultRow]:
    """Returns the rows of the lines of a `results.csv`; see `read_results`.

    Raises:
      UserError: as `read_results`; `path` names the file.
    """
    rows: dict[tuple, ResultRow] = {}
    intact = 0  # lines
    try:
        reader = csv.reader(lines, strict=True)
        if tuple(next(reader, ())) != COLUMNS:
            raise UserError(
                f"{path} is not a results file: its first line must be {','.join(COLUMNS)}"
            )
        intact = reader.line_num
        for fields in filter(None, reader):
            with readable(f"{path}, line {reader.line_num}", _ADVICE):
                row = _parse_row(fields)
                if rows.setdefault(_identity(row), row) != row:
                    raise ValueError(f"a second number for {row.dataset}/{row.template}")
            intact = reader.line_num
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not readable after line {intact} ({shown(error)}); {_ADVICE}."
        ) from error
    return list(rows.values())


_ADVICE = "take out what is damaged, or move the file away, and evaluate again"
_COUNT = re.compile(r"\d{1,15}", re.ASCII)
_NUMBER = re.compile(r"-?\d+(\.\d*)?(e[-+]?\d+)?", re.ASCII)
# Numbers are percentages; what lies far beyond is damage, and would overflow in a mean.
_LARGEST_VALUE = 1e6


def _identity(row: ResultRow) -> tuple:
    """What makes a line another one; the majority class of other rows is another."""
    return (*without_number(row), row.n if row.model == MAJORITY else 0)


def _parse_row(fields: Sequence[str]) -> ResultRow:
    """The row of one line's fields; raises a ValueError that says what is wrong."""
    if len(fields) != len(COLUMNS):
        raise ValueError(f"{len(fields)} fields instead of {len(COLUMNS)}")
    row: dict[str, Any] = dict(zip(COLUMNS, fields))
    for name, text in row.items():
        if name in ("step", "shots", "n"):
            row[name] = _parse_count(name, text)
        elif name == "value" or (name == "stderr" and text):
            row[name] = _parse_value(name, text)
        elif name == "stderr":
            row[name] = None
        elif escaped(text) != text or "\n" in text:
            raise ValueError(f"control characters in {name}")
    return ResultRow(**row)


def _parse_count(name: str, text: str) -> int:
    if not _COUNT.fullmatch(text):
        raise ValueError(f"{name} is {quoted(text)}")
    return int(text)


def _parse_value(name: str, text: str) -> float:
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not abs(value) <= _LARGEST_VALUE or (name == "stderr" and value < 0):
        raise ValueError(f"{name} is {quoted(text)}")
    return value
