"""docs/results.md: from a sweep to the rows of docs/results, and from these to its tables."""

import csv
import math
import pathlib
import sys

import numpy as np
import pytest

from flan_jax.evaluation.result_rows import MAJORITY, UNTUNED, read_results
from flan_jax.metrics.measures import Measure
from support.processes import ended_well
from support.runs import run_here
from support.two_processes import SMALL

SWEEP = [
    *SMALL,
    "--gin.HELD_OUT=nli",
    "--gin.MIXTURE_OR_TASK_NAME=sst2",
    "--gin.EVAL_DATASETS=cb",  # has two metrics
    "--gin.EVAL_ROWS=16",
    "--gin.EVAL_TEMPLATES=2",
    "--gin.TRAIN_STEPS=1",
    "--sweep.INSTRUCTIONS=none,template",
    "--evaluate.INSTRUCTIONS=template",
]


@pytest.fixture
def docs(monkeypatch, tmp_path):
    """The programs of docs/, with their rows in a directory of the test."""
    monkeypatch.syspath_prepend("docs")
    import collect_results
    import experiment_runs
    import make_results

    for module in (collect_results, experiment_runs):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    return collect_results, experiment_runs, make_results


def sweep(directory: pathlib.Path, *arguments: str):
    command = [sys.executable, "-m", "flan_jax.sweep", str(directory), *arguments]
    return ended_well(run_here(command))


def test_the_rows_of_a_sweep_give_its_numbers(docs, tmp_path, monkeypatch, capsys):
    collect_results, experiment_runs, make_results = docs
    directory = tmp_path / "sweep"

    def collect() -> str:
        monkeypatch.setattr(sys, "argv", ["collect_results.py", str(directory), "instructions"])
        collect_results.main()
        return capsys.readouterr().out

    sweep(directory, *SWEEP, f"--gin.CACHE_DIR={tmp_path / 'cache'}", "--point=template")
    assert "not finished: none" in collect()
    sweep(directory, "--point=none")
    collect()
    files = sorted((tmp_path / "results").iterdir())
    before = [file.read_bytes() for file in files]
    assert "2 points of this sweep" in collect()
    assert [file.read_bytes() for file in files] == before

    without, templates = experiment_runs.read_runs("instructions")
    assert without.settings == {"INSTRUCTIONS": "none"}
    results = read_results(directory / "template/results.csv")
    results = [row for row in results if row.metric == "accuracy"]
    (majority,) = (row.value for row in results if row.model == MAJORITY)
    assert experiment_runs.majority(templates.of("tuned")) == f"{majority:.1f}"
    for model in ("tuned", UNTUNED):
        values = [r.value for r in results if r.model == model and r.scoring == "sum"]
        assert len(values) == 2
        assert experiment_runs.mean(templates.of(model)) == pytest.approx(sum(values) / 2)
    (line,) = make_results.TABLES["instructions_compared"]()[2:]
    tuned = [experiment_runs.mean(run.of("tuned", "template")) for run in (without, templates)]
    assert f"| {tuned[0]:.1f} | {tuned[1]:.1f} |" in line
    assert [line.split(" | ")[:2] for line in make_results.instructions()[2:]] == [
        ["| none", "none"],
        ["| none", "template"],
        ["| template", "template"],
    ]
    with pytest.raises(ValueError, match="2 evaluations of tuned with ''"):
        without.of("tuned")
    other_templates = without.of("tuned", "none"), templates.of("tuned")
    with pytest.raises(ValueError, match="other datasets or templates"):
        experiment_runs.Line(("none",), *other_templates).difference()


def test_the_error_of_other_templates_contains_that_of_rows(docs):
    _, experiment_runs, _ = docs
    scores = np.array([[1, 1, 1, 0, 1, 0], [0, 1, 0, 0, 1, 0], [1, 1, 1, 1, 1, 0]], float)
    templates, rows = scores.shape

    def line(a: np.ndarray, b: np.ndarray):
        return experiment_runs.Line((), {"cb": numbers(a)}, {"cb": numbers(b)})

    def numbers(scores: np.ndarray):
        units = tuple(map(str, range(rows)))
        measures = [Measure("ratio", units, np.stack([each, np.ones(rows)], 1)) for each in scores]
        names = [f"t{number}" for number in range(len(scores))]
        return experiment_runs.Numbers(names, measures, [50.0] * len(scores), 50.0)

    # Brennan 2001: rows and templates crossed; the variance of the mean of all.
    mean_square = {
        "rows": templates * scores.mean(0).var(ddof=1),
        "templates": rows * scores.mean(1).var(ddof=1),
    }
    residuals = scores - scores.mean(0) - scores.mean(1)[:, None] + scores.mean()
    mean_square["rest"] = (residuals**2).sum() / (rows - 1) / (templates - 1)
    both = sum(mean_square.values()) - 2 * mean_square["rest"]
    of_scores = line(scores, np.zeros_like(scores))
    assert of_scores.of_other_templates().stderr == pytest.approx(
        100 * math.sqrt(both / rows / templates)
    )
    assert of_scores.of_other_templates().value == of_scores.difference().value
    assert of_scores.of_other_templates().stderr > of_scores.difference().stderr > 0
    assert line(scores[:1], 0 * scores[:1]).of_other_templates().interval is None
    assert line(scores, scores).of_other_templates().stderr == 0


def test_scores_that_do_not_give_the_value_are_refused(docs):
    _, experiment_runs, _ = docs
    (experiment_runs.RESULTS / "x_scores.csv").write_text(
        "point,model,step,shots,instruction_mode,dataset,template,value,majority,same_answer,rows,"
        "scores\n"
        "a,tuned,1,0,template,rte,terse,50.0,,75.0,abc,1 1 0\n"
    )
    (experiment_runs.RESULTS / "x_runs.csv").write_text("point,settings,gin_files\n")
    with pytest.raises(ValueError, match=r"50\.0 is not the mean of its scores"):
        experiment_runs.read_runs("x")


def test_one_run_of_two_experiments_has_the_same_numbers():
    point, same = "seed_0-nli-rte+cb+qnli+mnli_matched-lora", "template"
    for kind, other in (("scores", {"point"}), ("runs", {"point", "settings", "gin_files"})):
        tables = []
        for name, run in (("methods", point), ("instructions", same)):
            with open(f"docs/results/{name}_{kind}.csv", newline="", encoding="utf-8") as file:
                lines = [line for line in csv.DictReader(file) if line["point"] == run]
            tables.append([{k: v for k, v in line.items() if k not in other} for line in lines])
        assert tables[0] == tables[1] and len(tables[0]) == {"scores": 24, "runs": 1}[kind]
