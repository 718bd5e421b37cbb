"""AdamW in whole runs, of LoRA and of all parameters.

Killed and resumed, on another mesh, with two processes, in microbatches.
"""

import json
import pathlib
import shutil
import signal

import pytest

from flan_jax.checkpoints.open import open_tensors
from support.processes import ended_well
from support.runs import (
    assert_same_end,
    losses,
    run,
    run_here,
    start_and_signal,
    wait_for_step,
)
from support.two_processes import ONE_TASK, TRAIN, arguments, finish, start_two

SETTINGS = [
    *ONE_TASK,
    "--gin.TRAIN_STEPS=8",
    "--gin.CHECKPOINT_EVERY=2",
    "--gin.LORA_RANK=4",
    "--gin.OPTIMIZER=adamw",
    "--gin.LEARNING_RATE=0.01",
]


def lora(runs: pathlib.Path, name: str, *more: str) -> list[str]:
    base = f"--gin.INITIAL_CHECKPOINT_PATH={runs / 'base'}"
    return [
        *TRAIN,
        *arguments(runs / "cache", runs / name, *SETTINGS, "--gin.PEFT=lora", base, *more),
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> pathlib.Path:
    """A base of three steps, and `whole`: eight steps of LoRA on it."""
    directory = tmp_path_factory.mktemp("runs")
    base = [*SETTINGS, "--gin.TRAIN_STEPS=3"]
    done = run_here([*TRAIN, *arguments(directory / "cache", directory / "base", *base)])
    assert done.returncode == 0, done.stderr
    done = run_here(lora(directory, "whole"))
    assert done.returncode == 0, done.stderr
    assert "LoRA rank 4 on" in done.stdout + done.stderr
    return directory


def differences(runs: pathlib.Path, name: str) -> float:
    """The largest relative difference of a loss from that of the undisturbed run."""
    expected, found = losses(runs / "whole"), losses(runs / name)
    assert found.keys() == expected.keys()
    return max(abs(found[step] - expected[step]) / expected[step] for step in expected)


def test_only_what_trains_is_saved_and_it_learns(runs):
    found = losses(runs / "whole")
    assert found[7] + found[8] < found[1] + found[2] - 0.2
    names = open_tensors(runs / "whole").tensors
    assert names and all(name.endswith(("/lora_a", "/lora_b")) for name in names)


def test_a_run_is_resumed_on_the_step_of_its_base_and_with_its_own_model(runs):
    """The base has gone on meanwhile; settings that no array shows are refused."""
    shutil.copytree(runs / "base", runs / "base_2")
    base = f"--gin.INITIAL_CHECKPOINT_PATH={runs / 'base_2'}"
    begun = lora(runs, "on_base_2", base, "--gin.TRAIN_STEPS=2")
    ended_well(run_here(begun))
    more = [*SETTINGS, "--gin.TRAIN_STEPS=4", "--gin.Train.keep=9"]
    ended_well(run_here([*TRAIN, *arguments(runs / "cache", runs / "base_2", *more)]))
    for record in ("as it is", "of an older version"):
        ended_well(run_here([*begun, f"--gin.TRAIN_STEPS={3 if record == 'as it is' else 4}"]))
        mixture = runs / "on_base_2/mixture.json"
        values = json.loads(mixture.read_text())
        assert values.pop("initial_step", 3) == 3
        mixture.write_text(json.dumps(values))
    found, expected = losses(runs / "on_base_2"), losses(runs / "whole")
    assert all(found[step] == expected[step] for step in found)
    other = run_here([*begun, "--gin.TRAIN_STEPS=5", "--gin.DECODER_START_ID=7"])
    assert other.returncode == 2 and "decoder_start_id is 0 in the checkpoint, 7" in other.stderr
    text = (runs / "on_base_2/config.gin").read_text()
    assert "DECODER_START_ID = 7" not in text


def test_a_run_that_is_resumed_on_eight_devices_goes_on_with_the_same_losses(runs):
    shutil.copytree(runs / "whole", runs / "moved")
    for step in (4, 6, 8):
        shutil.rmtree(runs / f"moved/checkpoints/{step}", ignore_errors=True)
    mesh = "--gin.MESH={'data': 2, 'fsdp': 2, 'model': 2}"
    ended_well(run(lora(runs, "moved", "--gin.Train.keep=9", mesh), devices=8))
    assert differences(runs, "moved") < 1e-5


def test_microbatches_have_the_losses_of_one_batch(runs):
    without_dropout = "--gin.DROPOUT_RATE=0.0"
    for name, parts in (("one", 1), ("four", 4)):
        done = run_here(lora(runs, name, without_dropout, f"--gin.MICROBATCHES={parts}"))
        assert done.returncode == 0, done.stderr
    one, four = losses(runs / "one"), losses(runs / "four")
    assert max(abs(one[step] - four[step]) / one[step] for step in one) < 1e-5


# --- To the bit

TWO = ["--gin.MESH={'fsdp': 4}"]  # of two processes with two devices each


def started(runs: pathlib.Path, method: str, name: str, *more: str) -> list[str]:
    """The command of a run of LoRA, or of one that trains all parameters."""
    full = ["--gin.PEFT=None", "--gin.LEARNING_RATE=0.001"] if method == "full" else []
    return lora(runs, name, *full, *more)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_kill_nine_twice_changes_nothing(runs, method):
    whole, killed = runs / f"{method}_whole", runs / f"{method}_killed"
    ended_well(run(started(runs, method, whole.name)))
    for step in (3, 6):
        process = start_and_signal(started(runs, method, killed.name), killed, step, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, process.stdout.read()
    ended_well(run(started(runs, method, killed.name)))
    assert_same_end(killed, whole)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_processes_have_the_losses_of_one_and_kill_nine_changes_nothing(runs, method):
    one, two, killed = (runs / f"{method}_{name}" for name in ("one", "two", "two_killed"))
    ended_well(run(started(runs, method, one.name)))
    finish(start_two(started(runs, method, two.name, *TWO), devices=2))
    expected, found = losses(one), losses(two)
    assert found.keys() == expected.keys()
    assert max(abs(found[step] - expected[step]) / expected[step] for step in expected) < 1e-5

    processes = start_two(started(runs, method, killed.name, *TWO), devices=2)
    wait_for_step(killed, 5)
    for process in processes:
        process.kill()
    statuses = [process.wait(60) for process in processes]
    assert -signal.SIGKILL in statuses, [process.stdout.read() for process in processes]
    assert len(losses(killed)) < 8
    outputs = finish(start_two(started(runs, method, killed.name, *TWO), devices=2))
    assert "resuming from step" in outputs[0]
    assert_same_end(killed, two)
