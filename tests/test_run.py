"""The program as a user runs it.

A whole run, restarts after kill -9 and SIGTERM, devices, and what is refused.
"""

import csv
import json
import pathlib
import re
import signal
import subprocess
import sys
import types

import pytest

from flan_jax.errors import UserError
from flan_jax.training import run_record
from flan_jax.training.config_record import changed_settings
from support.processes import ended_well, output_tail
from support.runs import command, losses, run, run_here, start_and_signal
from support.two_processes import finish, start_two


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("cache")


def train(cache, model_dir, *arguments: str, devices: int = 1) -> subprocess.CompletedProcess:
    words = command("train", cache, model_dir, *arguments)
    return ended_well(run_here(words) if devices == 1 else run(words, devices))


def values(model_dir, *models: str) -> dict[tuple, str]:
    """What `results.csv` says, by what it is about; of these models, or of all."""
    with open(model_dir / "results.csv", newline="") as file:
        return {
            (
                r["model"] if not models else "",
                r["dataset"],
                r["template"],
                r["metric"],
                r["scoring"],
            ): r["value"]
            for r in csv.DictReader(file)
            if not models or r["model"] in models
        }


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory) -> pathlib.Path:
    model_dir = tmp_path_factory.mktemp("runs") / "finished"
    train(
        cache,
        model_dir,
        "--gin.TRAIN_STEPS=4",
        "--gin.EVAL_ROWS=2",
        "--gin.HELD_OUT=reading_comprehension_with_commonsense",
        "--gin.SAMPLE_PROMPTS=['Is rain wet?']",
    )
    return model_dir


def test_a_run_writes_the_files_that_a_paper_needs(finished):
    for name in (
        "config.gin",
        "model-info.txt",
        "mixture.json",
        "metrics.jsonl",
        "results.csv",
        "report.md",
        "report.png",
        "report.html",
        "figures/zero_shot.pdf",
        "figures/difference.svg",
        "figures/template_spread.csv",
        "signatures.json",
        "answers.jsonl",
    ):
        assert (finished / name).stat().st_size > 0, name
    for name in ("report.md", "report.html"):
        text = (finished / name).read_text()
        assert "Is rain wet?" in text and "held out: " in text and "validation rows" in text
    with open(finished / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    tuned = [
        r
        for r in rows
        if r["model"] == "tuned" and r["scoring"] == "sum" and r["dataset"] == "cosmos_qa"
    ]
    assert len({r["template"] for r in tuned}) == 10 and all(
        r["n"] == "2" and r["step"] == "4" for r in tuned
    )
    assert {r["model"] for r in rows} == {"tuned", "untuned", "majority"}
    predictions = (finished / "predictions/tuned").glob("record.test.*.jsonl")
    line = json.loads(next(predictions).read_text().splitlines()[0])
    assert {"row", "prompt", "options", "scores", "prediction", "answer"} <= set(line)
    card = json.loads((finished / "mixture.json").read_text())
    assert {r["cluster"] for r in card["card"]}.isdisjoint(
        {"reading_comprehension", "commonsense", "reading_comprehension_with_commonsense"}
    )


def test_the_page_of_file_formats_names_what_is_in_a_run(finished):
    page = (pathlib.Path(__file__).parents[1] / "docs/files.md").read_text(encoding="utf-8")
    names = {path.name for path in finished.iterdir()}
    names |= set((finished / "results.csv").read_text().splitlines()[0].split(","))
    for line in (finished / "metrics.jsonl").read_text().splitlines():
        names |= set(json.loads(line))
    for path in finished.glob("predictions/tuned/*.jsonl"):
        names |= set(json.loads(path.read_text().splitlines()[0]))
    names |= set(json.loads((finished / "run.json").read_text()))
    names -= {name for name in names if re.search(rf"`{name}[/`]", page)}
    assert not names


def test_a_finished_run_starts_without_tensorflow_and_does_nothing_twice(finished, cache):
    before = (finished / "metrics.jsonl").read_text(), (finished / "results.csv").read_text()
    arguments = [f"--gin_file={finished / 'config.gin'}"]
    program = (
        f"import sys; from flan_jax.train import main; status = main({arguments});"
        "print('status', status, [m for m in ('tensorflow', 'seqio', 'torch') if m in sys.modules])"
    )
    result = run([sys.executable, "-c", program])
    assert "status 0 []" in result.stdout, output_tail(result)
    assert "resuming from step 4" in result.stdout or "nothing has changed since" in result.stdout
    assert before == (
        (finished / "metrics.jsonl").read_text(),
        (finished / "results.csv").read_text(),
    )


def test_eval_and_generate_take_a_checkpoint(finished, tmp_path):
    gin_file = f"--gin_file={finished / 'config.gin'}"
    result = run_here(
        [sys.executable, "-m", "flan_jax.eval", gin_file, f"--output={tmp_path}", "--name=again"]
    )
    ended_well(result)
    assert values(tmp_path, "again") == values(finished, "tuned")
    chosen = [
        gin_file,
        f"--output={tmp_path / 'chosen'}",
        "--gin.EVAL_DATASETS=copa+cola",
        "--gin.EVAL_TEMPLATES=2",
        # with which the run would not train on cola
        "--gin.EVAL_SPLIT=validation",
        "--gin.HELD_OUT=misc",
    ]
    result = run_here([sys.executable, "-m", "flan_jax.eval", *chosen])
    ended_well(result)
    with open(tmp_path / "chosen/results.csv", newline="") as file:
        pairs = {
            (r["dataset"], r["template"]) for r in csv.DictReader(file) if r["model"] == "tuned"
        }
    assert len(pairs) == 4 and {name for name, _ in pairs} == {"copa", "cola"}
    assert "not held out: cola (the model was trained on it)" in result.stdout
    assert (
        "not zero-shot for the model that trained on it: cola."
        in (tmp_path / "chosen/report.md").read_text()
    )
    result = run_here([sys.executable, "-m", "flan_jax.eval", gin_file, f"--checkpoint={tmp_path}"])
    assert result.returncode == 2 and "where results have the name 'tuned'" in result.stderr, (
        result.stderr
    )
    result = run_here([sys.executable, "-m", "flan_jax.eval", gin_file, "--gin.EVAL_DATASETS=copo"])
    assert result.returncode == 2 and "did you mean copa?" in result.stderr
    result = run_here(
        [sys.executable, "-m", "flan_jax.eval", gin_file, "--gin.EVAL_TEMPLATES=ters"]
    )
    assert result.returncode == 2 and "has no template 'ters'" in result.stderr
    result = run_here(
        [
            sys.executable,
            "-m",
            "flan_jax.generate",
            gin_file,
            "Is water wet?",
            "Is fire cold?",
            "--gin.DATA_SOURCE=jsonl",
            "--gin.DATA_DIR=elsewhere",
        ]
    )  # it reads no row
    assert result.returncode == 0 and len(result.stdout.splitlines()) == 2, result.stderr
    result = run_here([sys.executable, "-m", "flan_jax.generate", gin_file, "--file=-none-"])
    assert result.returncode == 2 and "cannot be read" in result.stderr


def test_training_datasets_of_checkpoints_of_other_programs_are_unknown(tmp_path):
    train = types.SimpleNamespace(candidates=lambda: ["cola"])
    data = types.SimpleNamespace(train=train)
    assert run_record.trained_on(tmp_path, data) == run_record.trained_before(str(tmp_path)) == []
    (tmp_path / "config.gin").write_text("")  # a run of an older version
    assert run_record.trained_on(tmp_path, data) == ["cola"]


@pytest.fixture(scope="module")
def uninterrupted(cache, tmp_path_factory) -> dict[int, float]:
    model_dir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    train(cache, model_dir, *RESTARTED)
    return losses(model_dir)


# For runs that are compared with each other: half of the tokens of others.
SHORT = "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 48}"
RESTARTED = [
    SHORT,
    "--gin.TRAIN_STEPS=80",
    "--gin.CHECKPOINT_EVERY=20",
    "--gin.LOG_EVERY=1",
    "--gin.HELD_OUT=none",
    "--gin.DROPOUT_RATE=0.1",
]


# In `make test`, test_run_decoder.py kills a run, and the next test interrupts one twice.
@pytest.mark.slow
def test_kill_nine_twice_changes_no_loss(cache, tmp_path, uninterrupted):
    model_dir = tmp_path / "killed"
    arguments = command("train", cache, model_dir, *RESTARTED)
    for step in (23, 51):
        process = start_and_signal(arguments, model_dir, step, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, process.stdout.read()
    result = train(cache, model_dir, *RESTARTED)
    assert "resuming from step" in result.stdout
    assert losses(model_dir) == uninterrupted


def test_sigterm_and_ctrl_c_save_exit_with_143_and_change_no_loss(cache, tmp_path, uninterrupted):
    model_dir = tmp_path / "terminated"
    for step, number, name in ((27, signal.SIGTERM, "SIGTERM"), (51, signal.SIGINT, "Ctrl-C")):
        process = start_and_signal(
            command("train", cache, model_dir, *RESTARTED), model_dir, step, number
        )
        output = process.stdout.read()
        assert process.returncode == 143 and f"{name}: saved step" in output, output
        assert ("press it again to end at once" in output) == (name == "Ctrl-C")
    saved = int(output.rsplit("saved step ", 1)[1].split(";")[0])
    result = train(cache, model_dir, *RESTARTED)
    assert f"resuming from step {saved}" in result.stdout
    assert losses(model_dir) == uninterrupted


STRAIGHT = [SHORT, "--gin.HELD_OUT=none", "--gin.CHECKPOINT_EVERY=5"]


@pytest.fixture(scope="module")
def straight(cache, tmp_path_factory) -> dict[int, float]:
    """The losses of 20 steps on one device."""
    model_dir = tmp_path_factory.mktemp("runs") / "straight"
    train(cache, model_dir, *STRAIGHT, "--gin.TRAIN_STEPS=20")
    return losses(model_dir)


# In `make test`, the test of a checkpoint on another mesh takes steps on the first of these.
@pytest.mark.parametrize(
    "mesh",
    [pytest.param("{'data': 4, 'model': 2}", marks=pytest.mark.slow), "{'fsdp': 8}"],
    ids=["tensor", "sharded"],
)
def test_one_device_and_eight_give_the_same_losses(cache, tmp_path, straight, mesh):
    settings = [*STRAIGHT, "--gin.TRAIN_STEPS=20", f"--gin.MESH={mesh}"]
    train(cache, tmp_path / "eight", *settings, devices=8)
    found = losses(tmp_path / "eight")
    assert max(abs(found[s] - straight[s]) / straight[s] for s in straight) < 1e-5


# In `make test`, test_two_processes.py compares losses, and test_rank.py scores.
@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(cache, tmp_path):
    """Each process has two devices and makes its own half of every batch; the first one writes."""
    settings = [
        SHORT,
        "--gin.TRAIN_STEPS=12",
        "--gin.HELD_OUT=reading_comprehension_with_commonsense",
        "--gin.EVAL_DATASETS=cosmos_qa",
        "--gin.EVAL_TEMPLATES=2",
        "--gin.EVAL_ROWS=2",
        "--gin.CHECKPOINT_EVERY=100",
    ]
    train(cache, tmp_path / "one", *settings)
    words = command("train", cache, tmp_path / "two", *settings, "--gin.MESH={'fsdp': 4}")
    outputs = finish(start_two(words, devices=2))
    assert "process 1 of 2, 4 cpu devices" in outputs[1]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert max(abs(two[s] - one[s]) / one[s] for s in one) < 1e-5
    assert values(tmp_path / "one") == values(tmp_path / "two")


def test_a_checkpoint_restores_on_another_mesh(cache, tmp_path, straight):
    train(cache, tmp_path / "moved", *STRAIGHT, "--gin.TRAIN_STEPS=5")
    mesh = "--gin.MESH={'data': 4, 'model': 2}"
    train(cache, tmp_path / "moved", *STRAIGHT, "--gin.TRAIN_STEPS=8", mesh, devices=8)
    moved = losses(tmp_path / "moved")
    assert len(moved) == 8
    assert max(abs(moved[s] - straight[s]) / straight[s] for s in moved) < 1e-4


NOT_FINITE = [SHORT, "--gin.HELD_OUT=none", "--gin.LEARNING_RATE=1e30"]


def test_a_loss_that_is_not_finite_names_step_and_datasets(cache, tmp_path):
    """In a process of its own, whose status and last words a script sees."""
    result = run(command("train", cache, tmp_path / "nan", *NOT_FINITE, "--gin.TRAIN_STEPS=20"))
    assert (
        result.returncode == 1
        and "its batch holds" in result.stderr
        and "lower LEARNING_RATE" in result.stderr
    )
    assert result.stderr.startswith("flan-jax: error: step "), result.stderr


def test_a_state_with_a_validation_loss_that_is_not_finite_is_not_saved(cache, tmp_path):
    arguments = command(
        "train",
        cache,
        tmp_path / "nan",
        *NOT_FINITE,
        "--gin.TRAIN_STEPS=3",
        "--gin.CHECKPOINT_EVERY=1",
    )
    result = run_here(arguments)
    assert result.returncode == 1 and "lower LEARNING_RATE" in result.stderr, result.stderr
    result = run_here([*arguments, "--gin.LEARNING_RATE=1e-3"])
    assert result.returncode == 0 and "resuming" not in result.stdout, result.stderr


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--gin.HELD_OTU=nli"], "HELD_OUT"),
        (["--gin.HELD_OUT=nlj"], "unknown cluster 'nlj'; did you mean nli?"),
        (["--gin.DATA_SOURCE=jsonl", "--gin.DATA_DIR=/nowhere/at/all"], "is not a directory"),
        (["--gin.MESH={'data': 3}"], "does not fit the 1 devices here"),
        (["--gin.MODEL_DIR=/proc/run"], "cannot be written"),
        (["--gin.VOCABULARY=words.model"], "neither 'bytes' nor a file"),
        (["--gin.MIXTURE_OR_TASK_NAME=rte"], "rte trains while"),
        (["--gin.T5Config.dtype=float16"], "NaN in float16"),
        (["--gin.INITIAL_CHECKPOINT_PATH=/nowhere"], "no checkpoint"),
        (["--gin.LOSS_CHUNKS=7"], "LOSS_CHUNKS=7 does not divide the 48 tokens"),
    ],
)
def test_wrong_settings_end_with_a_clear_error_message_and_status_2(
    cache, tmp_path, arguments, says
):
    result = run_here(command("train", cache, tmp_path / "bad", "--gin.TRAIN_STEPS=2", *arguments))
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 2 and says in last, output_tail(result)
    assert "Traceback" not in result.stderr and last.startswith("flan-jax: error: ")
    assert "packing" not in result.stdout, "found only after the data were prepared"


def test_a_refused_start_leaves_the_record_of_the_run_as_it_was(finished, cache):
    before = (finished / "config.gin").read_bytes()
    result = run_here(
        command(
            "train",
            cache,
            finished,
            "--gin.TRAIN_STEPS=4",
            "--gin.T5Config.emb_dim=64",
            "--gin.EVAL_ROWS=2",
            "--gin.HELD_OUT=reading_comprehension_with_commonsense",
        )
    )
    assert result.returncode == 2 and "does not match the model" in result.stderr, result.stderr
    assert (finished / "config.gin").read_bytes() == before


def test_a_checkpoint_of_another_size_and_a_batch_that_does_not_divide(finished, cache, tmp_path):
    result = run_here(
        command(
            "train",
            cache,
            tmp_path / "wide",
            "--gin.TRAIN_STEPS=2",
            "--gin.T5Config.emb_dim=64",
            f"--gin.INITIAL_CHECKPOINT_PATH={finished}",
        )
    )
    assert (
        result.returncode == 2
        and "does not match the model" in result.stderr
        and "in the config" in result.stderr
    )
    result = run(
        command("train", cache, tmp_path / "odd", "--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=6"),
        devices=4,
    )
    assert result.returncode == 2 and "--gin.BATCH_SIZE=8" in result.stderr, result.stderr


def test_a_truncated_line_ends_preparation_with_its_place(write_rows, cache, tmp_path):
    rows = [
        {"premise": f"Premise {i}.", "hypothesis": "So.", "label": i % 2, "idx": i}
        for i in range(230)
    ]
    directory = write_rows("rte", "train", rows)
    path = directory / "rte/train.jsonl"
    path.write_text(path.read_text()[:-20])
    result = run_here(
        command(
            "train",
            cache,
            tmp_path / "cut",
            "--gin.HELD_OUT=none",
            "--gin.TRAIN_STEPS=2",
            "--gin.DATA_SOURCE=jsonl",
            f"--gin.DATA_DIR={directory}",
        )
    )
    assert result.returncode == 2 and f"{path}:230: not a complete JSON object" in result.stderr


def test_another_mixture_is_not_resumed_by_mistake(finished, cache):
    result = run_here(
        command("train", cache, finished, "--gin.HELD_OUT=sentiment", "--gin.TRAIN_STEPS=8")
    )
    assert result.returncode == 2 and "HELD_OUT is 'reading_comp" in result.stderr
    assert "packing" not in result.stdout, (
        "refused only after the rows of another mixture were made"
    )
    record = json.loads((finished / "mixture.json").read_text())
    with pytest.raises(UserError, match="INITIAL_CHECKPOINT_PATH is None there and"):
        run_record.check_same(finished, {**record, "initial_checkpoint_path": "elsewhere"})


def test_another_optimizer_is_not_resumed_by_mistake(finished, cache):
    config = (finished / "config.gin").read_text()
    arguments = ("--gin.TRAIN_STEPS=8", "--gin.OPTIMIZER=adamw")
    gin_file = str(finished / "config.gin")
    result = run_here(command("train", cache, finished, *arguments, gin_file=gin_file))
    assert (
        result.returncode == 2
        and (
            f"MODEL_DIR '{finished}' holds a run with OPTIMIZER='adafactor', whose state 'adamw' "
            "cannot continue; resume it with --gin.OPTIMIZER=adafactor, or begin another run from "
            f"its parameters: --gin.INITIAL_CHECKPOINT_PATH={finished} with another MODEL_DIR."
        )
        in result.stderr
    )
    assert "packing" not in result.stdout and (finished / "config.gin").read_text() == config


def test_a_damaged_mixture_json_is_a_clear_error_message(tmp_path):
    (tmp_path / "mixture.json").write_text('{"seed": 0, "ca')
    with pytest.raises(
        UserError, match="mixture.json is not readable .*delete it if settings and data"
    ):
        run_record.check_same(tmp_path, {"seed": 0})


def test_changed_settings_are_listed():
    before = (
        "A = 1\nB.c = @d\n# E = 1\nF = 'x'\nG = \\\n    'long'\nH = {'a': 1,\n     'b': 2}\nI = 4\n"
    )
    now = "A = 2\nB.c = @d\nF = 'y'\nG = \\\n    'longer'\nH = {'a': 1,\n     'b': 3}\nJ = 5\n"
    assert changed_settings(before, now) == [
        "A = 1 -> 2",
        "F = 'x' -> 'y'",
        "G = 'long' -> 'longer'",
        "H = {'a': 1, 'b': 2} -> {'a': 1, 'b': 3}",
        "I = 4 -> not set",
        "J = not set -> 5",
    ]
    assert changed_settings(before, before) == changed_settings("", now) == []
