"""The report and the verb that writes it.

What is averaged over what, and which baselines stand beside it.
"""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from flan_jax.errors import UserError
from flan_jax.evaluation import unit_scores
from flan_jax.evaluation.known_runs import remember_run
from flan_jax.evaluation.result_rows import ResultRow, write_results
from flan_jax.metrics.measures import Measure
from flan_jax.metrics.uncertainty import paired_difference
from flan_jax.report import __main__ as verb
from flan_jax.report.comparisons import compare, means_are_alike
from flan_jax.report.figures import style, zero_shot
from flan_jax.report.figures.report_data import ReportData
from flan_jax.report.inputs import read_rows
from flan_jax.report.step_table import progress
from flan_jax.report.table import table
from flan_jax.report.write import conclude


def row(
    template,
    value,
    *,
    dataset="rte",
    model="flan",
    step=10,
    split="test",
    stderr=2.0,
    run="nli",
    **more,
):
    defaults = {
        "size": "t5_tiny",
        "cluster": "nli",
        "kind": "forward",
        "shots": 0,
        "instruction_mode": "template",
        "scoring": "sum",
        "metric": "accuracy",
        "n": 100,
    }
    return ResultRow(
        run=run,
        step=step,
        model=model,
        dataset=dataset,
        split=split,
        template=template,
        value=value,
        stderr=stderr,
        **{**defaults, **more},
    )


def results():
    return [
        *(row(f"t{i}", value) for i, value in enumerate((50.0, 60.0, 70.0))),
        *(
            row(f"t{i}", value, dataset="cb", stderr=6.0, n=56)
            for i, value in enumerate((80.0, 90.0))
        ),
        *(
            row(f"t{i}", value, model="untuned", step=0)
            for i, value in enumerate((30.0, 40.0, 50.0))
        ),
        row(
            "any",
            52.0,
            model="majority",
            step=0,
            scoring="majority",
            size="",
            instruction_mode="any",
        ),
        # None of these may count: another scoring, a second metric, an earlier step, a later one
        # with fewer rows.
        row("t0", 1.0, scoring="per_token"),
        row("t0", 1.0, metric="f1"),
        row("t0", 1.0, step=5),
        row("t7", 1.0, step=5),
        row("t0", 1.0, step=15, n=32),
    ]


def test_each_number_is_what_it_says():
    cb, rte, mean = compare(results())
    assert (rte.tuned.mean, rte.tuned.std, rte.tuned.stderr) == (60.0, 10.0, 2.0)
    assert (rte.tuned.low, rte.tuned.high, rte.tuned.best, rte.tuned.best_template) == (
        50.0,
        70.0,
        70.0,
        "t2",
    )
    assert (rte.tuned.templates, rte.tuned.n) == (("t0", "t1", "t2"), 100)
    assert (rte.untuned.mean, rte.untuned.std, rte.majority.mean, rte.majority.std) == (
        40.0,
        10.0,
        52.0,
        None,
    )
    assert (cb.dataset, cb.untuned, cb.majority) == ("cb", None, None)
    assert (mean.dataset, mean.tuned.mean) == ("", 72.5)
    assert mean.tuned.stderr == pytest.approx((2**2 + 6**2) ** 0.5 / 2)
    # CB has no baseline here, so a mean of baselines would be about other datasets than the
    # model's.
    assert mean.untuned is None and mean.majority is None


def test_the_best_template_is_chosen_on_validation_rows_if_there_are_any():
    validation = [
        row(f"t{i}", value, split="validation") for i, value in enumerate((9.0, 8.0, 7.0))
    ]
    rte = compare(results() + validation)[1]
    assert rte.tuned.split == "test"
    assert (rte.tuned.best, rte.tuned.best_template, rte.tuned.best_by_validation) == (
        50.0,
        "t0",
        True,
    )
    # A split that was chosen on itself is marked, one chosen on validation rows is not.
    text = table([rte])
    assert "| 50.0 t0 |" in text and "†" not in text
    only = compare(validation)[0]
    assert only.tuned.split == "validation" and not only.tuned.best_by_validation
    assert "| rte (validation) |" in table([only])


def test_table_shows_each_dataset_once_with_its_baselines():
    lines = table(compare(results())).splitlines()
    assert "## Natural language inference" in lines
    # Without what each row contributes the error is an upper bound, and there is no paired
    # difference.
    numbers = "60.0 | 10.0 | ≤ 2.0 | 50.0 | 70.0 | 70.0† t2 | 40.0 ± 10.0 |  | 52.0"
    assert f"| rte | accuracy | 100 | 3 | {numbers} |" in lines
    assert sum(line.startswith("| rte ") for line in lines) == 1
    rouge = [
        row(
            "t0",
            20.0,
            dataset="xsum",
            cluster="summarization",
            metric="rouge1",
            scoring="greedy",
            stderr=None,
        )
    ]
    text = table(compare(rouge))
    assert (
        "| xsum | rouge1 | 100 | 1 | 20.0 |  |  | 20.0 | 20.0 |  |  |  |  |" in text
        and "stemmer" in text
    )
    assert "†" not in text  # nobody chose the best of one


GOLDEN = (
    json.loads((pathlib.Path(__file__).parents[2] / "shared/golden/statistics.json").read_text())
    if (pathlib.Path(__file__).parents[2] / "shared/golden/statistics.json").exists()
    else None
)


def measured(rows, scores, groups=None):
    """Result rows with the values of `scores`, and their measures: scores [R, T] of 0 or 1."""
    known, scores, groups = (
        {},
        np.array(scores),
        np.array(range(len(scores)) if groups is None else groups),
    )
    for i, one in enumerate(rows):
        units = sorted(set(groups))
        parts = np.array(
            [[scores[groups == g, i].sum(), (groups == g).sum()] for g in units], float
        )
        known[unit_scores.key(one)] = Measure("ratio", tuple(map(str, units)), parts)
    return [
        dataclasses.replace(one, value=known[unit_scores.key(one)].value()) for one in rows
    ], known


@pytest.mark.skipif(GOLDEN is None, reason="shared/golden/statistics.json is not here")
@pytest.mark.parametrize(
    "groups, se, paired_se",
    [
        (None, GOLDEN and GOLDEN["summary_a"]["se_rows"], GOLDEN and GOLDEN["paired"]["se"]),
        (
            "groups",
            GOLDEN and GOLDEN["summary_a_grouped_se"],
            GOLDEN and GOLDEN["paired_grouped_se"],
        ),
    ],
)
def test_errors_of_means_over_templates_and_of_paired_differences_equal_the_golden_ones(
    groups, se, paired_se
):
    groups = groups and GOLDEN["groups"]
    tuned, first = measured([row(f"t{i}", 0) for i in range(3)], GOLDEN["a"], groups)
    untuned, second = measured(
        [row(f"t{i}", 0, model="untuned", step=0) for i in range(3)], GOLDEN["b"], groups
    )
    (line,) = compare([*tuned, *untuned], {**first, **second})
    assert line.tuned.mean == pytest.approx(100 * GOLDEN["summary_a"]["mean"], abs=1e-6)
    assert line.tuned.stderr == pytest.approx(100 * se, abs=1e-6) and not line.tuned.stderr_is_bound
    assert line.difference.value == pytest.approx(100 * GOLDEN["paired"]["diff"], abs=1e-6)
    assert line.difference.stderr == pytest.approx(100 * paired_se, abs=1e-6)
    low, high = line.difference.interval
    assert f"| {100 * se:.1f} ({line.tuned.stderr_both:.1f}) |" in table([line])
    text = f"| {line.difference.value:+.1f} ({low:+.1f} to {high:+.1f}) |"
    assert text in table([line])


def test_differences_of_bleu_and_f1_are_recomputed_on_resampled_rows_and_no_difference_is_said():
    generator = np.random.default_rng(0)
    parts = generator.integers(0, 2, (50, 3)).astype(float)
    units = tuple(map(str, range(50)))
    ours, theirs = Measure("f1", units, parts), Measure("f1", units, np.roll(parts, 1, axis=0))
    # The same rows in another order: no difference, though every unit may differ.
    assert paired_difference([ours], [theirs]).value == pytest.approx(0)
    assert 0 < paired_difference([ours], [theirs]).stderr < 20
    same = paired_difference([ours], [ours])
    assert (same.value, same.stderr, same.changed) == (0, 0, 0)
    rows, known = measured([row("a", 0), row("a", 0, model="untuned", step=0)], np.ones((4, 2)))
    assert "| 0.0, no row differs |" in table(compare(rows, known))


def test_models_on_other_rows_or_templates_have_no_paired_difference():
    rows, known = measured([row("a", 0), row("a", 0, model="untuned", step=0)], np.eye(2))
    assert compare(rows, known)[0].difference is not None
    moved = {
        key: one._replace(units=("8", "9")) if "untuned" in key else one
        for key, one in known.items()
    }
    assert compare(rows, moved)[0].difference is None
    for setting, pairs in (({"instruction_mode": "baseline"}, False), ({"shots": 5}, True)):
        other, measures_of_other = measured(
            [row("a", 0), row("a", 0, model="untuned", step=0, **setting)], np.eye(2)
        )
        (line,) = compare(other, measures_of_other)
        assert line.untuned is not None and (line.difference is not None) == pairs
    stale = {
        key: one._replace(parts=one.parts * [[1], [0]] + [[0, 1], [0, 1]])
        for key, one in known.items()
    }
    assert compare(rows, stale)[0].difference is None  # they do not give the rows' values


def test_a_changed_file_of_what_rows_contribute_gives_no_paired_difference():
    rows = [row("a", 50.0), row("a", 50.0, model="untuned", step=0)]
    known = {
        unit_scores.key(one): Measure("macro_f1", ("r0", "r1"), np.ones((2, 3 * classes)))
        for classes, one in enumerate(rows, 1)
    }
    (line,) = compare(rows, known)
    assert line.tuned.stderr is not None and line.difference is None


def test_a_cluster_counts_the_datasets_of_the_paper_and_not_their_configurations():
    # ANLI's three rounds are one dataset of the paper, as MNLI's two sets are.
    values = {"anli_r1": 30.0, "anli_r2": 40.0, "anli_r3": 50.0, "rte": 80.0}
    rows = [row("a", value, dataset=name) for name, value in values.items()]
    mean = compare(rows)[-1]
    assert mean.tuned.mean == 60.0 and mean.tuned.stderr == pytest.approx(
        (3 * (2 / 6) ** 2 + 1) ** 0.5
    )
    assert "| **mean of 2 datasets (4 configurations)** |" in table([mean])
    early = [dataclasses.replace(one, step=5, value=one.value - 10) for one in rows]
    assert "| test | 5 | 2 | 400 | accuracy | 50.0 |" in progress([*rows, *early])


def test_models_are_named_by_what_sets_them_apart_and_meet_their_own_baseline():
    rows = results() + [
        row("t0", 77.0, run="big", size="t5_base"),
        row("t1", 79.0, run="big", size="t5_base"),
        row("t0", 45.0, run="big", size="t5_base", model="untuned", step=0),
    ]
    small, big = (line for line in compare(rows) if line.dataset == "rte")
    assert (small.label, big.label) == ("t5_tiny, nli", "t5_base, big")
    assert (small.untuned.mean, big.untuned.mean) == (40.0, 45.0)
    assert "| rte | t5_base, big | accuracy |" in table([small, big])


def test_inverted_templates_stand_apart_and_have_a_mean_of_their_own():
    there = [
        row("t0", value, dataset=name, cluster="translation", metric="bleu", scoring="greedy")
        for name, value in (("wmt14", 30.0), ("wmt16", 20.0))
    ]
    back = [
        row(
            "t9",
            value,
            dataset=name,
            cluster="translation",
            metric="bleu",
            scoring="greedy",
            kind="inverted",
        )
        for name, value in (("wmt14", 36.0), ("wmt16", 40.0))
    ]
    lines = compare([*back, *there])
    assert [(line.dataset, line.tuned.mean) for line in lines] == [
        ("wmt14", 30.0),
        ("wmt16", 20.0),
        ("", 25.0),
        ("wmt14", 36.0),
        ("wmt16", 40.0),
        ("", 38.0),
    ]
    text = table(lines)
    assert text.index("## Translation\n") < text.index("## Translation, inverted templates\n")


def test_steps_are_shown_where_there_are_several():
    assert progress(results()[:5]) == ""
    early = [
        row("t0", 20.0, step=5, n=32),
        row("t1", 40.0, step=5, n=32),
        row("t0", 60.0, dataset="cb", step=5, n=16),
    ]
    text = progress([*results()[:5], *early])
    assert text.splitlines()[5:] == [
        "| flan | Natural language inference | test | 5 | 2 | 48 | accuracy | 45.0 |",
        "| flan | Natural language inference | test | 10 | 2 | 156 | accuracy | 72.5 |",
    ]


def test_the_untuned_model_shows_its_setting_if_that_differs():
    rows = [row("t0", 50.0), row("t0", 40.0, model="untuned", step=0, instruction_mode="baseline")]
    assert "| 40.0 (baseline) |" in table(compare(rows))
    rows[1] = dataclasses.replace(rows[1], shots=3)
    assert "| 40.0 (baseline, 3 shots) |" in table(compare(rows))


def test_runs_with_other_headline_metrics_of_a_dataset_are_both_shown():
    rows = [
        row("a", 50.0, run="one", metric="accuracy"),
        row("a", 60.0, run="one", metric="f1"),
        row("a", 70.0, run="two", metric="f1"),
    ]
    lines = compare(rows)
    assert [(line.tuned.metric, line.tuned.mean) for line in lines] == [
        ("accuracy", 50.0),
        ("f1", 70.0),
    ]


def test_a_mean_over_datasets_of_one_template_each_has_no_best_one():
    single = [row("a", 50.0, dataset="cb"), row("a", 70.0)]
    assert "†" not in table(compare(single))
    other = [row("b", 40.0, dataset="cb")]
    validation = [row(name, 9.0, dataset="cb", split="validation") for name in "ab"]
    (*_, mean) = compare([*single, *other, *validation])
    assert (mean.tuned.has_choice, mean.tuned.best_by_validation) == (True, True)


def test_a_mean_shows_the_settings_of_all_its_datasets():
    rows = [
        row("t0", 50.0, dataset=name, model=model, step=step, instruction_mode=mode)
        for name, modes in (("cb", ("template", "template")), ("rte", ("template", "baseline")))
        for (model, step), mode in zip((("flan", 10), ("untuned", 0)), modes)
    ]
    lines = compare(rows)
    assert "| 50.0 (baseline in part) |" in table(lines[-1:])
    notes = [point.note for point in zero_shot.points(ReportData(lines)) if point.kind == "untuned"]
    assert notes == ["", "instructions: baseline", "instructions: baseline"]


def test_baselines_alone_make_a_report_and_nothing_does_not():
    untuned = [r for r in results() if r.model != "flan"]
    (line,) = compare(untuned)
    assert line.tuned is None and "| 40.0 ± 10.0 |  | 52.0 |" in table([line])
    with pytest.raises(UserError, match="no row that a table shows"):
        compare([])


def test_untuned_models_without_a_tuned_one_have_lines_of_their_own():
    base = {"model": "untuned", "step": 0}
    small = [row("a", 30.0, run="small", size="t5_small", **base)]
    large = [
        row("a", value, run="large", size="t5_large", dataset=name, **base)
        for name, value in (("rte", 90.0), ("cb", 70.0))
    ]
    lines = compare([*small, *large])
    assert [(line.dataset, line.label, line.untuned.mean) for line in lines] == [
        ("cb", "t5_large, large", 70.0),
        ("rte", "t5_small, small", 30.0),
        ("rte", "t5_large, large", 90.0),
        ("", "t5_large, large", 80.0),
    ]
    assert "| rte | t5_small, small | accuracy |" in table(lines)
    looks = style.looks_of_models(zero_shot.points(ReportData(lines)))
    assert len({look.shape for look in looks.values()}) == 2
    beside = compare([*small, row("a", 60.0, run="tuned"), *large[:1]])
    assert [line.any.mean for line in beside] == [60.0, 30.0, 90.0]


def test_verb_prints_and_writes_table_and_figure(tmp_path, capsys):
    write_results(tmp_path / "run" / "results.csv", results())
    assert verb.main([str(tmp_path / "run"), f"--output={tmp_path / 'paper'}"]) == 0
    text = (tmp_path / "paper" / "report.md").read_text()
    printed = capsys.readouterr().out
    shown, figures = text.split("\n## Figures\n")
    assert "| rte |" in text and shown in printed and "## Figures" not in printed
    assert "![zero_shot](figures/zero_shot.png)\n\nt5_tiny, step 10; n = 56 to 100" in figures
    png = (tmp_path / "paper" / "report.png").read_bytes()
    assert png == (tmp_path / "paper/figures/zero_shot.png").read_bytes()
    assert png.startswith(b"\x89PNG") and int.from_bytes(png[16:20], "big") in (680, 1350)
    assert (
        verb.main([str(tmp_path / "run" / "results.csv")]) == 0
        and (tmp_path / "run" / "report.md").exists()
    )
    with pytest.raises(UserError, match="does not exist"):
        verb.main([str(tmp_path / "absent")])


def test_a_report_that_adds_nothing_does_not_draw_again(tmp_path, monkeypatch, capsys):
    write_results(tmp_path / "results.csv", results())
    assert conclude(tmp_path, True, "") == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    draw = "flan_jax.report.figures.zero_shot.draw"
    monkeypatch.setattr(draw, lambda *_: pytest.fail("drawn again"))
    assert conclude(tmp_path, True, "") == 0 and verb.main([str(tmp_path)]) == 0
    assert "are up to date" in capsys.readouterr().out
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    monkeypatch.undo()
    # A missing file, or another number, is a reason to draw.
    (tmp_path / "figures/zero_shot.svg").unlink()
    verb.main([str(tmp_path)])
    assert {path: path.read_bytes() for path in files} == {p: b for p, (b, _) in before.items()}
    write_results(tmp_path / "results.csv", [*results(), row("other", 10.0)])
    conclude(tmp_path, True, "")
    changed = [path.name for path in files if path.read_bytes() != before[path][0]]
    assert {"report.md", "report.png", "zero_shot.svg", "zero_shot.csv"} <= set(changed)


@pytest.mark.parametrize("arguments", [["az://bucket/run"], ["runs/nli", "--output=az://bucket"]])
def test_a_url_is_refused(arguments):
    with pytest.raises(UserError, match="az://bucket(/run)? is a URL, and az:// is not supported"):
        verb.main(arguments)


def test_a_dataset_that_a_run_trained_on_is_said_not_to_be_held_out(tmp_path, capsys):
    write_results(
        tmp_path / "results.csv", [row("a", 50.0, model="tuned"), row("a", 50.0, dataset="cb")]
    )
    remember_run(tmp_path, tmp_path / "runs/nli", ["cb", "copa"])
    verb.main([str(tmp_path)])
    assert "not zero-shot for the model that trained on it: cb.\n" in capsys.readouterr().out
    remember_run(tmp_path, tmp_path / "runs/nli", [], "bundled")
    verb.main([str(tmp_path)])
    printed = capsys.readouterr().out
    assert "not zero-shot" not in printed and "t5_tiny; step 10; rows: bundled\n" in printed


def test_report_needs_neither_jax_nor_tensorflow():
    code = (
        "import sys, flan_jax.report.__main__; "
        "print([m for m in ('jax', 'tensorflow', 'seqio', 'nltk') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


def test_a_baseline_on_other_rows_is_not_held_against_a_number():
    majority = row(
        "any", 99.0, model="majority", step=0, scoring="majority", instruction_mode="any"
    )
    assert compare([row("a", 50.0), majority])[0].majority.mean == 99
    assert compare([row("a", 50.0), dataclasses.replace(majority, n=4)])[0].majority is None


def test_each_number_of_rows_has_its_own_majority_class():
    more = {"model": "majority", "step": 0, "scoring": "majority", "instruction_mode": "any"}
    rows = [row("a", 50.0, model="small", n=50), row("a", 60.0, model="all")]
    rows += [row("any", 52.0, n=50, **more), row("any", 55.0, **more)]
    assert {line.label: line.majority.mean for line in compare(rows)} == {"small": 52, "all": 55}
    (line,) = compare(rows[2:])
    assert line.majority.mean == 55


def test_an_untuned_mean_over_seeds_is_of_those_that_have_all_templates():
    tuned = [row(name, 60.0, run=run) for run in ("one", "two") for name in "ab"]
    untuned = [row(name, 40.0, run="one", model="untuned", step=0) for name in "ab"]
    untuned += [row("a", 0.0, run="two", model="untuned", step=0, n=20)]
    (line,) = compare([*tuned, *untuned], seeds=dict.fromkeys(("one", "two"), "both"))
    assert (line.untuned.mean, line.untuned.runs) == (40.0, ("one",))


def test_the_test_split_is_shown_though_a_later_step_was_evaluated_on_validation_rows():
    later = row("a", 90.0, model="tuned", step=20, split="validation")
    assert [line.tuned.split for line in compare([row("a", 50.0, model="tuned"), later])] == [
        "test"
    ]


def test_two_runs_whose_directories_share_a_name_are_two_models(tmp_path, capsys):
    paths = [tmp_path / seed / "nli" for seed in "12"]
    for path, value in zip(paths, (50.0, 70.0)):
        write_results(path / "results.csv", [row("a", value, model="tuned")])
    with pytest.raises(UserError, match="--output=DIR"):
        verb.main([*map(str, paths)])
    verb.main([*map(str, paths), str(paths[0]), f"--output={tmp_path / 'both'}"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| rte |")]
    assert len(lines) == 2 and "50.0" in lines[0] and "70.0" in lines[1]


def test_a_run_and_what_was_evaluated_elsewhere_of_it_are_one_model_others_of_its_name_are_not(
    tmp_path, capsys
):
    for where, home, dataset, step, value in (
        ("run", "a/nli", "rte", 10, 50.0),
        ("others", "a/nli", "cb", 10, 60.0),
        ("b", "b/nli", "rte", 20, 70.0),
    ):
        write_results(
            tmp_path / where / "results.csv",
            [row("a", value, model="tuned", dataset=dataset, step=step)],
        )
        remember_run(tmp_path / where, tmp_path / home, [])
    verb.main([str(tmp_path / "run"), str(tmp_path / "others"), f"--output={tmp_path / 'one'}"])
    assert "| cb | accuracy" in capsys.readouterr().out
    verb.main(
        [
            *(str(tmp_path / where) for where in ("run", "others", "b")),
            f"--output={tmp_path / 'two'}",
        ]
    )
    printed = capsys.readouterr().out.splitlines()
    shown = [line.split(" | ")[:2] for line in printed if line.startswith(("| rte", "| cb"))]
    assert shown == [
        ["| cb", f"{tmp_path / 'run'}"],
        ["| rte", f"{tmp_path / 'run'}"],
        ["| rte", f"{tmp_path / 'b'}"],
    ]


def test_runs_of_two_shared_directories_stay_apart_where_their_names_are_equal(tmp_path):
    scores = {"one": {"full": 10.0, "lora": 90.0}, "two": {"full": 30.0, "lora": 70.0}}
    for where, values in scores.items():
        rows = [row("a", value, run=run, model="tuned") for run, value in values.items()]
        write_results(tmp_path / where / "results.csv", rows)
        for run in values:
            remember_run(tmp_path / where, tmp_path / f"project_{where}" / run, [])
    lines = lines_of(tmp_path / "one", tmp_path / "two")
    assert {line.label: line.tuned.mean for line in lines} == {
        f"{tmp_path / where}/{run}": value
        for where, values in scores.items()
        for run, value in values.items()
    }


def test_a_moved_run_has_its_own_files_though_another_one_is_at_its_old_place(tmp_path):
    for where, steps in (("moved", 60), ("nli", 100)):
        results = tmp_path / where / "results.csv"
        write_results(results, [row("a", 50.0, model="tuned", step=steps)])
        (tmp_path / where / "run.json").write_text('{"status": "finished"}')
        record = {"nli": {"directory": str(tmp_path / "nli"), "trained_on": []}}
        (tmp_path / where / "runs.json").write_text(json.dumps(record))
    moved = tmp_path / "moved"
    assert read_rows([moved / "results.csv"]).homes == {"nli": moved}
    lines = lines_of(moved, tmp_path / "nli")
    assert {line.label: line.tuned.series.step for line in lines} == {
        str(moved): 60,
        str(tmp_path / "nli"): 100,
    }


def test_the_untuned_model_is_that_of_the_run_and_shows_if_its_templates_differ():
    rows = [row("a", 60.0), *(row(name, 40.0, model="untuned", step=0) for name in "ab")]
    assert "| 40.0 ± 0.0 (2 templates) |" in table(compare(rows))
    assert "| 40.0 (1 other templates) |" in table(compare([rows[0], rows[2]]))
    tuned, alone = compare([row("a", 60.0, run="other"), *rows[1:]])
    assert tuned.untuned is None and alone.tuned is None


def test_means_over_other_datasets_say_so():
    rows = [
        row("a", 50.0, run=run, dataset=name)
        for run, names in (("x", ("rte", "cb")), ("y", ("cb", "wnli")))
        for name in names
    ]
    lines = compare(rows)
    text = table(lines)
    assert "**mean of 2 datasets: cb, rte**" in text and "**mean of 2 datasets: cb, wnli**" in text
    assert not means_are_alike(lines)
    mixed = [row("a", 60.0), row("a", 90.0, dataset="cb", split="validation")]
    assert "| **mean of 2 datasets** (test, validation) |" in table(compare(mixed))


def test_a_mean_says_of_how_many_datasets_it_is_and_if_their_steps_differ():
    lines = [row("a", 50.0, model="tuned"), row("a", 70.0, model="tuned", dataset="cb")]
    assert "| **mean of 2 datasets** | accuracy | 200 |" in table(compare(lines))
    lines[1] = dataclasses.replace(lines[1], step=20)
    assert "| **mean of 2 datasets, steps 10, 20** |" in table(compare(lines))


def seed_run(directory, seed, values, *, dataset="rte", scores=None, **settings):
    """A run on disk: results, what each row contributes, and its settings."""
    name = f"tiny-seed_{seed}"
    rows = [row(f"t{i}", value, run=name, dataset=dataset) for i, value in enumerate(values)]
    if scores is not None:
        rows, known = measured(rows, scores)
        for one in rows:
            file = directory / name / f"predictions/tuned/{dataset}.{one.template}.units.json"
            unit_scores.write(
                file,
                one,
                known[unit_scores.key(one)]._replace(units=range(len(scores))),
                [f"r{i}" for i in range(len(scores))],
            )
    write_results(directory / name / "results.csv", rows)
    remember_run(directory / name, directory / name, [])
    record = {"status": "finished", "settings": {"SEED": seed, "SIZE": "t5_tiny", **settings}}
    (directory / name / "run.json").write_text(json.dumps(record))
    return directory / name


def lines_of(*paths):
    inputs = read_rows([path / "results.csv" for path in paths])
    return compare(inputs.rows, inputs.measures, inputs.seeds)


def test_seeds_of_one_point_are_averaged_for_each_row_and_their_spread_stands_apart(tmp_path):
    generator = np.random.default_rng(0)
    scores = [(generator.random((30, 2)) < chance).astype(float) for chance in (0.5, 0.6, 0.9)]
    runs = [seed_run(tmp_path, i, [0, 0], scores=each) for i, each in enumerate(scores)]
    (line,) = lines_of(*runs)
    means = [100 * each.mean() for each in scores]
    assert line.tuned.mean == pytest.approx(np.mean(means))
    assert line.tuned.sd_seeds == pytest.approx(np.std(means, ddof=1))
    mean_of_rows = np.mean(scores, axis=(0, 2))
    error = 100 * np.std(mean_of_rows, ddof=1) / 30**0.5
    assert line.tuned.stderr == pytest.approx(error) and not line.tuned.stderr_is_bound
    low, high = line.tuned.interval
    assert (high - low) / 2 == pytest.approx(2.04523 * error)
    by_template = np.mean(scores, axis=(0, 1)) * 100
    assert line.tuned.std == pytest.approx(np.std(by_template, ddof=1))
    text = table([line])
    assert "; mean of 3 seeds" in text and "| std over seeds |" in text
    assert f"| {np.mean(means):.1f} | {np.std(means, ddof=1):.1f} |" in text


def test_runs_that_differ_in_more_than_the_seed_or_in_their_rows_are_not_averaged(tmp_path, caplog):
    first = seed_run(tmp_path, 0, [50.0, 60.0])
    other = seed_run(tmp_path, 1, [70.0, 80.0], SHOTS=5)
    assert [line.tuned.mean for line in lines_of(first, other)] == [55.0, 75.0]
    partly = seed_run(tmp_path, 2, [70.0])
    with caplog.at_level("INFO"):
        assert [line.tuned.mean for line in lines_of(first, partly)] == [55.0, 70.0]
    assert "seeds not averaged: tiny-seed_2 and tiny-seed_0 were evaluated on other" in caplog.text
    metric = seed_run(tmp_path, 4, [70.0, 80.0])
    results = (metric / "results.csv").read_text()
    (metric / "results.csv").write_text(results.replace("accuracy", "f1"))
    assert [line.tuned.metric for line in lines_of(first, metric)] == ["accuracy", "f1"]
    same = seed_run(tmp_path, 3, [70.0, 80.0])
    copy = tmp_path / "copy"
    shutil.copytree(same, copy)
    with caplog.at_level("INFO"):
        assert len(lines_of(first, same, copy)) == 3
    assert "two have the same SEED" in caplog.text
    labels = [(line.label, line.tuned.mean) for line in lines_of(first, other, same)]
    assert labels == [("tiny (2 seeds)", 65.0), ("tiny-seed_1", 75.0)]
