"""A sweep in a real SLURM: time limits and requeued jobs, and all points finish without a hand.

SLURM starts a requeued job two minutes later, so that this takes about ten minutes.
"""

import os
import pathlib
import subprocess
import sys
import time

import pytest
from test_sweep import statuses, sweep

from support import slurm
from support.processes import simulating
from support.runs import losses, whole_lines
from support.two_processes import SMALL, free_port

# Seconds in the queue and at work, for one machine with other work to do.
PATIENCE_S = 2400


@pytest.mark.slow
def test_an_array_finishes_by_itself_with_the_losses_of_an_undisturbed_sweep(tmp_path):
    if missing := slurm.missing():
        pytest.skip(
            f"SLURM is not installed ({', '.join(missing)} missing): apt-get install "
            "--no-install-recommends slurmctld slurmd slurm-client munge"
        )
    if os.getuid():
        pytest.skip("SLURM's daemons need root here")
    settings = [
        *SMALL,
        "--gin.HELD_OUT=none",
        "--gin.MIXTURE_OR_TASK_NAME=rte",
        "--gin.TRAIN_STEPS=600",
        f"--gin.CACHE_DIR={tmp_path / 'cache'}",
        "--sweep.SEED=0,1",
    ]
    undisturbed, directory = tmp_path / "undisturbed", tmp_path / "sweep"
    subprocess.run(sweep(undisturbed, *settings, "--jobs=2"), env=simulating(1), check=True)

    (tmp_path / "slurm").mkdir()
    with slurm.cluster(tmp_path / "slurm", (free_port(), free_port())) as variables:
        environment = {**simulating(1), **variables}
        # So many checkpoints that SLURM, which looks every 30 s, ends a job before its last step.
        slow = "--gin.CHECKPOINT_EVERY=2"
        queue = ["--backend=slurm", "--jobs=2", "--time=60", "--cpus_per_task=1", "--run"]
        submit = sweep(directory, *settings, slow, *queue)
        done = subprocess.run(submit, env=environment, capture_output=True, text=True)
        assert "Submitted batch job" in done.stdout, done.stderr
        job = done.stdout.split()[-1]
        await_step(directory / "seed_1", 5)
        control(environment, "requeue", f"{job}_1")
        reach_time_limit(directory, f"{job}_0", environment)
        await_states(directory, lambda states: set(states.values()) == {"finished"})
    for name in ("seed_0", "seed_1"):
        assert losses(directory / name) == losses(undisturbed / name)
        log = (directory / f"logs/{name}.log").read_text()
        assert log.count("SIGTERM: saved step") == 1 and "Traceback" not in log
    again = [sys.executable, "-m", "flan_jax.sweep", str(directory), "--backend=slurm", "--run"]
    done = subprocess.run(again, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "none of 2 points is to be run" in done.stdout


def reach_time_limit(directory: pathlib.Path, job: str, environment: dict[str, str]) -> None:
    """Has the time of a job end while it trains, however long it took to start."""
    await_step(directory / "seed_0", 5)
    elapsed = subprocess.run(
        ["squeue", "--noheader", f"--jobs={job}", "--format=%M"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()  # minutes:seconds
    control(environment, "update", f"jobid={job}", f"timelimit={int(elapsed.split(':')[0]) + 2}")
    await_states(directory, lambda states: states["seed_0"] == "saved")
    control(environment, "update", f"jobid={job}", "timelimit=60")


def control(environment: dict[str, str], *arguments: str) -> None:
    subprocess.run(["scontrol", *arguments], env=environment, check=True)


def await_step(run: pathlib.Path, step: int) -> None:
    path, deadline = run / "metrics.jsonl", time.time() + PATIENCE_S
    while not (path.exists() and len(whole_lines(path)) >= step):
        assert time.time() < deadline, f"{path} has no step {step}"
        time.sleep(0.1)


def await_states(directory: pathlib.Path, are_reached) -> None:
    deadline = time.time() + PATIENCE_S
    while not are_reached(states := statuses(directory)):
        assert time.time() < deadline and "failed" not in states.values(), states
        time.sleep(1)
