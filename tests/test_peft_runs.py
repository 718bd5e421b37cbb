"""LoRA in whole runs: killed and resumed, on another mesh, with two processes, in microbatches."""

import pathlib
import shutil
import signal

import pytest

from flan_jax.checkpoints.open import open_tensors
from support.processes import ended_well
from support.runs import losses, run, run_here, start_and_signal
from support.two_processes import ONE_TASK, TRAIN, arguments, start_two

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


@pytest.mark.slow
def test_kill_nine_twice_changes_no_loss(runs):
    for step in (3, 6):
        start_and_signal(lora(runs, "killed"), runs / "killed", step, signal.SIGKILL)
    ended_well(run(lora(runs, "killed")))
    assert losses(runs / "killed") == losses(runs / "whole")


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(runs):
    processes = start_two(lora(runs, "two", "--gin.MESH={'fsdp': 4}"), devices=2)
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert differences(runs, "two") < 1e-5
