"""A run of two processes.

Who makes which rows, what is written once, and checkpoints that any mesh restores.
"""

import argparse
import re
import subprocess
import sys

import pytest

from flan_jax.errors import UserError
from flan_jax.parallel import processes
from support.processes import ended_well, simulating
from support.runs import losses, run_here
from support.two_processes import (
    ONE_TASK,
    SCRIPT,
    TRAIN,
    arguments,
    finish,
    free_port,
    printed,
    run_one,
    start_two,
)

SETTINGS = [*ONE_TASK, "--gin.TRAIN_STEPS=4", "--gin.CHECKPOINT_EVERY=100"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


# A tracker that notes its calls beside itself.
TRACKER = """
import pathlib

def note(*call):
    with open(pathlib.Path(__file__).with_suffix(".txt"), "a") as file:
        print(*call, file=file)

def init(name, **_):
    note("init", name)

def log(values, step):
    note("step", step)

def finish():
    note("finish")
"""


@pytest.fixture(scope="module")
def two(cache, tmp_path_factory):
    """The directory of a run of two processes with two devices each, and their output."""
    model_dir = tmp_path_factory.mktemp("runs") / "two"
    tracker = model_dir.parent / "tracker.py"
    tracker.write_text(TRACKER)
    command = [
        *SCRIPT,
        "train",
        *arguments(cache, model_dir, *SETTINGS),
        "--gin.MESH={'data': 2, 'fsdp': 2}",
        f"--gin.TRACKER={tracker}",
    ]
    return model_dir, finish(start_two(command, devices=2))


def test_the_first_line_has_process_and_mesh(two):
    for index, output in enumerate(two[1]):
        time, _, text = output.splitlines()[0].partition(" ")
        assert re.fullmatch(r"\d\d:\d\d:\d\d", time) and text == (
            f"process {index} of 2, 4 cpu devices, mesh {{'data': 2, 'fsdp': 2, 'model': 1}}"
        )


def test_each_process_makes_only_its_own_rows(two):
    for index, output in enumerate(two[1]):
        rows = printed(output, "rows")
        assert len(rows) >= 4 and all(
            first_last == [4 * index, 4 * index + 4] for first_last in rows
        )


def test_the_first_process_alone_sends_to_the_tracker(two):
    lines = (two[0].parent / "tracker.txt").read_text().splitlines()
    assert lines == ["init two", *(f"step {step}" for step in (1, 2, 3, 4)), "finish"]


def test_two_processes_give_the_losses_of_one(two, cache, tmp_path):
    ended_well(run_here([*TRAIN, *arguments(cache, tmp_path / "one", *SETTINGS)]))
    one = losses(tmp_path / "one")
    assert len(one) == 4 and losses(two[0]) == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize(
    "devices, mesh", [(1, "{'data': 1}"), (8, "{'data': 2, 'fsdp': 2, 'model': 2}")]
)
def test_one_process_restores_the_checkpoint_of_two_bit_for_bit(two, cache, devices, mesh):
    model_dir, outputs = two
    saved = [printed(output, "arrays")[-1] for output in outputs]
    assert (
        saved[0] == saved[1]
        and "params/token_embedder/embedding" in saved[0]
        and "step" in saved[0]
    )
    command = [*SCRIPT, "restore", *arguments(cache, model_dir, *SETTINGS), f"--gin.MESH={mesh}"]
    assert printed(run_one(command, devices), "arrays") == [saved[0]]


# --- Addresses of the processes
# ------------------------------------------------------------------------------------------


def address(flags: str = "", **variables: str):
    parser = argparse.ArgumentParser()
    processes.add_flags(parser)
    return processes.explicit_address(parser.parse_args(flags.split()), variables)


def test_flags_come_before_variables():
    assert address() is None
    assert address("--coordinator=h:1 --num_processes=4 --process_id=3") == ("h:1", 4, 3)
    variables = {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "0"}
    assert address(**variables) == ("h:1", 4, 0)
    assert address("--process_id=2", **variables) == ("h:1", 4, 2)
    assert address("--num_processes=1", **variables)[1:] == (1, 0)


@pytest.mark.parametrize(
    "flags, variables, says",
    [
        (
            "--num_processes=2",
            {},
            "--num_processes is given, but several processes need all of .* add --coordinator and "
            "--process_id",
        ),
        (
            "",
            {"JAX_PROCESS_ID": "0"},
            "JAX_PROCESS_ID is given, .* add --coordinator and --num_processes",
        ),
        (
            "--coordinator=h:1 --process_id=0",
            {"JAX_NUM_PROCESSES": "two"},
            "JAX_NUM_PROCESSES is 'two', but it must be a whole number of at least 1",
        ),
        (
            "--coordinator=h:1 --num_processes=2 --process_id=2",
            {},
            "2 processes have the numbers 0 to 1",
        ),
        ("--coordinator=h --num_processes=2 --process_id=1", {}, "such as 10.0.0.1:8476"),
        (
            "--coordinator=h:65536 --num_processes=2 --process_id=0",
            {},
            "a free port of it, such as 10.0.0.1:8476",
        ),
    ],
)
def test_wrong_addresses_are_a_clear_error_message(flags, variables, says):
    with pytest.raises(UserError, match=says):
        address(flags, **variables)


def test_an_unreachable_coordinator_is_a_clear_error_message(monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE_S", 0.3)
    flags = argparse.Namespace(
        coordinator=f"localhost:{free_port()}", num_processes="2", process_id="1"
    )
    with pytest.raises(
        UserError,
        match="process 1 of 2 cannot connect to the coordinator at localhost:.*"
        "start process 0 there",
    ):
        processes.join(flags)


JOIN = """
import sys
from flan_jax.cli import dispatch
from flan_jax.parallel import processes

def main(argv):
    import jax
    processes.join()
    print(jax.process_index(), jax.process_count(), flush=True)
    processes.wait_for_all("the end")

dispatch.run(main)
"""


@pytest.mark.parametrize("place", ["SLURM", "Open MPI"])
def test_the_processes_of_a_job_find_each_other(place):
    job = free_port() % 4096  # JAX makes the coordinator's port of it
    if place == "SLURM":
        shared = {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
        names = ("SLURM_PROCID", "SLURM_LOCALID")
    else:
        shared = {
            "OMPI_MCA_orte_hnp_uri": f"{job * 4096}.0;tcp://127.0.0.1:1",
            "OMPI_COMM_WORLD_SIZE": "2",
        }
        names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**simulating(1), **shared, **dict.fromkeys(names, str(index))},
        )
        for index in (0, 1)
    ]
    outputs = finish(started)
    assert ["0 2" in outputs[0].splitlines(), "1 2" in outputs[1].splitlines()] == [True, True], (
        outputs
    )


@pytest.mark.parametrize(
    "variables, says",
    [
        (
            {"SLURM_NTASKS": "2"},
            "this looks like a SLURM job of several tasks (started with srun?), but",
        ),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "this looks like an Open MPI job of several ranks, but"),
    ],
)
def test_a_job_that_finds_no_peers_does_not_train_alone(cache, tmp_path, variables, says):
    result = subprocess.run(
        [*TRAIN, *arguments(cache, tmp_path / "lost")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**simulating(1), **variables},
    )
    assert (
        result.returncode == 2 and says in result.stderr and "--num_processes=1" in result.stderr
    ), result.stderr
