"""Writes the tables of results.md from the rows in results/, which docs/collect_results.py writes.

  python docs/make_results.py [DIRECTORY]

Each table replaces the lines between `<!-- table: NAME -->` and `<!-- end -->`. Numbers, errors and
intervals are computed from the scores of single rows, by the functions of `flan-jax report`.
"""

from __future__ import annotations

import csv
import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from flan_jax.metrics.measures import Measure, mean_value
from flan_jax.metrics.multiple_comparisons import holm
from flan_jax.metrics.uncertainty import Difference, paired_difference
from flan_jax.report.cluster_means import (
    count_of_datasets,
    mean_difference,
    mean_over_datasets,
)

RESULTS = pathlib.Path(__file__).parent / "results"
PAGE = pathlib.Path(__file__).parent / "results.md"
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.S)


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
        """Returns the mean over datasets of A less B.

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
    """Returns the mean over datasets of the share of rows with the most frequent answer."""
    return f"{mean_over_datasets({n: np.mean(each.same_answer) for n, each in scores.items()}):.0f}"


def majority(scores: Scores) -> str:
    """Returns the mean over datasets of the most frequent class; '' with free text among them."""
    values = {name: each.majority for name, each in scores.items()}
    return "" if None in values.values() else f"{mean_over_datasets(values):.1f}"


def over_seeds(runs: Iterable[Run], model: str, instructions: str = "") -> Scores:
    """Returns the scores of several seeds: the templates of each, one after the other."""
    joined: Scores = {}
    for run in runs:
        for dataset, numbers in run.of(model, instructions).items():
            both = joined.setdefault(dataset, Numbers([], [], [], numbers.majority))
            both.templates.extend(numbers.templates)
            both.measures.extend(numbers.measures)
            both.same_answer.extend(numbers.same_answer)
    return joined


def table(heads: Sequence[str], names: tuple[str, str], lines: Sequence[Line]) -> list[str]:
    """Returns a table of differences, with p-values adjusted for the number of its lines."""
    differences = [line.difference() for line in lines]
    adjusted = holm({number: each.p for number, each in enumerate(differences)})
    columns = [*heads, "datasets", *names, "majority", "difference (95 %)", "p", "p, Holm"]
    columns += [f"same answer, {name}" for name in names]
    text = [_row(columns), _row(["---"] * (len(heads) + 1) + ["--:"] * 8)]
    for number, (line, difference) in enumerate(zip(lines, differences)):
        cells = [*line.labels, count_of_datasets(list(line.a))]
        cells += [f"{mean(line.a):.1f}", f"{mean(line.b):.1f}", majority(line.b)]
        cells += [_interval(difference), _p(difference.p), _p(adjusted[number])]
        cells += [same_answer(line.a), same_answer(line.b)]
        text.append(_row(cells))
    return text


def losses(heads: Sequence[str], lines: Sequence[tuple[tuple[str, ...], Run]]) -> list[str]:
    """Returns a table of validation losses and of what the runs cost."""
    columns = [*heads, "trained parameters", "tokens", "loss before", "after"]
    text = [_row(columns), _row(["---"] * len(heads) + ["--:"] * 4)]
    for labels, run in lines:
        record = run.record
        cells = [f"{int(record['trained_parameters']):,}", f"{int(record['tokens']):,}"]
        cells += [f"{float(record[name]):.3f}" for name in ("loss_before", "loss_after")]
        text.append(_row([*labels, *cells]))
    return text


def _interval(difference: Difference) -> str:
    if difference.interval is None:
        return f"{difference.value:+.1f}"
    low, high = difference.interval
    return f"{difference.value:+.1f} ({low:+.1f} to {high:+.1f})"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _lines(name: str) -> list[dict[str, str]]:
    with open(RESULTS / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# The tables of the page.


def methods() -> list[str]:
    """Tuned in three ways less untuned, by held-out cluster."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in read_runs("methods"):
        groups.setdefault((run.settings["HELD_OUT"], run.method), []).append(run)
    return table(
        ("held out", "method", "seeds"),
        ("tuned", "untuned"),
        [
            Line((*labels, seeds(runs)), over_seeds(runs, "tuned"), over_seeds(runs, "untuned"))
            for labels, runs in groups.items()
        ],
    )


def seeds(runs: Iterable[Run]) -> str:
    """Returns the seeds of runs, '0, 1'."""
    return ", ".join(sorted(str(run.settings["SEED"]) for run in runs))


def method_losses() -> list[str]:
    """Validation losses of the same runs."""
    runs = read_runs("methods")
    labels = [(run.settings["HELD_OUT"], run.method, str(run.settings["SEED"])) for run in runs]
    return losses(("held out", "method", "seed"), list(zip(labels, runs)))


TABLES: dict[str, Callable[[], list[str]]] = {"methods": methods, "method_losses": method_losses}


def page(text: str) -> str:
    """Returns the page with its tables written anew."""
    return MARKED.sub(
        lambda match: "\n".join([match[1].rstrip(), "", *TABLES[match[2]](), "", match[3]]), text
    )


def main() -> None:
    """Writes results.md with new tables, here or into the directory given."""
    directory = pathlib.Path(sys.argv[1]) if sys.argv[1:] else PAGE.parent
    text = page(PAGE.read_text(encoding="utf-8"))
    (directory / PAGE.name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
