"""Sweeps: names of points, checks before the start, and runs that fail, are killed and go on."""

import collections
import contextlib
import csv
import dataclasses
import importlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from flan_jax import sweep as sweep_verb
from flan_jax.config import run_status
from flan_jax.config.gin_parsing import argument_value, split_bindings
from flan_jax.data.packs import Packs
from flan_jax.errors import UserError
from flan_jax.evaluation import shared_baselines
from flan_jax.evaluation.result_rows import ResultRow, read_results, write_results
from flan_jax.sweeps import grid, plan, sweep_table
from support.processes import simulating
from support.runs import losses, run_here
from support.two_processes import SMALL

SETTINGS = [
    *SMALL,
    "--gin.MIXTURE_OR_TASK_NAME=rte",
    "--gin.HELD_OUT=none",
    "--gin.TRAIN_STEPS=2",
]


def sweep(directory: pathlib.Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "flan_jax.sweep", str(directory), *arguments]


def statuses(directory: pathlib.Path) -> dict[str, str]:
    done = run_here(sweep(directory, "--status", "--json"))
    return {name: state["status"] for name, state in json.loads(done.stdout).items()}


@contextlib.contextmanager
def held_by_another_process(lock: pathlib.Path):
    """Within it a process holds a lock; yields the process."""
    code = (
        "import sys, time; from flan_jax.storage.locks import locked; import pathlib\n"
        "with locked(pathlib.Path(sys.argv[1]), 'another'):\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        yield holder
    finally:
        holder.kill()
        holder.wait()


def names(*arguments) -> list[str]:
    return [point.name for point in grid.points(*arguments)]


def test_a_grid_is_a_product_a_union_and_pairs():
    product = {"gin_file": ["a/t5_small.gin"], "HELD_OUT": ["nli"], "SEED": [0, 1]}
    assert names(product, {}) == ["t5_small-nli-seed_0", "t5_small-nli-seed_1"]
    assert names([{"SEED": [0]}, {"SEED": [1], "SHOTS": [2]}], {}) == ["seed_0", "seed_1-shots_2"]
    pairs = {"Data.pack,SEED": [(True, 1), (False, 2)]}
    assert names(pairs, {}) == ["pack_True-seed_1", "pack_False-seed_2"]
    same = {"SIZE,EVAL_DATASETS": [("rte", "rte"), ("rte", "cb")]}
    assert names(same, {}) == ["rte", "rte-cb"]
    assert names(None, {"HELD_OUT": ["nli", "a/b"]}) == ["nli", "b"]
    point = grid.points(product, {})[0]
    assert point.arguments() == [
        "--gin_file=a/t5_small.gin",
        "--gin.HELD_OUT=nli",
        "--gin.SEED=0",
    ]


SHIPPED = sorted(pathlib.Path("gin/sweep").glob("*.gin"))
# Points, and evaluations of all points together, of the shipped sweeps.
COUNTS = {
    "clusters": (7, 0),
    "held_out": (11, 0),
    "instructions": (12, 8),
    "model_size": (9, 0),
    "peft": (8, 0),
    "quick": (1, 0),
    "shots": (14, 0),
    "templates": (12, 0),
    "tiny": (4, 0),
}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_point_of_a_shipped_sweep_passes_the_checks_before_the_start(file, tmp_path):
    arguments = [f"--gin_file={file}", f"--gin.CACHE_DIR={tmp_path / 'cache'}"]
    if file.stem == "quick":
        arguments.insert(0, "--gin_file=gin/flan.gin")
    arguments = [str(tmp_path / "sweep"), *arguments]
    flags = sweep_verb._flags(arguments)
    whole = sweep_verb._sweep(tmp_path / "sweep", arguments, flags, {}, {})
    evaluations = sum(len(point.evaluations) for point in whole.points)
    assert (len(whole.points), evaluations) == COUNTS[file.stem]
    header = file.read_text().partition("\ninclude ")[0]
    assert "flan-jax sweep runs/" in header and "# Hardware: " in header and "# Seen:  " in header


@pytest.mark.parametrize(
    "given, message",
    [
        ({"SEED": 3}, "the axis SEED of the sweep must be a list of values, not 3"),
        ({"SEED": [1, 1]}, "two points of the sweep are called 'seed_1'"),
        ({"A,B": [1]}, "each value of the axis 'A,B' must be a list of 2, not 1"),
        ([], "the sweep has no points"),
        ("SEED", "Sweep.grid must be a dict of lists"),
    ],
)
def test_a_grid_of_another_form_is_a_clear_error(given, message):
    with pytest.raises(UserError, match=message):
        grid.points(given, {})


def test_evaluations_are_named_by_their_settings():
    given = [{"INSTRUCTIONS": "template"}, {"SHOTS": 4, "Data.pack": False}]
    named = grid.evaluations(given, {"SEED": [0, 1]})
    assert list(named) == ["instructions_template", "shots_4-pack_False", "seed_0", "seed_1"]
    assert named["shots_4-pack_False"] == {"SHOTS": 4, "Data.pack": False}
    for wrong in ([{}], "template", [["INSTRUCTIONS"]]):
        with pytest.raises(UserError, match="Sweep.evaluations must be a list of dicts"):
            grid.evaluations(wrong, {})
    with pytest.raises(UserError, match="two evaluations of the sweep are called 'shots_1'"):
        grid.evaluations([{"SHOTS": 1}], {"SHOTS": [1]})


def test_a_name_is_no_number_and_no_longer_than_file_systems_allow():
    steps = ["runs/a/checkpoints/1", "runs/a/checkpoints/2/"]
    axis = {"INITIAL_CHECKPOINT_PATH": steps}
    assert names(None, axis) == ["initial_checkpoint_path_1", "initial_checkpoint_path_2"]
    assert names({"SEED": [0]}, axis) == ["seed_0-1", "seed_0-2"]
    assert names(None, {"gin_file": ["mine/7.gin"]}) == ["gin_file_7"]
    long, longer = names(None, {"PROMPT_INIT": ["x" * 300, "x" * 301]})
    assert long.startswith("x" * 100 + "-") and len(long) == len(longer) < 120 and long != longer
    (name,) = grid.evaluations([{"PROMPT_INIT": "\u00e9" * 200}], {})
    assert name.startswith("prompt_init_\u00e9") and len(name.encode()) < 120


def test_a_point_is_found_by_its_name_before_its_number(tmp_path, monkeypatch):
    commands = []
    train = importlib.import_module("flan_jax.train")  # the package has a function of this name
    monkeypatch.setattr(train, "main", lambda command: commands.append(command) or 0)
    points = [grid.Point(name, (), {"SEED": int(name)}) for name in ("1", "2")]  # by an older sweep
    whole = plan.Sweep(tmp_path, SETTINGS, points)
    for which in ("1", "2", "0"):
        assert sweep_verb._run_point(whole, which) == 0
    ran = [command[-1].rpartition("/")[2] for command in commands]
    assert ran == ["1", "2", "1"]


@pytest.mark.parametrize(
    "text, values",
    [
        ("1, 0", [1, 0]),
        ("'labels: yes, no',vocabulary", ["labels: yes, no", "vocabulary"]),
        ("\"it's, well\",don't,won't", ["it's, well", "don't", "won't"]),
        (r"'it\'s, well', b", ["it's, well", "b"]),
        ("[1, 'a]'],(2, 3)", [[1, "a]"], (2, 3)]),
        ("'',none", ["", "none"]),
    ],
)
def test_values_of_an_axis_are_between_commas_outside_brackets_and_quotes(text, values):
    assert sweep_verb._axes([f"--sweep.NAME={text}"], "--sweep.") == {"NAME": values}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--sweep.SEED=0,"], "--sweep.SEED=0, has an empty value; take a comma out"),
        (["--evaluate.SEED=0,,1"], "--evaluate.SEED=0,,1 has an empty value"),
        (["--sweep.SEED= "], "--sweep.SEED=  has no values; write --sweep.NAME=a,b,c"),
        (["--sweep.SEED"], "--sweep.SEED has no values"),
        (["--sweep.SEED=0", "--sweep.SEED=1"], "--sweep.SEED is given twice; write all values in"),
        (["--evaluate.SEED=0", "--evaluate.SEED=1"], "--evaluate.SEED is given twice"),
        (["--json"], "--json has no effect without --status; add --status"),
    ],
)
def test_arguments_without_an_effect_are_clear_errors(arguments, message, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)):
        sweep_verb.main([str(tmp_path / "sweep"), *SETTINGS, *arguments])
    assert not (tmp_path / "sweep").exists()


def test_a_text_of_a_grid_is_read_as_the_same_text():
    texts = [
        "(query|value)",
        "all",
        "1",
        "None",
        "true",
        "'a'",
        "",
        " a ",
        "%SEED",
        "it's",
        "/a/b c",
    ]
    for text in texts:
        (argument,) = grid.setting_arguments({"NAME": text})
        ((name, written),), _ = split_bindings([argument])
        assert (name, argument_value("--gin.NAME", written)) == ("NAME", text)
    assert grid.setting_arguments({"LORA_TARGETS": "all"}) == ["--gin.LORA_TARGETS=all"]


def status(directory: pathlib.Path, *arguments: str) -> int:
    """Gives the sweep of a directory, and runs nothing."""
    return sweep_verb.main([str(directory), *arguments, "--status"])


@pytest.fixture
def gin_directories(monkeypatch):
    """Two directories with a mine.gin and a base/ each; the first is the working directory.

    Their paths are short, so that messages have them whole.
    """
    with tempfile.TemporaryDirectory() as name:
        there = pathlib.Path(name).resolve()
        for seed, directory in enumerate((there / "g1", there / "g2")):
            (directory / "base").mkdir(parents=True)
            (directory / "mine.gin").write_text(f"SEED = {seed}\n")
        monkeypatch.chdir(there / "g1")
        yield there


@pytest.mark.parametrize(
    "first, second, difference",
    [
        (
            ["--sweep.gin_file=mine.gin"],
            ["--sweep.gin_file=../g2/mine.gin"],
            "(other points: mine with --gin_file=TMP/g2/mine.gin, not --gin_file=TMP/g1/mine.gin)",
        ),
        (
            ["--sweep.T5Config.num_heads=2,4"],
            ["--sweep.T5Config.num_heads=2,4", "--sweep.DecoderConfig.num_heads=2"],
            "(without num_heads_2, num_heads_4; with ",
        ),
        (
            ["--sweep.DecoderConfig.num_heads=2"],
            ["--sweep.T5Config.num_heads=2"],
            "(other points: num_heads_2 with --gin.T5Config.num_heads=2, not --gin.DecoderConfig.",
        ),
        (
            ["--evaluate.Data.seed=1"],
            ["--evaluate.Train.seed=1"],
            "(other evaluations: seed_1 with --gin.Train.seed=1, not --gin.Data.seed=1)",
        ),
        (
            ["--gin.SEED=1", "--gin.SEED=2"],
            ["--gin.SEED=2", "--gin.SEED=1"],
            "(other arguments: --gin.SEED=2 before --gin.SEED=1)",
        ),
        (
            ["--sweep.CACHE_DIR=base"],
            ["--sweep.CACHE_DIR=../g2/base"],
            "(other points: base with --gin.CACHE_DIR=TMP/g2/base, not --gin.CACHE_DIR=TMP/g1/base",
        ),
    ],
)
def test_another_grid_with_the_same_names_is_refused(first, second, difference, gin_directories):
    directory = gin_directories / "sweep"
    assert status(directory, *SETTINGS, *first) == 1
    assert status(directory, *reversed(SETTINGS), *first) == 1  # the same sweep
    message = f"holds another sweep {difference.replace('TMP', str(gin_directories))}"
    with pytest.raises(UserError, match=re.escape(message)):
        status(directory, *SETTINGS, *second)


def test_a_setting_for_a_sweep_that_is_there_is_refused(tmp_path):
    status(tmp_path, *SETTINGS, "--sweep.SEED=0")
    message = f"--gin.TRAIN_STEPS=9 has no effect on the sweep in {tmp_path}; leave it out"
    with pytest.raises(UserError, match=re.escape(message)):
        status(tmp_path, "--gin.TRAIN_STEPS=9")


def test_a_point_runs_from_any_directory(gin_directories, monkeypatch):
    directory, here = gin_directories / "sweep", gin_directories / "g1"
    shared = [
        *SETTINGS,
        "--gin.CACHE_DIR=base",
        "--gin_search_paths=base",
        "--evaluate.Data.seed=7",
    ]
    axes = [
        "--sweep.gin_file=mine.gin,gin/size/t5_tiny.gin",
        "--sweep.Train.baselines_dir=base/,~/cache",
    ]
    status(directory, *shared, *axes)
    monkeypatch.chdir("/")
    points = plan.read_sweep(directory).points
    assert [point.name for point in points] == [
        *("mine-base", "mine-cache", "t5_tiny-base", "t5_tiny-cache")
    ]
    assert [point.gin_files[0] for point in points[1:3]] == [
        *(f"{here}/mine.gin", "gin/size/t5_tiny.gin")  # the shipped ones are everywhere
    ]
    directories = [point.settings["Train.baselines_dir"] for point in points[:2]]
    assert directories == [f"{here}/base", "~/cache"]
    command = plan.read_sweep(directory).command(points[0])
    assert {f"--gin.CACHE_DIR={here}/base", f"--gin_search_paths={here}/base"} < set(command)
    assert plan.check_settings(command)["SEED"] == 0


def test_a_sweep_of_an_older_version_goes_on_by_the_same_command(gin_directories):
    """Its sweep.json had no format, relative paths, and texts that arguments had without quotes."""
    directory = gin_directories / "sweep"
    arguments = [*SETTINGS, "--gin.CACHE_DIR=base", "--gin.Sweep.evaluations=[{'SEED': 3}]"]
    flan = pathlib.Path(__file__).parents[1] / "gin/flan.gin"
    older = {
        "arguments": [f"--gin_file={flan}", *arguments[1:]],
        "evaluations": {"seed_3": {"SEED": 3}},
        "points": {
            f"mine-base-{text}": {
                "gin_files": ["mine.gin"],
                "settings": {"Train.baselines_dir": "base", "MIXTURE_OR_TASK_NAME": f" {text}"},
                "evaluations": ["seed_3"],
            }
            for text in ("rte", "cb")
        },
    }
    directory.mkdir()
    (directory / "sweep.json").write_text(json.dumps(older))
    axes = ["--sweep.gin_file=mine.gin", "--sweep.Train.baselines_dir=base"]
    axes += ["--sweep.MIXTURE_OR_TASK_NAME= rte, cb"]
    assert status(directory, *arguments, *axes) == 1
    assert json.loads((directory / "sweep.json").read_text()) == older
    point = plan.read_sweep(directory).points[1]
    assert point.arguments() == [
        *("--gin_file=mine.gin", "--gin.Train.baselines_dir=base", "--gin.MIXTURE_OR_TASK_NAME=cb")
    ]


EVALUATED = [
    *SMALL,
    "--gin.HELD_OUT=sentiment",
    "--gin.MIXTURE_OR_TASK_NAME=rte",
    "--gin.EVAL_DATASETS=sst2",
    "--gin.EVAL_ROWS=4",
    "--gin.EVAL_TEMPLATES=2",
]


def test_a_point_is_evaluated_again_with_other_settings(tmp_path):
    directory = tmp_path / "sweep"
    cache, again = f"--gin.CACHE_DIR={tmp_path / 'cache'}", "--evaluate.INSTRUCTIONS=template"
    settings = [*EVALUATED, cache, "--gin.TRAIN_STEPS=1", "--sweep.INSTRUCTIONS=none,template"]
    done = run_here(sweep(directory, *settings, "--evaluate.INSTRUCTION=none", "--point=0"))
    assert done.returncode == 2 and not directory.exists()
    assert done.stderr.count("evaluation instruction_none: ") == 2

    assert run_here(sweep(directory, *settings, again, "--point=none")).returncode == 0
    point, name = plan.read_sweep(directory).points[0], "instructions_template"
    output = directory / point.name / "evaluations" / name
    modes = {(row.model, row.instruction_mode) for row in read_results(output / "results.csv")}
    assert modes == {("tuned", "template"), ("majority", "any")}
    assert statuses(directory) == {"none": "finished", "template": "not started"}
    # What the point has itself is not evaluated again.
    assert plan.read_sweep(directory).points[1].evaluations == ()
    results, trained = (output / "results.csv").read_text(), directory / "none/metrics.jsonl"
    before = trained.stat().st_mtime_ns

    (output / "results.csv").unlink()
    (output / "run.json").write_text('{"status": "running"}')  # as after a kill -9
    shown = run_here(sweep(directory, "--status")).stdout
    assert "0  none      killed" in shown and f"{name}  killed" in shown
    assert run_here(sweep(directory, "--point=0")).returncode == 0
    assert (output / "results.csv").read_text() == results
    assert trained.stat().st_mtime_ns == before
    assert sweep_table.write_table(plan.read_sweep(directory)) > 0
    with open(directory / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["evaluation"] for row in rows} == {"", name}

    other = run_here(sweep(directory, *settings))
    assert f"holds another sweep (other evaluations: no {name})" in other.stderr


def test_data_are_prepared_once_for_all_points_and_held_out_rows_once_for_all_seeds(tmp_path):
    caches = {}
    for seeds in ("0", "0,1"):
        directory, cache = tmp_path / f"sweep_{seeds}", tmp_path / f"cache_{seeds}"
        settings = [*EVALUATED, "--gin.TRAIN_STEPS=2", f"--gin.CACHE_DIR={cache}"]
        done = run_here(sweep(directory, *settings, f"--sweep.SEED={seeds}", "--prepare"))
        assert done.returncode == 0, done.stderr
        packs = Packs(cache / "tokens").packs()
        caches[seeds] = collections.Counter(key for pack in packs for key in pack.index)
    assert set(caches["0,1"].values()) == {1}  # nothing is rendered twice
    kinds = {
        key: "template" in entry["meta"] for pack in packs for key, entry in pack.index.items()
    }
    held_out = [key for key, is_evaluated in kinds.items() if is_evaluated]
    assert len(held_out) == 2 and set(held_out) < set(caches["0"])  # of two templates
    assert len(caches["0,1"]) > len(caches["0"])  # a seed has its own training examples
    done = run_here(sweep(directory, "--prepare"))
    assert "2 points: 2 different configurations" in done.stdout + done.stderr


def test_a_baseline_is_evaluated_once_and_copied_as_it_is(tmp_path):
    directory, cache = tmp_path / "sweep", f"--gin.CACHE_DIR={tmp_path / 'cache'}"
    settings = [*EVALUATED, cache, "--gin.TRAIN_STEPS=1"]
    axis = "--sweep.LEARNING_RATE=0.01,0.02"
    assert run_here(sweep(directory, *settings, axis, "--point=0")).returncode == 0
    (shared,) = (directory / "baselines").iterdir()

    name = "learning_rate_0.01"
    alone = tmp_path / "alone" / name
    train = [sys.executable, "-m", "flan_jax.train", *settings, "--gin.LEARNING_RATE=0.01"]
    assert run_here([*train, f"--gin.MODEL_DIR={alone}"]).returncode == 0
    files = [path for path in (alone / "predictions").rglob("*") if path.is_file()]
    assert len(files) == 8  # of two models in two templates, each with what the rows contribute
    for file in [*files, alone / "results.csv", alone / "evaluated.json"]:
        assert file.read_bytes() == (directory / name / file.relative_to(alone)).read_bytes()

    # Another number in the shared results shows up in the next run: it is copied.
    rows = read_results(shared / "results.csv")
    write_results(shared / "results.csv", [dataclasses.replace(row, value=12.5) for row in rows])
    assert run_here(sweep(directory, "--point=1")).returncode == 0
    copied = read_results(directory / "learning_rate_0.02" / "results.csv")
    values = {
        model: {r.value for r in copied if r.model == model} for model in ("tuned", "untuned")
    }
    assert values["untuned"] == {12.5} and 12.5 not in values["tuned"]
    assert len(list((directory / "baselines").iterdir())) == 1


def test_a_run_waits_for_a_baseline_until_its_maker_ends_even_by_kill_9(tmp_path):
    with held_by_another_process(tmp_path / shared_baselines._LOCK) as maker:
        with shared_baselines._alone(tmp_path, lambda: True) as is_held:
            assert not is_held  # the run is to stop

        def kill() -> bool:
            maker.kill()
            maker.wait()
            return False

        with shared_baselines._alone(tmp_path, kill) as is_held:
            assert is_held


def test_sweep_csv_has_the_rows_of_all_points_with_their_settings(tmp_path):
    points = grid.points([{"SEED": [0, 1]}, {"SHOTS": [4]}], {})
    whole = plan.Sweep(tmp_path, ["--gin_file=gin/flan.gin"], points)
    plan.keep(whole)
    row = ResultRow(
        *("a", 8, "tuned", "t5_tiny", "nli", "rte", "test", "terse", "forward", 0),
        *("template", "sum", "accuracy", 50.0, 12.5, 16),
    )
    for point in points[:2]:
        write_results(
            tmp_path / point.name / "results.csv", [row, dataclasses.replace(row, template="email")]
        )
        with run_status.recorded(tmp_path / point.name, True) as status:
            settings = {"SEED": point.settings["SEED"], "SHOTS": 0, "HELD_OUT": "nli"}
            status.update(step=8, parameters=10, tokens=99, held_out="nli", settings=settings)
    done = run_here([sys.executable, "-m", "flan_jax.report", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert "1 of 3 points are not finished: shots_4 (not started)" in done.stdout
    with open(tmp_path / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["point"], r["template"], r["sweep.SEED"], r["sweep.SHOTS"]) for r in rows] == [
        ("seed_0", "terse", "0", "0"),
        ("seed_0", "email", "0", "0"),
        ("seed_1", "terse", "1", "0"),
        ("seed_1", "email", "1", "0"),
    ]
    assert {(r["run.parameters"], r["run.tokens"], r["run.held_out"]) for r in rows} == {
        ("10", "99", "nli")
    }
    written = (tmp_path / "sweep.csv").stat().st_mtime_ns
    assert sweep_table.write_table(plan.read_sweep(tmp_path)) == 4
    assert (tmp_path / "sweep.csv").stat().st_mtime_ns == written


def test_every_mistake_is_found_before_anything_starts(tmp_path):
    directory = tmp_path / "sweep"
    done = run_here(sweep(directory, *SETTINGS, "--sweep.SEED=0,-1", "--sweep.LERNING_RATE=1,2"))
    assert done.returncode == 2 and not directory.exists()
    assert "4 of 4 points cannot run, and none was started" in done.stderr
    assert done.stderr.count("no setting is called 'LERNING_RATE'") == 4
    grid_of_two = "[{'HELD_OUT': ['none', 'sentimental']}, {'SED': [1]}]"
    done = run_here(sweep(directory, *SETTINGS, f"--gin.Sweep.grid={grid_of_two}"))
    assert done.returncode == 2 and not directory.exists()
    assert "2 of 3 points cannot run" in done.stderr
    assert "sentimental: " in done.stderr and "no setting is called 'SED'" in done.stderr


def test_a_second_sweep_is_refused_while_the_first_works_there(tmp_path):
    directory = tmp_path / "sweep"
    plan.keep(plan.Sweep(directory, SETTINGS, grid.points({"SEED": [0]}, {})))
    with held_by_another_process(directory / ".sweep.lock"):
        done = run_here(sweep(directory))
    assert done.returncode == 2 and "is in use by another (process " in done.stderr
    assert statuses(directory) == {"seed_0": "not started"}
    (directory / "seed_0").mkdir()
    with held_by_another_process(directory / "seed_0" / run_status.LOCK):
        assert statuses(directory) == {"seed_0": "running"}
        # A run that works on another machine is left alone.
        done = run_here(sweep(directory))
        assert done.returncode == 1 and "1 of 1 points run elsewhere: seed_0" in done.stdout


def test_a_point_that_fails_does_not_end_the_others_and_finished_ones_stay(tmp_path):
    directory, cache = tmp_path / "sweep", f"--gin.CACHE_DIR={tmp_path / 'cache'}"
    axis = "--sweep.LEARNING_RATE=0.01,1e30"
    arguments = sweep(directory, *SETTINGS, cache, axis)
    first = subprocess.run(arguments, capture_output=True, text=True, env=simulating(1))
    assert first.returncode == 2, first.stdout + first.stderr
    assert "1 of 2 points failed: learning_rate_1e+30" in first.stderr
    good, bad = "learning_rate_0.01", "learning_rate_1e+30"
    assert statuses(directory) == {good: "finished", bad: "failed"}
    record = run_status.read_status(directory / good)
    assert record["tokens"] > 0 and record["settings"]["LEARNING_RATE"] == 0.01
    assert record["train"] == ["rte"] and record["ended"] >= record["started"]
    assert "has loss" in (directory / f"logs/{bad}.log").read_text()

    files = {path: path.stat().st_mtime_ns for path in (directory / good).rglob("*")}
    again = run_here(sweep(directory))
    assert again.returncode == 2 and f"1 of 2 points failed: {bad}" in again.stderr
    assert "starts" not in again.stdout + again.stderr  # a crash counts over all starts
    retry = sweep(directory, "--retry")
    again = subprocess.run(retry, capture_output=True, text=True, env=simulating(1))
    assert again.returncode == 2 and f"{bad} starts" in again.stdout + again.stderr
    assert f"{good} starts" not in again.stdout + again.stderr
    assert files == {path: path.stat().st_mtime_ns for path in (directory / good).rglob("*")}

    other = run_here(sweep(directory, *SETTINGS, cache, "--sweep.LEARNING_RATE=0.01"))
    assert other.returncode == 2
    assert f"holds another sweep (without {bad})" in other.stderr
    assert "none of 2 points is to be run" in run_here(sweep(directory, "--backend=print")).stdout
    lines = run_here(sweep(directory, "--backend=print", "--retries=2")).stdout.splitlines()
    assert [line.split("--point=")[1] for line in lines if "--point=" in line] == [bad]
    script = run_here(
        sweep(directory, "--backend=slurm", "--retry", "--sbatch=--gpus=1", "--jobs=3")
    ).stdout
    assert "#SBATCH --array=1%3\n" in script and "#SBATCH --gpus=1\n" in script


CLUSTER = ["--backend=gcluster", "--tpu=v5e", "--topology=4x4", "--image=repo/flan:1", "--claim=c"]
MOUNTED = "--gin.CACHE_DIR=/runs/cache"


def test_kubernetes_has_a_job_set_for_each_point():
    yaml = pytest.importorskip("yaml")
    directory, axes = pathlib.Path("/runs/Size_2"), ["--sweep.SEED=0,1", "--sweep.HELD_OUT=none"]
    arguments = [*SETTINGS, MOUNTED, *axes, *CLUSTER, "--queue=tpus"]
    done = run_here(sweep(directory, *arguments))
    assert done.returncode == 0, done.stderr
    sets = list(yaml.safe_load_all(done.stdout))
    assert [item["metadata"]["name"] for item in sets] == ["size-2-0", "size-2-1"]
    assert sets[1]["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "tpus"}
    assert sets[1]["metadata"]["annotations"]["flan-jax/point"] == "seed_1-none"
    job = sets[1]["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["completions"], job["completionMode"]) == (4, "Indexed")
    command = job["template"]["spec"]["containers"][0]["command"]
    assert command[:3] == ["flan-jax", "sweep", "/runs/Size_2"]
    assert command[-1] == "--point=seed_1-none" and set(axes) < set(command)
    # The pods read the command as it was meant: it gives the same points.
    flags = sweep_verb._flags([a for a in command[2:] if not a.startswith("--sweep.")])
    assert flags.point == "seed_1-none" and flags.gin_file == ["gin/flan.gin"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--backend=gcluster"], "--backend=gcluster needs --tpu"),
        ([*CLUSTER, "--nodes=2"], "--nodes has no effect with --backend=gcluster; it is for slurm"),
        (CLUSTER, "CACHE_DIR is ~/.cache/flan_jax, which ends with the container"),
        ([*CLUSTER, MOUNTED, "--queue=A B"], "--queue=A B must be the name of a LocalQueue"),
        (["--tpu=v5e"], "--tpu has no effect with --backend=local"),
        (["--backend=print", "--run"], "--run is for slurm and gcluster"),
        (["--backend=slurm", "--nodes=two"], "--nodes=two must be a whole number of at least 1"),
    ],
)
def test_flags_of_another_queue_are_clear_errors(arguments, message, tmp_path):
    directory = tmp_path if "--backend=slurm" in arguments else "/runs/x"
    done = run_here(sweep(directory, *SETTINGS, *arguments))
    assert done.returncode == 2 and message in done.stderr


def test_pods_do_not_see_a_local_directory(tmp_path):
    done = run_here(sweep(tmp_path / "x", *SETTINGS, MOUNTED, *CLUSTER))
    assert done.returncode == 2 and "which the pods do not see; give /runs/NAME" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("with_its_run", [False, True], ids=["the sweep", "the sweep and its run"])
def test_a_sweep_that_is_killed_goes_on_and_has_the_numbers_of_an_undisturbed_one(
    tmp_path, with_its_run
):
    settings = [
        *EVALUATED,
        "--gin.TRAIN_STEPS=40",
        "--gin.CHECKPOINT_EVERY=5",
        f"--gin.CACHE_DIR={tmp_path / 'cache'}",
        "--sweep.SEED=0,1",
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run(sweep(whole, *settings), env=simulating(1), capture_output=True)
    assert done.returncode == 0
    process = subprocess.Popen(sweep(killed, *settings), env=simulating(1))
    deadline = time.time() + 300
    log = killed / "seed_0/metrics.jsonl"
    while time.time() < deadline and not (log.exists() and len(log.read_text().splitlines()) > 8):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    if with_its_run:
        os.kill(run_status.read_status(killed / "seed_0")["pid"], signal.SIGKILL)
    process.wait()
    while "running" in statuses(killed).values() and time.time() < deadline:
        time.sleep(0.2)  # the run has received SIGTERM, saves and ends
    state = "killed" if with_its_run else "saved"
    assert statuses(killed) == {"seed_0": state, "seed_1": "not started"}
    done = subprocess.run(sweep(killed), env=simulating(1), capture_output=True)
    assert done.returncode == 0
    for name in ("seed_0", "seed_1"):
        assert losses(killed / name) == losses(whole / name)
        assert (killed / name / "results.csv").read_text() == (
            whole / name / "results.csv"
        ).read_text()
    with open(killed / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["sweep.SEED"] for row in rows} == {"0", "1"}
    assert all(row["run.status"] == "finished" for row in rows)
