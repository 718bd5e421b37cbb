"""`flan-jax report --compare A B`: what is paired, what is refused, and what the table says."""

import csv
import json

import numpy as np
import pytest

from flan_jax.errors import UserError
from flan_jax.evaluation import unit_scores
from flan_jax.evaluation.known_runs import remember_run
from flan_jax.evaluation.result_rows import ResultRow, write_results
from flan_jax.metrics.measures import Measure
from flan_jax.metrics.uncertainty import paired_difference, standard_error
from flan_jax.report import __main__ as verb


def evaluated(home, datasets, *, ids=None, seed=None, **columns):
    """Writes a run's results: for each dataset, scores [R, T] of 0 or 1; returns its measures."""
    rows, measures = [], {}
    for dataset, scores in datasets.items():
        scores = np.asarray(scores, float)
        row_ids = ids or [f"{dataset}/{i}" for i in range(len(scores))]
        for template, column in zip(("terse", "email", "quiz"), scores.T):
            parts = np.stack([column, np.ones(len(column))], axis=1)
            measure = Measure("ratio", tuple(range(len(column))), parts)
            texts = {"size": "t5_tiny", "split": "test", "instruction_mode": "template"}
            texts |= {"scoring": "sum", "metric": "accuracy", "kind": "forward"}
            numbers = {"step": 10, "shots": 0, "stderr": 1.0, "n": len(scores)}
            more = {"run": home.name, "model": "tuned", "cluster": "nli", "dataset": dataset}
            fields = {**texts, **numbers, **more, **columns}
            row = ResultRow(template=template, value=measure.value(), **fields)
            file = home / f"predictions/tuned/{dataset}.test.{template}.units.json"
            unit_scores.write(file, row, measure, row_ids)
            rows.append(row)
            measures.setdefault(dataset, []).append(measure)
    write_results(home / "results.csv", rows)
    if seed is not None:
        record = {"status": "finished", "settings": {"SEED": seed, "SIZE": "t5_tiny"}}
        (home / "run.json").write_text(json.dumps(record))
    return measures


def scores(seed, rows, chance, templates=2):
    easy = np.random.default_rng(7).random((rows, 1))
    return (easy + np.random.default_rng(seed).random((rows, templates))) / 2 < chance


def compared(capsys, *arguments):
    assert verb.main(["--compare", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_each_dataset_has_its_paired_difference_and_files_have_all_digits(tmp_path, capsys):
    data = {"rte": (200, 0.6), "cb": (40, 0.9)}
    ours = evaluated(tmp_path / "a", {d: scores(1, n, chance) for d, (n, chance) in data.items()})
    theirs = evaluated(tmp_path / "b", {d: scores(2, n, 0.5) for d, (n, _) in data.items()})
    printed = compared(capsys, tmp_path / "a", tmp_path / "b", f"--output={tmp_path / 'out'}")
    assert "# a and b" in printed and "- A: a, t5_tiny, step 10, 0 shots" in printed
    assert (tmp_path / "out/compare.md").read_text() in printed
    with open(tmp_path / "out/compare.csv", newline="") as file:
        lines = {line["dataset"]: line for line in csv.DictReader(file)}
    assert list(lines) == ["cb", "rte", "mean"]
    differences = {d: paired_difference(ours[d], theirs[d]) for d in data}
    for dataset, difference in differences.items():
        line, (low, high) = lines[dataset], difference.interval
        expected = [difference.value, difference.stderr, low, high, difference.p]
        seen = [float(line[name]) for name in ("difference", "stderr", "low", "high", "p")]
        assert seen == pytest.approx(expected) and int(line["changed"]) == difference.changed
        assert f"| {low:+.1f} to {high:+.1f} |" in printed
        assert float(line["a_stderr"]) == pytest.approx(standard_error(ours[dataset]))
    # Below 100 rows, two more checks; Holm's p of the smaller one is twice as large.
    assert lines["cb"]["sign_p"] and not lines["rte"]["sign_p"]
    clearer = min(differences, key=lambda dataset: differences[dataset].p)
    assert float(lines[clearer]["p_holm"]) == pytest.approx(2 * differences[clearer].p, abs=0)
    mean = np.mean([each.value for each in differences.values()])
    error = np.sqrt(sum(each.stderr**2 for each in differences.values())) / 2
    assert float(lines["mean"]["difference"]) == pytest.approx(mean)
    assert float(lines["mean"]["stderr"]) == pytest.approx(error)
    assert "| **mean of 2 datasets** | accuracy | 240 | 4 |" in printed


def test_equal_results_say_that_no_row_differs(tmp_path, capsys):
    for name in "ab":
        evaluated(tmp_path / name, {"rte": scores(1, 30, 0.5)})
    printed = compared(capsys, tmp_path / "a/results.csv", tmp_path / "b/results.csv")
    assert "| 0.0, no row differs |" in printed and not (tmp_path / "a/compare.md").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"templates": 3}, "rte: templates quiz only of the second"),
        ({"rows": 20}, "rte: 30 and 20 rows"),
        ({"ids": [f"x{i}" for i in range(30)]}, "rte: 30 and 30 rows, 0 of 30 ids in common"),
        ({"split": "validation"}, "rte: split test and validation"),
        ({"metric": "f1"}, "rte: metric accuracy and f1"),
        ({"instruction_mode": "none"}, "a was evaluated with 0 shots, INSTRUCTIONS template"),
        ({"dataset": "cb"}, "no dataset in common: rte and cb"),
    ],
)
def test_what_cannot_be_paired_is_refused_with_what_differs(tmp_path, change, message):
    evaluated(tmp_path / "a", {"rte": scores(1, 30, 0.5)})
    shape = {"rows": change.pop("rows", 30), "templates": change.pop("templates", 2)}
    data = {change.pop("dataset", "rte"): scores(2, chance=0.5, **shape)}
    evaluated(tmp_path / "b", data, **change)
    with pytest.raises(UserError, match=message):
        verb.main(["--compare", str(tmp_path / "a"), str(tmp_path / "b")])


def test_without_what_each_row_contributes_the_file_is_named(tmp_path):
    for name in "ab":
        evaluated(tmp_path / name, {"rte": scores(1, 30, 0.5)})
    (tmp_path / "b/predictions/tuned/rte.test.email.units.json").unlink()
    with pytest.raises(UserError, match=r"rte: .* not there for the second \(predictions"):
        verb.main(["--compare", str(tmp_path / "a"), str(tmp_path / "b")])


def test_what_only_one_run_has_is_listed_and_shots_may_differ(tmp_path, capsys):
    evaluated(tmp_path / "a", {"rte": scores(1, 30, 0.5), "wnli": scores(1, 30, 0.5)})
    evaluated(tmp_path / "b", {"rte": scores(2, 30, 0.5), "cb": scores(2, 30, 0.5)}, shots=4)
    printed = compared(capsys, tmp_path / "a", tmp_path / "b", f"--output={tmp_path}")
    with open(tmp_path / "compare.csv", newline="") as file:
        assert [(line["shots"], line["b_shots"]) for line in csv.DictReader(file)] == [("0", "4")]
    assert "Only A (a) was evaluated on: wnli (test, 0 shots, INSTRUCTIONS template)." in printed
    assert "Only B (b) was evaluated on: cb (test, 4 shots, INSTRUCTIONS template)." in printed
    assert "- B: b, t5_tiny, step 10, 4 shots" in printed and "mean of" not in printed


def test_rows_of_other_sources_are_not_paired(tmp_path, capsys):
    for name, source in (("a", "bundled"), ("b", "files"), ("c", "")):
        evaluated(tmp_path / name, {"rte": scores(1, 30, 0.5)})
        remember_run(tmp_path / name, tmp_path / name, [], source)
    with pytest.raises(UserError, match="a was evaluated on rows of bundled, b on rows of files"):
        verb.main(["--compare", str(tmp_path / "a"), str(tmp_path / "b")])
    compared(capsys, tmp_path / "a", tmp_path / "c")


def test_seeds_are_one_model_and_other_runs_are_not(tmp_path, capsys):
    ours = [
        evaluated(tmp_path / f"sweep/seed_{i}", {"rte": scores(i, 120, 0.5)}, seed=i)["rte"]
        for i in range(3)
    ]
    theirs = evaluated(tmp_path / "b", {"rte": scores(9, 120, 0.7)})["rte"]
    points = {f"seed_{i}": {"gin_files": [], "settings": {"SEED": i}} for i in range(3)}
    (tmp_path / "sweep/sweep.json").write_text(json.dumps({"arguments": [], "points": points}))
    printed = compared(capsys, tmp_path / "sweep", tmp_path / "b")
    difference = paired_difference([each for run in ours for each in run], theirs)
    assert f"| {difference.value:+.1f} | {difference.stderr:.1f} |" in printed
    assert "mean of 3 seeds" in printed and "| std over seeds |" in printed
    two = ",".join(str(tmp_path / f"sweep/seed_{i}") for i in (0, 2))
    printed = compared(capsys, two, tmp_path / "b")
    assert "- A: seed_0, seed_2, t5_tiny, step 10, 0 shots, mean of 2 seeds" in printed
    (tmp_path / "sweep/seed_1/run.json").unlink()
    with pytest.raises(UserError, match=r"sweep has several models \(.*seed_1 tuned"):
        verb.main(["--compare", str(tmp_path / "sweep"), str(tmp_path / "b")])


def test_the_flag_takes_two_results_and_nothing_else(tmp_path):
    with pytest.raises(UserError, match="--compare is of two results, and c is there too"):
        verb.main(["c", "--compare", "a", "b"])
    with pytest.raises(UserError, match="expected 2 arguments"):
        verb.main(["--compare", "a"])
    with pytest.raises(UserError, match="required: RESULTS"):
        verb.main([])
    write_results(tmp_path / "results.csv", [])
    with pytest.raises(UserError, match="has no results of a tuned model"):
        verb.main(["--compare", str(tmp_path), str(tmp_path)])
