"""The runs of the experiments of results.md, read from results/, and differences between them."""

from __future__ import annotations

import csv
import json
import pathlib
from typing import NamedTuple

import numpy as np

from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.metrics.intervals import welch_satterthwaite
from flan_jax.metrics.measures import Measure, mean_value
from flan_jax.metrics.uncertainty import Difference, error_of_both, paired_difference
from flan_jax.report.cluster_means import mean_difference, mean_over_datasets

RESULTS = pathlib.Path(__file__).parent / "results"


class Numbers(NamedTuple):
    """The numbers of a model on a dataset.

    Attributes:
      templates: their ids, for each seed one after the other.
      measures: one for each of them.
      same_answer: for each of them, the share of rows with its most frequent answer, in percent.
      majority: accuracy of the most frequent class, in percent; None for free text.
    """

    templates: list[str]
    measures: list[Measure]
    same_answer: list[float]
    majority: float | None


# By dataset.
Scores = dict[str, Numbers]


class Run(NamedTuple):
    """A run of an experiment.

    Attributes:
      settings: those that its point sets.
      method: name of the gin file that its point adds; '' without one.
      record: its line of NAME_runs.csv.
      scores: by model, instructions and step.
    """

    settings: dict
    method: str
    record: dict[str, str]
    scores: dict[tuple[str, str, str], Scores]

    def of(self, model: str, instructions: str = "") -> Scores:
        """Returns the scores of a model with these instructions; '': of its only ones."""
        matching = [
            scores
            for (name, mode, _), scores in self.scores.items()
            if name == model and instructions in ("", mode.split(",")[0])
        ]
        if len(matching) != 1:
            raise ValueError(f"{len(matching)} evaluations of {model} with {instructions!r}")
        return matching[0]


class Line(NamedTuple):
    """A line of a table: A less B, on the same rows.

    Attributes:
      labels: the first cells.
      a, b: the scores.
    """

    labels: tuple[str, ...]
    a: Scores
    b: Scores

    def difference(self) -> Difference:
        """Returns the mean over datasets of A less B; its error is that of other rows.

        Raises:
          ValueError: if datasets, rows or templates of A and B differ.
        """
        templates = [{n: each.templates for n, each in scores.items()} for scores in self[1:]]
        if templates[0] != templates[1]:
            raise ValueError(f"{self.labels}: other datasets or templates: {templates}")
        return mean_difference(
            {
                name: paired_difference(self.a[name].measures, self.b[name].measures)
                for name in self.a
            }
        )

    def of_other_templates(self) -> Difference:
        """Returns the same difference; its error is that of other rows and other templates.

        A dataset in one template has no such error, and so the mean has none.
        """
        return mean_difference(
            {
                name: _of_other_templates(self.a[name].measures, self.b[name].measures)
                for name in self.a
            }
        )


def _of_other_templates(ours: list[Measure], theirs: list[Measure]) -> Difference:
    """A difference in which templates are a sample, like rows, with Satterthwaite's dof."""
    difference = paired_difference(ours, theirs)
    error = error_of_both([_less(a, b) for a, b in zip(ours, theirs)])
    if error is None or difference.stderr is None:
        return difference._replace(stderr=None)
    rows = difference.stderr**2
    templates = max(error**2 - rows, 0.0)
    dof = welch_satterthwaite([rows, templates], [difference.dof, len(ours) - 1])
    return difference._replace(stderr=error, dof=dof or difference.dof)


def _less(a: Measure, b: Measure) -> Measure:
    """The differences of scores by row, as the scores of one model."""
    return Measure(
        a.statistic, a.units, np.stack([a.parts[:, 0] - b.parts[:, 0], a.parts[:, 1]], 1)
    )


def read_runs(name: str) -> list[Run]:
    """Returns the runs of an experiment.

    Raises:
      ValueError: if a value is not the mean of its scores.
    """
    scores: dict[str, dict] = {}
    for line in _lines(f"{name}_scores.csv"):
        numerators = np.array(line["scores"].split(), np.float64)
        units = tuple(f"{line['rows']} {number}" for number in range(len(numerators)))
        measure = Measure("ratio", units, np.stack([numerators, np.ones_like(numerators)], 1))
        if abs(measure.value() - float(line["value"])) > 1e-3:
            raise ValueError(f"{line['value']} is not the mean of its scores: {line}")
        mode = f"{line['instruction_mode']}, {line['shots']} shots"
        evaluation = line["model"], mode, line["step"]
        majority = float(line["majority"]) if line["majority"] else None
        point_scores = scores.setdefault(line["point"], {}).setdefault(evaluation, {})
        numbers = point_scores.setdefault(line["dataset"], Numbers([], [], [], majority))
        numbers.templates.append(line["template"])
        numbers.measures.append(measure)
        numbers.same_answer.append(float(line["same_answer"]))
    return [
        Run(
            json.loads(record["settings"]),
            pathlib.PurePath(record["gin_files"]).stem,
            record,
            scores[record["point"]],
        )
        for record in _lines(f"{name}_runs.csv")
    ]


def mean(scores: Scores) -> float:
    """Returns the mean over datasets of the means over templates, in percent."""
    return mean_over_datasets(
        {name: 100 * mean_value(each.measures) for name, each in scores.items()}
    )


def same_answer(scores: Scores) -> str:
    """Returns the mean over datasets of the share of rows with the most frequent answer.

    Of the datasets whose rows have the same options; '' if there is none.
    """
    shares = {
        name: np.mean(each.same_answer)
        for name, each in scores.items()
        if isinstance(CATALOGUE[name].options, tuple)
    }
    return f"{mean_over_datasets(shares):.0f}" if shares else ""


def majority(scores: Scores) -> str:
    """Returns the mean over datasets of the most frequent class; '' with free text among them."""
    values = {name: each.majority for name, each in scores.items()}
    return "" if None in values.values() else f"{mean_over_datasets(values):.1f}"


def _lines(name: str) -> list[dict[str, str]]:
    with open(RESULTS / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
