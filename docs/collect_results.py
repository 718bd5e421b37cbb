"""Adds the finished points of a sweep to the rows of docs/results: what results.md is made from.

  python docs/collect_results.py RUNS/SWEEP NAME

It writes docs/results/NAME_scores.csv, a line for each dataset in a template (the score of every
row, but no text of it), and NAME_runs.csv, a line for each run. Lines of the same points are
replaced, others stay: a sweep may be run in parts, on several machines.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from flan_jax.evaluation import unit_scores
from flan_jax.evaluation.result_rows import MAJORITY, read_results
from flan_jax.metrics.measures import Measure
from flan_jax.storage.files import read_json
from flan_jax.storage.hashing import digest

RESULTS = pathlib.Path(__file__).parent / "results"
SCORES = (
    *("point", "model", "step", "shots", "instruction_mode", "dataset", "split", "template"),
    *("scoring", "metric", "value", "majority", "same_answer", "rows", "scores"),
)
RUNS = (
    *("point", "settings", "gin_files", "steps", "tokens", "parameters"),
    *("trained_parameters", "loss_before", "loss_after", "version"),
)


def main() -> None:
    """Reads a sweep and writes both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sweep", type=pathlib.Path)
    parser.add_argument("name")
    arguments = parser.parse_args()
    points = read_json(arguments.sweep / "sweep.json")["points"]
    scores: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    for point, made_from in points.items():
        directory = arguments.sweep / point
        states = [
            directory,
            *(directory / "evaluations" / name for name in made_from["evaluations"]),
        ]
        if not all(_is_finished(state / "run.json") for state in states):
            print(f"not finished: {point}")
            continue
        scores += _scores(point, states)
        runs.append(_run(point, made_from, directory))
    _update(RESULTS / f"{arguments.name}_scores.csv", SCORES, scores)
    _update(RESULTS / f"{arguments.name}_runs.csv", RUNS, runs)


def _scores(point: str, places: Iterable[pathlib.Path]) -> list[dict[str, Any]]:
    """A line for each dataset in a template, of the run and of its evaluations."""
    lines = []
    for place in places:
        results = [row for row in read_results(place / "results.csv") if row.model == MAJORITY]
        majority = {(row.dataset, row.split, row.metric): row.value for row in results}
        for key, measure, predictions in unit_scores.read_all(place):
            columns = dict(zip(unit_scores.COLUMNS, key)) | {"point": point} | _numbers(measure)
            numbers_of = tuple(columns[name] for name in ("dataset", "split", "metric"))
            columns["majority"] = majority.get(numbers_of, "")
            columns["same_answer"] = f"{_same_answer(predictions):.4f}"
            lines.append({name: columns[name] for name in SCORES})
    return lines


def _same_answer(path: pathlib.Path) -> float:
    """The share of the rows with the most frequent prediction, in percent."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    counts = collections.Counter(json.loads(line)["prediction"] for line in lines)
    return 100 * counts.most_common(1)[0][1] / counts.total()


def _is_finished(path: pathlib.Path) -> bool:
    return path.is_file() and read_json(path)["status"] == "finished"


def _numbers(measure: Measure) -> dict[str, Any]:
    if measure.statistic != "ratio" or not (measure.parts[:, 1] == 1).all():
        raise ValueError("a mean over rows that are units of their own is expected")
    return {
        "value": f"{measure.value():.4f}",
        "rows": digest(list(measure.units))[:12],
        "scores": " ".join(f"{score:.6g}" for score in measure.parts[:, 0]),
    }


def _run(point: str, made_from: dict[str, Any], directory: pathlib.Path) -> dict[str, Any]:
    record = read_json(directory / "run.json")
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    losses = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    names = ("steps", "tokens", "parameters", "trained_parameters", "version")
    return {
        "point": point,
        "settings": json.dumps(made_from["settings"]),
        "gin_files": " ".join(made_from["gin_files"]),
        **{name: record[name] for name in names},
        # random parameters are not validated
        "loss_before": f"{losses[0]:.6f}" if 0 in losses else "",
        "loss_after": f"{losses[max(losses)]:.6f}",
    }


def _update(path: pathlib.Path, columns: Sequence[str], lines: Iterable[dict[str, Any]]) -> None:
    """Writes the lines and, of the table that is there, those of other points."""
    lines = list(lines)
    new = {line["point"] for line in lines}
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            lines = [line for line in csv.DictReader(file) if line["point"] not in new] + lines
    lines.sort(key=lambda line: [str(line[name]) for name in columns[:10]])
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    print(f"{path}: {len(lines)} lines, {len(new)} points of this sweep")


if __name__ == "__main__":
    main()
