"""The rows that a page shows: prompts with what the tuned and the untuned model said.

Prompts stand once, however many runs were evaluated on them. Where not all rows fit, a fixed rule
chooses some, and each choice says of how many.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flan_jax.evaluation.predictions import read_predictions
from flan_jax.report.comparisons import Comparison
from flan_jax.report.summaries import Summary
from flan_jax.report.table import setting_differences
from flan_jax.storage.hashing import digest

# By `unit_scores.evaluation_of` a result row.
PredictionFiles = Mapping[tuple, pathlib.Path]
_Lines = dict[str, dict[str, Any]]

# Of one dataset in a template; the page is for looking, the files have the rest.
_MOST_ROWS = 60
# What JSON adds around a row.
_OVERHEAD = 40
# Log-probabilities and scores need no more for looking.
_DIGITS = 3


@dataclasses.dataclass(frozen=True)
class _Answers:
    """What one model of the table and its untuned model said on a task.

    Attributes:
      model: number of the model.
      total, counts: rows, and how many of them are wrong, or scored better or worse than by the
        untuned model.
      tuned, untuned: lines of the predictions of the kept rows, by row id.
      untuned_setting: of the untuned model, where it is another one.
    """

    model: int
    total: int
    counts: dict[str, int]
    tuned: _Lines
    untuned: _Lines
    untuned_setting: str


class _Side(NamedTuple):
    """A run on a dataset in a template: its name, its predictions and those of its untuned model.

    `untuned_setting` is what the untuned model was evaluated with, where that is something else.
    """

    label: str
    file: pathlib.Path
    untuned: pathlib.Path | None
    untuned_setting: str


@dataclasses.dataclass
class _Task:
    """Rows of a dataset in a template, with the answers of all models on them.

    Attributes:
      record: dataset, split and template.
      order: ids of the kept rows, those to be shown first in front.
      place: where each row stands in the file.
      answers: of models that were evaluated on these very rows.
    """

    record: dict[str, Any]
    order: list[str]
    place: dict[str, int]
    answers: list[_Answers]

    def size(self, row_id: str) -> int:
        """Returns about how many bytes a row adds to the page."""
        row = self._row(row_id)
        answers = [
            prediction for each in self.answers for prediction in self._predictions(each, row)
        ]
        return len(_json([row, answers]).encode()) + _OVERHEAD

    def page_record(self, count: int) -> dict[str, Any]:
        """Returns what the page has of the task, with its first `count` rows."""
        shown = sorted(self.order[:count], key=self.place.__getitem__)
        rows = [self._row(row_id) for row_id in shown]
        runs = []
        for each in self.answers:
            run = {"model": each.model, "total": each.total, "counts": each.counts}
            pairs = [self._predictions(each, row) for row in rows]
            run["tuned"] = [tuned for tuned, _ in pairs]
            if each.untuned:
                run["untuned"] = [untuned for _, untuned in pairs]
            if each.untuned_setting:
                run["untuned_setting"] = each.untuned_setting
            runs.append(run)
        return {**self.record, "rows": rows, "runs": runs}

    def _row(self, row_id: str) -> dict[str, Any]:
        """The prompt of a row and what counts as right."""
        line = self.answers[0].tuned[row_id]
        names = ("row", "prompt", "options", "answer", "references", "group")
        return {name: line[name] for name in names if name in line}

    def _predictions(
        self, answers: _Answers, row: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The predictions of a model and its untuned model; 'q' is another prompt of the latter."""
        tuned, untuned = answers.tuned[row["row"]], answers.untuned.get(row["row"])
        if untuned is None:
            return _prediction(tuned), None
        other = {"q": untuned["prompt"]} if untuned["prompt"] != row["prompt"] else {}
        return _prediction(tuned), _prediction(untuned) | other


def browsed_rows(
    lines: Sequence[Comparison], files: PredictionFiles, output: pathlib.Path, most_bytes: int
) -> dict[str, Any]:
    """Returns the rows for the browser of a page.

    Rows go in rounds over all datasets and templates until `most_bytes` are full.

    Args:
      lines: see `comparisons.compare`.
      files: of predictions.
      output: directory of the page, from which it names the directories of the rest.
      most_bytes: about how long the result may be as JSON.

    Returns:
      'models', each with its 'label' and 'directory', and 'tasks': each a dataset in a template
      with 'rows' and, for each of its models in 'runs', the answers in the order of the rows.

    Raises:
      UserError: if a file is damaged.
    """
    models: list[dict[str, str]] = []
    tasks = list(_tasks(lines, files, output, models))
    counts, room = [0] * len(tasks), most_bytes
    for number in range(_MOST_ROWS):
        for index, task in enumerate(tasks):
            if counts[index] < number or number >= len(task.order):
                continue
            size = task.size(task.order[number])
            if size <= room:
                room -= size
                counts[index] += 1
    records = [task.page_record(count) for task, count in zip(tasks, counts)]
    return {"models": models, "tasks": records}


def _tasks(
    lines: Sequence[Comparison],
    files: PredictionFiles,
    output: pathlib.Path,
    models: list[dict[str, str]],
) -> Iterator[_Task]:
    """Yields the tasks of the lines of which there are predictions; adds their models."""
    numbers: dict[tuple[str, str], int] = {}
    for (_, dataset, split, template, *_), sides in _sides(lines, files).items():
        record = {"dataset": dataset, "split": split, "template": template}
        by_rows: dict[str, list[_Answers]] = {}
        for side in sides:
            directory = pathlib.Path(os.path.relpath(side.file.parent, output)).as_posix()
            model = (side.label, directory)
            if model not in numbers:
                numbers[model] = len(models)
                models.append(dict(zip(("label", "directory"), model)))
            answers = _answers(numbers[model], side)
            # Rows of one id may be others: of another source, or truncated elsewhere.
            by_rows.setdefault(_digest_of_rows(answers.tuned), []).append(answers)
        for same in by_rows.values():
            place = {row_id: number for number, row_id in enumerate(same[0].tuned)}
            order = _order(place, same)
            for each in same:
                _keep(each, order)
            yield _Task(record, order, place, same)


def _digest_of_rows(lines: _Lines) -> str:
    names = ("row", "prompt", "options", "answer")
    return digest([[line.get(name) for name in names] for line in lines.values()])


def _sides(lines: Sequence[Comparison], files: PredictionFiles) -> dict[tuple, list[_Side]]:
    """The runs of the lines of which there are predictions, by dataset, template and prompts."""
    sides: dict[tuple, list[_Side]] = {}
    for line in lines:
        summary = line.any
        prompts = (summary.series.instruction_mode, summary.series.shots)
        for run, template in itertools.product(summary.runs, summary.templates):
            file = _file_of(summary, run, template, files) if line.dataset else None
            if file is None:
                continue
            label = line.label or summary.series.model
            label = label if len(summary.runs) == 1 else f"{label}, {run}"
            untuned, setting = None, ""
            if line.tuned and line.untuned:
                untuned = _file_of(line.untuned, run, template, files)
                if prompts != (line.untuned.series.instruction_mode, line.untuned.series.shots):
                    setting = ", ".join(setting_differences(line))
            key = (line.cluster, line.dataset, summary.split, template, *prompts)
            sides.setdefault(key, []).append(_Side(label, file, untuned, setting))
    return sides


def _answers(model: int, side: _Side) -> _Answers:
    """The answers of a run beside those of its untuned model, with what the page counts."""
    tuned = _by_row(side.file)
    untuned = _by_row(side.untuned) if side.untuned is not None else {}
    counts = {"wrong": sum(_score(own) < 100 for own in tuned.values()), "better": 0, "worse": 0}
    for row_id in tuned.keys() & untuned.keys():
        change = _score(tuned[row_id]) - _score(untuned[row_id])
        counts["better"] += change > 0
        counts["worse"] += change < 0
    return _Answers(model, len(tuned), counts, tuned, untuned, side.untuned_setting)


def _file_of(
    summary: Summary, run: str, template: str, files: PredictionFiles
) -> pathlib.Path | None:
    """The predictions behind the numbers of a run in a template."""
    series = summary.series
    setting = (run, series.model, series.step, series.shots, series.instruction_mode)
    return files.get((*setting, summary.dataset, summary.split, template))


def _by_row(file: pathlib.Path) -> _Lines:
    return {line["row"]: line for line in read_predictions(file)}


def _order(place: Mapping[str, int], answers: Sequence[_Answers]) -> list[str]:
    """The row ids to keep: by turns one that tuning changed in some run, and one of the others.

    Among these the order is that of a hash, so that it depends on no other row.
    """

    def has_changed(row_id: str) -> bool:
        return any(
            row_id in each.untuned and _score(each.tuned[row_id]) != _score(each.untuned[row_id])
            for each in answers
        )

    drawn = sorted(place, key=lambda row_id: hashlib.sha256(row_id.encode()).digest())
    changed = [row_id for row_id in drawn if has_changed(row_id)]
    is_changed = set(changed)
    others = [row_id for row_id in drawn if row_id not in is_changed]
    pairs = min(len(changed), len(others))
    by_turns = [row_id for pair in zip(changed, others) for row_id in pair]
    return [*by_turns, *changed[pairs:], *others[pairs:]][:_MOST_ROWS]


def _keep(answers: _Answers, order: Sequence[str]) -> None:
    """Drops the lines of other rows, which the counts have seen."""
    for lines in (answers.tuned, answers.untuned):
        for row_id in lines.keys() - set(order):
            del lines[row_id]


def _score(line: Mapping[str, Any]) -> float:
    """The score of a row in percent; of a version without scores, whether it is the answer."""
    return line.get("score", 100.0 * (line["prediction"] == line["answer"]))


def _prediction(line: Mapping[str, Any]) -> dict[str, Any]:
    """What the page has of a prediction: 's' its score, and the option chosen, or the text."""
    record: dict[str, Any] = {"s": round(_score(line), 1)}
    if "options" in line:
        record["c"] = line["options"].index(line["prediction"])
        record["p"] = [round(score, _DIGITS) for score in line["scores"]]
    else:
        record["t"] = line["prediction"]
        if line.get("cut"):
            record["cut"] = 1
    return record


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
