"""Evaluating rendered datasets into tidy results: `results.csv`, one number a row, and the
predictions behind them.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import dataclasses
import fcntl
import io
import json
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flan_jax import metrics
from flan_jax.catalogue.records import Dataset
from flan_jax.errors import UserError
from flan_jax.evaluation import unit_scores
from flan_jax.messages import escaped, shown
from flan_jax.metrics.numbers import Number
from flan_jax.metrics.targets import Prediction, class_of
from flan_jax.storage.files import read_json, readable, write_file

if TYPE_CHECKING:
    from flan_jax.data.shards import EvalExamples

# Values of the column `model` with a meaning of their own; any other names a tuned model.
MAJORITY, UNTUNED = "majority", "untuned"
# The files of results: the numbers, whose they are, which are up to date, and what to quote beside
# each metric.
RESULTS, RUNS, EVALUATED, SIGNATURES = (
    "results.csv",
    "runs.json",
    "evaluated.json",
    "signatures.json",
)
# The columns `template` and `instruction_mode` of the majority class, which no wording changes.
ANY = "any"


class Scored(NamedTuple):
    """The options of a row, O of them.

    Attributes:
      sums: summed log-probability of each literal option after the row's input, EOS included,
        float64 [O].
      unconditional: the same after `UNCONDITIONAL_INPUT` instead of the row's input.
      tokens: number of tokens of each, EOS included.
      texts: the options themselves.
    """

    sums: np.ndarray
    unconditional: np.ndarray
    tokens: np.ndarray
    texts: Sequence[str]


# What stands in the place of a row's input for 'unconditional' (Brown et al. 2020, section 2.4).
UNCONDITIONAL_INPUT = "Answer:"

# How the options of a row compare. 'sum' is the log-probability of the literal option and what
# tables show; 'unconditional' takes off how likely the option is by itself (Brown et al. 2020,
# section 2.4).
SCORINGS: dict[str, Callable[[Scored], np.ndarray]] = {
    "sum": lambda of: of.sums,
    "per_token": lambda of: of.sums / of.tokens,
    "per_char": lambda of: of.sums / [max(len(text), 1) for text in of.texts],
    "per_byte": lambda of: of.sums / [max(len(text.encode()), 1) for text in of.texts],
    "unconditional": lambda of: of.sums - of.unconditional,
}


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """One number: the columns of `results.csv`, in their order.

    Attributes:
      run: name of the run; step: of the checkpoint; model: 'majority', 'untuned' or a name; size:
        of the model.
      cluster, dataset, split, template, kind: what was evaluated; the majority class has template
        'any'.
      shots: number of exemplars; instruction_mode: 'template', 'none', 'dataset_name' or
        'baseline', and behind it the style of the options where that is not the usual one, e.g.
        'template, options none'; the majority class has 'any'.
      scoring: one of `SCORINGS` (ranked options), 'greedy' (generated text) or 'majority'.
      metric: a key that one of `metrics.METRICS` gives; the first of a dataset is the one that
        tables show.
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
_WHOLE, _NUMBER = (
    re.compile(r"\d{1,15}", re.ASCII),
    re.compile(r"-?\d+(\.\d*)?(e[-+]?\d+)?", re.ASCII),
)
# Numbers are percentages; what lies far beyond is damage, and would overflow in a mean.
_LARGEST_VALUE = 1e6


@dataclasses.dataclass(frozen=True)
class Setting:
    """The columns of `ResultRow` that all rows of one evaluation share."""

    run: str
    step: int
    model: str
    size: str
    shots: int = 0
    instruction_mode: str = "template"


def evaluate(
    examples: Iterable[EvalExamples],
    datasets: Mapping[str, Dataset],
    setting: Setting,
    rank: Callable[[Sequence[np.ndarray], Sequence[Sequence[np.ndarray]]], list[np.ndarray]],
    generate: Callable[[Sequence[np.ndarray]], list[tuple[str, bool]]],
    rank_unconditional: Callable[[Sequence[np.ndarray]], np.ndarray],
    predictions_dir: str | pathlib.Path | None = None,
) -> Iterator[tuple[list[ResultRow], int]]:
    """Scores datasets one template at a time; yields, once its predictions are on disk, (rows, cut
    answers) of each.

    Args:
      examples: rendered splits in forward templates, or in inverted ones of datasets with
        `inverted_metrics`.
      datasets: by name, for cluster and metrics; the catalogue will do.
      setting: the columns that all rows share.
      rank: inputs and options (int32 ids each) -> summed log-probabilities of each row's options;
        see `RankScorer`.
      generate: inputs -> texts, and whether each was cut; see `Generator.answers`.
      rank_unconditional: options -> their summed log-probabilities after `UNCONDITIONAL_INPUT`.
      predictions_dir: where to write `<dataset>.<split>.<template>.jsonl`; None writes nothing.

    Raises:
      UserError: for another inverted template, which asks what the dataset's metrics do not
        measure, no rows, or scores that are not finite.
    """
    unconditional = _Unconditional(rank_unconditional)
    for example in examples:
        where = f"{example.dataset}/{example.template} ({example.split})"
        if example.kind != "forward" and not datasets[example.dataset].inverted_metrics:
            raise UserError(
                f"{where} is an inverted template, which is not evaluated; give forward templates "
                "only."
            )
        if not example.texts:
            raise UserError(
                f"{where} has no rows to evaluate; `flan-jax tasks check` shows why rows are "
                f"dropped."
            )
        if example.options is None:
            written = generate(example.inputs)
            predictions, scores = {"greedy": [text for text, _ in written]}, None
            cut = [is_cut for _, is_cut in written]
        else:
            cut, scores = [], rank(example.inputs, example.options)
            if not all(np.isfinite(row).all() for row in scores):
                raise UserError(
                    f"{where}: the model gives scores that are not numbers, of which none is the "
                    "best; are its parameters finite, and is its dtype one that it was made for?"
                )
            predictions = rank_predictions(
                scores,
                unconditional.scores(example.options),
                example.options,
                [text["options"] for text in example.texts],
            )
        numbers = {
            scoring: _numbers(example, datasets[example.dataset], chosen)
            for scoring, chosen in predictions.items()
        }
        rows = [
            row
            for scoring, values in numbers.items()
            for row in _rows(example, datasets[example.dataset], setting, scoring, values)
        ]
        if predictions_dir is not None:
            path = pathlib.Path(predictions_dir) / predictions_name(
                example.dataset, example.split, example.template
            )
            write_lines(path, _prediction_lines(example, predictions, scores, cut))
            headline = next(iter(next(iter(numbers.values())).values()))
            unit_scores.write(
                path.with_suffix(unit_scores.SUFFIX), rows[0], headline.measure, example.row_ids
            )
        yield rows, sum(cut)


def predictions_name(dataset: str, split: str, template: str) -> str:
    """The file name of the predictions on a split in a template; what each row contributes has
    another suffix.
    """
    return f"{dataset}.{split}.{template}.jsonl"


def rank_predictions(
    scores: Sequence[np.ndarray],
    unconditional: Sequence[np.ndarray],
    options: Sequence[Sequence[np.ndarray]],
    texts: Sequence[Sequence[str]],
) -> dict[str, list[int]]:
    """The best option of each row under each scoring, 'sum' first; the first option wins a tie.

    Args:
      scores, unconditional: per row, `Scored.sums` and `Scored.unconditional`.
      options: per row, the options' token ids.
      texts: per row, the options' texts.
    """
    tokens = [np.array([len(ids) for ids in row]) for row in options]
    rows = [Scored(*of) for of in zip(scores, unconditional, tokens, texts)]
    return {
        name: [int(np.argmax(scoring(row))) for row in rows] for name, scoring in SCORINGS.items()
    }


class _Unconditional:
    """The scores of options after no row's input. All options of a template are scored together, so
    that the numbers do not depend on which templates came before; templates with the same options
    share them.
    """

    def __init__(self, rank: Callable[[Sequence[np.ndarray]], np.ndarray]):
        self._rank = rank
        self._known: dict[bytes, np.float64] = {}

    def scores(self, options: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
        """The scores of each row's options."""
        distinct = {ids.tobytes(): ids for row in options for ids in row}
        if list(self._known) != list(distinct):
            self._known = dict(zip(distinct, self._rank(list(distinct.values()))))
        return [np.array([self._known[ids.tobytes()] for ids in row]) for row in options]


def majority_rows(examples: EvalExamples, dataset: Dataset, setting: Setting) -> list[ResultRow]:
    """What always answering the most frequent class of these rows would score: model 'majority',
    template 'any'.

    For options that come from the row it is their most frequent position. Empty for datasets
    without options. Of equally frequent classes the lowest is taken.
    """
    if examples.options is None:
        return []
    labels = collections.Counter(class_of(text, text["label"]) for text in examples.texts)
    most = min(labels, key=lambda label: (-labels[label], label))
    predictions = []
    for text in examples.texts:
        classes = [class_of(text, index) for index in range(len(text["options"]))]
        predictions.append(classes.index(most) if most in classes else 0)
    setting = dataclasses.replace(
        setting, model=MAJORITY, size="", step=0, shots=0, instruction_mode=ANY
    )
    examples = dataclasses.replace(examples, template=ANY)
    return _rows(examples, dataset, setting, MAJORITY, _numbers(examples, dataset, predictions))


def write_results(path: str | pathlib.Path, rows: Iterable[ResultRow]) -> None:
    """Writes `results.csv`, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(dataclasses.astuple(row) for row in rows)
    write_file(path, text.getvalue())


def read_results(path: str | pathlib.Path) -> list[ResultRow]:
    """Reads a `results.csv`.

    Returns:
      Its rows; a line that is there twice counts once.

    Raises:
      UserError: if the file is missing or unreadable, has other columns, a line that is not a
        result, or two numbers for the same thing.
    """
    rows: dict[tuple, ResultRow] = {}
    whole = 0  # lines
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.reader(file, strict=True)
            if tuple(next(reader, ())) != COLUMNS:
                raise UserError(
                    f"{path} is not a results file: its first line must be {','.join(COLUMNS)}"
                )
            whole = reader.line_num
            for fields in filter(None, reader):
                with readable(f"{path}, line {reader.line_num}", _TAKE_OUT):
                    row = _parse_row(fields)
                    if rows.setdefault(_key_of_line(row), row) != row:
                        raise ValueError(f"a second number for {row.dataset}/{row.template}")
                whole = reader.line_num
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist; give the results.csv of a run that was evaluated."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not readable after line {whole} ({shown(error)}); {_TAKE_OUT}."
        ) from error
    return list(rows.values())


_TAKE_OUT = "take out what is damaged, or move the file away, and evaluate again"


def _parse_row(fields: Sequence[str]) -> ResultRow:
    """The row of one line's fields; raises a ValueError that says what is wrong."""
    if len(fields) != len(COLUMNS):
        raise ValueError(f"{len(fields)} fields instead of {len(COLUMNS)}")
    row: dict[str, Any] = dict(zip(COLUMNS, fields))
    for name, text in row.items():
        if name in ("step", "shots", "n"):
            if not _WHOLE.fullmatch(text):
                raise ValueError(f"{name} is {shown(repr(text))}")
            row[name] = int(text)
        elif name in ("value", "stderr"):
            row[name] = None if name == "stderr" and not text else _parse_value(name, text)
        elif escaped(text) != text or "\n" in text:
            raise ValueError(f"control characters in {name}")
    return ResultRow(**row)


def _parse_value(name: str, text: str) -> float:
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not abs(value) <= _LARGEST_VALUE or (name == "stderr" and value < 0):
        raise ValueError(f"{name} is {shown(repr(text))}")
    return value


def _key_of_line(row: ResultRow) -> tuple:
    """What a line is about; the majority class of other rows is another."""
    return (*key(row), row.n if row.model == MAJORITY else 0)


def update_results(path: str | pathlib.Path, rows: Iterable[ResultRow]) -> None:
    """Adds rows to a results file, in the place of all that an older evaluation of the same
    gave.
    """
    groups: dict[tuple, list[ResultRow]] = {}
    for row in read_results(path) if pathlib.Path(path).exists() else ():
        groups.setdefault(_evaluation(row), []).append(row)
    new: dict[tuple, list[ResultRow]] = {}
    for row in rows:
        new.setdefault(_evaluation(row), []).append(row)
    merged = [row for group in (groups | new).values() for row in group]
    write_results(path, merged)


def _evaluation(row: ResultRow) -> tuple:
    """The evaluation that a row comes from: one model, one way of asking. The majority class of
    other rows is another.
    """
    return (
        row.run,
        row.model,
        row.step,
        row.shots,
        row.instruction_mode,
        row.dataset,
        row.split,
        row.template,
        row.n if row.model == MAJORITY else 0,
    )


def remember_run(
    directory: pathlib.Path, run: pathlib.Path, trained_on: Iterable[str], source: str = ""
) -> None:
    """Notes in `runs.json`, beside the results, what the run that the column `run` names is.

    Args:
      directory: of the results.
      run: the run's directory.
      trained_on: the datasets that it trained on.
      source: where the evaluated rows come from, for readers.
    """
    with alone_in(directory):
        one = {"directory": str(run.resolve()), "trained_on": sorted(trained_on), "source": source}
        write_file(
            directory / RUNS, json.dumps({**known_runs(directory), run_name(run): one}, indent=1)
        )


def check_whose(directory: pathlib.Path, run: pathlib.Path, model: str) -> None:
    """Makes sure that numbers of a run do not take the place of those of another run of its name.

    Raises:
      UserError: if the results in `directory` have that model of a run that lies elsewhere.
    """
    name, path = run_name(run), directory / RESULTS
    home = pathlib.Path(known_runs(directory).get(name, {}).get("directory", run))
    if home.resolve() == run.resolve() or not home.exists() or directory.resolve() == run.resolve():
        return  # a run that is no longer where it was has moved
    if path.exists() and any((row.run, row.model) == (name, model) for row in read_results(path)):
        raise UserError(
            f"{path} has the numbers of {model!r} of another run {name!r}, that in {home}; give "
            "another --name or --output."
        )


def run_name(directory: pathlib.Path) -> str:
    """What the column `run` calls the run of a directory: by the directory's name, and after a move
    as before.

    A copy, beside which the original is still there, is another run.
    """
    place, known = directory.resolve(), known_runs(directory)
    homes = {name: pathlib.Path(run["directory"]) for name, run in known.items()}
    here = next((name for name, home in homes.items() if home == place), None)
    first = next(iter(homes), None)
    if here is None and first is not None and not homes[first].exists():
        return first
    return here or place.name


def known_runs(directory: pathlib.Path) -> dict[str, dict[str, Any]]:
    """What `remember_run` noted in a directory: by the run's name, its 'directory', 'trained_on'
    and 'source'.

    Raises:
      UserError: if the file is damaged.
    """
    path = directory / RUNS
    advice = "delete it: it is written again with the next evaluation"
    runs = read_json(path, advice=advice) if path.is_file() else {}
    with readable(path, advice):
        for name, run in runs.items():
            if not _is_list_of_texts([run["directory"], run.get("source", ""), *run["trained_on"]]):
                raise ValueError(f"{shown(name)} lacks its directory or what it trained on")
    return runs


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def read_texts(path: pathlib.Path) -> dict[str, str]:
    """Returns the object of `evaluated.json` or `signatures.json`, whose values are texts; empty
    without the file.

    Raises:
      UserError: if the file is damaged.
    """
    advice = "delete it: it is written again, after an evaluation of what it named"
    texts = read_json(path, advice=advice) if path.is_file() else {}
    with readable(path, advice):
        if not _is_list_of_texts(list(texts.values())):
            raise ValueError("a value is not a text")
    return texts


def check_files(directory: pathlib.Path) -> None:
    """Reads the files of results in a directory, so that damage is found before the work and not
    after it.

    Raises:
      UserError: if one of them is damaged.
    """
    known_runs(directory)
    for name in (EVALUATED, SIGNATURES):
        read_texts(directory / name)
    if (directory / RESULTS).exists():
        read_results(directory / RESULTS)
    for _ in unit_scores.read_all(directory):
        pass


@contextlib.contextmanager
def alone_in(directory: pathlib.Path) -> Iterator[None]:
    """Waits until no other process is in here with the same directory: what is read and written
    again loses nothing.

    Raises:
      UserError: if the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"cannot write {directory} ({error.strerror}); give a directory you can write to."
        ) from error
    with lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_lines(path: str | pathlib.Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON lines, whole or not at all."""
    write_file(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def key(row: ResultRow) -> tuple:
    """What a row is about: all of it but the number."""
    return dataclasses.astuple(dataclasses.replace(row, value=0.0, stderr=None, n=0))


def metrics_of(dataset: Dataset, kind: str) -> Sequence[str]:
    """Names of the metrics that measure a dataset in templates of this kind."""
    return dataset.metrics if kind == "forward" else dataset.inverted_metrics


def _numbers(
    examples: EvalExamples, dataset: Dataset, predictions: Sequence[Prediction]
) -> dict[str, Number]:
    return metrics.score_all(metrics_of(dataset, examples.kind), examples.texts, predictions)


def _rows(
    examples: EvalExamples,
    dataset: Dataset,
    setting: Setting,
    scoring: str,
    numbers: Mapping[str, Number],
) -> list[ResultRow]:
    return [
        ResultRow(
            **dataclasses.asdict(setting),
            cluster=dataset.cluster,
            dataset=examples.dataset,
            split=examples.split,
            template=examples.template,
            kind=examples.kind,
            scoring=scoring,
            metric=key,
            value=float(number),
            stderr=number.stderr,
            n=len(examples.texts),
        )
        for key, number in numbers.items()
    ]


def _prediction_lines(
    examples: EvalExamples,
    predictions: Mapping[str, Sequence[Prediction]],
    scores: Sequence[np.ndarray] | None,
    cut: Sequence[bool],
) -> Iterator[dict[str, Any]]:
    chosen = next(iter(predictions.values()))
    for index, (row_id, text) in enumerate(zip(examples.row_ids, examples.texts)):
        line = {"row": row_id, "prompt": text["inputs"]}
        if scores is None:
            line |= {"cut": True} if cut[index] else {}
            yield line | {"prediction": chosen[index], "answer": text["answer"]}
        else:
            yield line | {
                "options": text["options"],
                "scores": [round(float(s), 6) for s in scores[index]],
                "prediction": text["options"][chosen[index]],
                "answer": text["answer"],
            }
