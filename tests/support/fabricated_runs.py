"""Directories of runs that were never trained: results, what each row contributes, and run.json."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from flan_jax.evaluation import unit_scores
from flan_jax.evaluation.known_runs import remember_run
from flan_jax.evaluation.result_rows import ResultRow, write_results
from flan_jax.metrics.measures import Measure

NLI = ("anli_r1", "cb", "qnli", "rte")
_SETTINGS = {
    "HELD_OUT": "nli",
    "SEED": 0,
    "SHOTS": 0,
    "INSTRUCTIONS": "template",
    "TEMPLATES": None,
    "TRAIN_CLUSTERS": None,
    "PEFT": None,
    "INITIAL_CHECKPOINT_PATH": None,
}


@dataclasses.dataclass(frozen=True)
class Fabricated:
    """What a run is evaluated on, and how well it does.

    Attributes:
      datasets: by cluster.
      rows, templates, first_row: of each dataset.
      accuracy: of the tuned model; the untuned one has `untuned`.
      shift: subtracted from each row's score, as correlations may be negative.
      size, parameters, train, settings: of the model.
      shots, mode: of the evaluation.
      evaluations: other evaluations of it.
    """

    datasets: dict[str, Sequence[str]] = dataclasses.field(default_factory=lambda: {"nli": NLI})
    rows: int = 24
    templates: int = 3
    first_row: int = 0
    accuracy: float | None = 0.6
    untuned: float | None = 0.4
    shift: float = 0.0
    size: str = "t5_tiny"
    parameters: int = 1_700_000
    train: Sequence[str] = ("sst2", "xsum")
    settings: dict = dataclasses.field(default_factory=dict)
    shots: int = 0
    mode: str = "template"
    metric: str = "accuracy"
    kind: str = "forward"
    evaluations: Sequence["Fabricated"] = ()


def write_run(directory: pathlib.Path, run: Fabricated) -> None:
    """Writes the directory of a run, and of its evaluations with other settings.

    Settings are those of its training; an evaluation has its own shots and mode.
    """
    for number, other in enumerate(run.evaluations):
        _write_results(directory / f"evaluations/{number}", directory, other)
    _write_results(directory, directory, run)
    of_run = {"SIZE": run.size, "SHOTS": run.shots, "INSTRUCTIONS": run.mode}
    settings = {**_SETTINGS, **of_run, **run.settings}
    record = {
        "status": "finished",
        "step": 10,
        "steps": 10,
        "size": run.size,
        "parameters": run.parameters,
        "train": run.train,
        "settings": settings,
    }
    (directory / "run.json").write_text(json.dumps(record))


def _write_results(directory: pathlib.Path, home: pathlib.Path, run: Fabricated) -> None:
    """Writes the results of a run whose directory is `home`."""
    rows = []
    for cluster, datasets in run.datasets.items():
        for dataset in datasets:
            rows += _of_dataset(directory, home.name, run, cluster, dataset)
    write_results(directory / "results.csv", rows)
    remember_run(directory, home, run.train, "bundled")


def _of_dataset(
    directory: pathlib.Path, name: str, run: Fabricated, cluster: str, dataset: str
) -> list[ResultRow]:
    """The result rows of a dataset; what each row contributes goes to files."""
    generator = np.random.default_rng([run.settings.get("SEED", 0), *dataset.encode()])
    chance = generator.random((run.rows, run.templates))
    models = {"tuned": run.accuracy, "untuned": run.untuned}
    base = ResultRow(
        run=name,
        step=10,
        model="tuned",
        size=run.size,
        cluster=cluster,
        dataset=dataset,
        split="test",
        template="",
        kind=run.kind,
        shots=run.shots,
        instruction_mode=run.mode,
        scoring="sum",
        metric=run.metric,
        value=0.0,
        stderr=None,
        n=run.rows,
    )
    rows = []
    for model, accuracy in models.items():
        if accuracy is not None:
            row = dataclasses.replace(base, model=model, step=10 if model == "tuned" else 0)
            scores = (chance < accuracy) - run.shift
            rows += _of_templates(directory, row, scores, run.first_row)
    any_row = {"scoring": "majority", "template": "any", "instruction_mode": "any", "size": ""}
    majority = {"model": "majority", "step": 0, "shots": 0, "value": 55.0, "stderr": 8.0}
    return [*rows, dataclasses.replace(base, **majority, **any_row)]


def _of_templates(
    directory: pathlib.Path, row: ResultRow, scores: np.ndarray, first_row: int
) -> list[ResultRow]:
    """A result row for each column of `scores`, float64 [rows, templates]."""
    rows = []
    ids = [f"{row.dataset}/test/{first_row + number}" for number in range(len(scores))]
    for template, each in enumerate(scores.T):
        parts = np.stack([each, np.ones(len(each))], axis=1)
        measure = Measure("ratio", tuple(range(len(each))), parts)
        one = dataclasses.replace(row, template=f"template_{template}", value=measure.value())
        name = f"{row.dataset}-{row.shots}-{row.instruction_mode}-{template}.units.json"
        unit_scores.write(directory / "predictions" / row.model / name, one, measure, ids)
        rows.append(one)
    return rows
