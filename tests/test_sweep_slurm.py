"""A sweep in a real SLURM: time limits and requeued jobs, and all points finish without a hand.

SLURM starts a requeued job two minutes later, so that this takes about ten minutes.
"""

import os
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
        "--gin.TRAIN_STEPS=400",
        f"--gin.CACHE_DIR={tmp_path / 'cache'}",
        "--sweep.SEED=0,1",
    ]
    undisturbed, directory = tmp_path / "undisturbed", tmp_path / "sweep"
    subprocess.run(sweep(undisturbed, *settings), env=simulating(1), check=True)

    (tmp_path / "slurm").mkdir()
    with slurm.cluster(tmp_path / "slurm", (free_port(), free_port())) as environment:
        # So many checkpoints that a job does not finish within its time. Its signal comes one to
        # two minutes before the end of three.
        slow = "--gin.CHECKPOINT_EVERY=1"
        queue = ["--backend=slurm", "--jobs=2", "--time=3", "--cpus_per_task=1", "--run"]
        submit = sweep(directory, *settings, slow, *queue, "--sbatch=--signal=TERM@60")
        done = subprocess.run(
            submit, env={**simulating(1), **environment}, capture_output=True, text=True
        )
        assert "Submitted batch job" in done.stdout, done.stderr
        job = done.stdout.split()[-1]
        _requeue(directory, f"{job}_1", environment)
        deadline = time.time() + PATIENCE_S
        while set(statuses(directory).values()) != {"finished"} and time.time() < deadline:
            time.sleep(2)
    assert statuses(directory) == {"seed_0": "finished", "seed_1": "finished"}
    for name in ("seed_0", "seed_1"):
        assert losses(directory / name) == losses(undisturbed / name)
        log = (directory / f"logs/{name}.log").read_text()
        assert "SIGTERM: saved step" in log and "Traceback" not in log
    again = subprocess.run(
        [sys.executable, "-m", "flan_jax.sweep", str(directory), "--backend=slurm", "--run"],
        env={**simulating(1), **environment},
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0 and "none of 2 points is to be run" in again.stdout


def _requeue(directory, job: str, environment: dict[str, str]) -> None:
    """Takes the node from a job that trains, as a scheduler does for one of higher priority."""
    path, deadline = directory / "seed_1/metrics.jsonl", time.time() + PATIENCE_S
    while not (path.exists() and len(whole_lines(path)) > 4) and time.time() < deadline:
        time.sleep(0.1)
    subprocess.run(["scontrol", "requeue", job], env={**os.environ, **environment}, check=True)
