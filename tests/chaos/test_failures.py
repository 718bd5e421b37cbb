"""What goes wrong on real machines.

A process is killed, a checkpoint is cut short, a disk is full or read-only.

Each ends in bounded time with one sentence, and the same command goes on exactly where the last
whole checkpoint is.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from flan_jax.checkpoints import manager, shared_storage, steps
from flan_jax.errors import UserError
from support.processes import ended_well, simulating
from support.runs import losses, run_here
from support.states import make_state
from support.two_processes import (
    ONE_TASK,
    TRAIN,
    arguments,
    finish,
    free_port,
    run_one,
    start_two,
)

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOT = os.path.dirname(TESTS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


# --- A process of two is killed
# ---------------------------------------------------------------------------------------


KILLED = [*ONE_TASK, "--gin.TRAIN_STEPS=40", "--gin.CHECKPOINT_EVERY=10"]


@pytest.fixture(scope="module")
def uninterrupted(cache, tmp_path_factory) -> dict[int, float]:
    """The losses of a whole run of one process.

    Those of two processes differ from them in the last bits.
    """
    model_dir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    ended_well(run_here([*TRAIN, *arguments(cache, model_dir, *KILLED)]))
    return losses(model_dir)


def wait_for_step(model_dir, step: int, process: subprocess.Popen) -> None:
    path, deadline = model_dir / "metrics.jsonl", time.time() + 300
    while time.time() < deadline and process.poll() is None:
        if path.exists() and any(
            json.loads(line)["step"] >= step for line in path.read_text().splitlines()[-1:]
        ):
            return
        time.sleep(0.02)
    raise AssertionError(
        f"no step {step}: {process.communicate()[0] if process.poll() is not None else 'too slow'}"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "killed, seconds, says",
    [
        (1, 60, "process 0 of 2 lost the connection to a peer"),
        # Without process 0 JAX itself may end the others, before ours can speak.
        (0, 120, "another"),
    ],
)
def test_a_killed_process_ends_the_other_and_a_restart_changes_no_loss(
    cache, tmp_path, uninterrupted, killed, seconds, says
):
    model_dir = tmp_path / "run"
    command = [*TRAIN, *arguments(cache, model_dir, *KILLED)]
    processes = start_two(command)
    wait_for_step(model_dir, 27, processes[0])
    processes[killed].kill()
    output, _ = processes[1 - killed].communicate(timeout=seconds)
    assert processes[1 - killed].returncode not in (0, None) and says in output, output
    assert processes[killed].wait() == -signal.SIGKILL
    before = losses(model_dir)
    outputs = finish(start_two(command))
    resumed = int(outputs[0].split("resuming from step ")[1].split()[0])
    after = losses(model_dir)
    assert resumed < len(before) - 3 and {step: after[step] for step in before} == before
    assert after == pytest.approx(uninterrupted, rel=1e-5)


# --- Hosts that do not see the same
# -----------------------------------------------------------------------------------


def test_hosts_that_do_not_share_the_directory_end_with_a_sentence(cache, tmp_path):
    address = ["--num_processes=2", f"--coordinator=localhost:{free_port()}"]
    started = [
        subprocess.Popen(
            [
                *TRAIN,
                *arguments(cache, tmp_path / f"host{index}", *ONE_TASK),
                *address,
                f"--process_id={index}",
            ],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=simulating(1),
        )
        for index in (0, 1)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [2, 2], outputs
    assert all("give a MODEL_DIR on storage that all hosts see" in output for output in outputs), (
        outputs
    )
    assert not any(path.name.startswith(".shared") for path in tmp_path.rglob("*"))


def test_hosts_that_list_other_checkpoints_end_with_a_sentence(monkeypatch):
    monkeypatch.setattr(shared_storage.jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        shared_storage.multihost_utils, "process_allgather", lambda one: np.array([one, ~one])
    )
    with pytest.raises(
        UserError, match="sees the checkpoints of steps 2, 4 in runs, another process sees others"
    ):
        shared_storage.check_same_steps("runs", [2, 4])
    monkeypatch.setattr(
        shared_storage.multihost_utils, "process_allgather", lambda one: np.array([one, one])
    )
    shared_storage.check_same_steps("runs", [2, 4])


# --- A checkpoint is cut short
# ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A directory with the whole checkpoints of steps 1 and 2."""
    directory = tmp_path_factory.mktemp("checkpoints") / "whole"
    run = manager.Checkpoints(directory)
    for step in (1, 2):
        run.save(step, make_state(float(step)), {"validation_loss": 3.0 - step})
    run.close()
    return directory


def largest_file(directory):
    return max(
        (path for path in directory.rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )


DAMAGE = {
    "the parameters are cut": lambda step: os.truncate(largest_file(step / "params/d"), 10),
    "the optimizer state is cut": lambda step: os.truncate(largest_file(step / "state/d"), 10),
    "a data file is gone": lambda step: largest_file(step / "state/d").unlink(),
    "a manifest is empty": lambda step: os.truncate(step / "params/manifest.ocdbt", 0),
    "the list of arrays is cut": lambda step: os.truncate(step / "state/_METADATA", 50),
    "the parameters are gone": lambda step: shutil.rmtree(step / "params"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_the_checkpoint_before_a_damaged_one_is_taken(two_steps, tmp_path, caplog, how):
    directory = shutil.copytree(two_steps, tmp_path / "run")
    # the step that is saved again may be damaged again
    for name in ("damaged-2", "damaged-2.1", "damaged-2.2"):
        DAMAGE[how](directory / "2")
        run = manager.Checkpoints(directory)
        restored = run.restore(jax.eval_shape(lambda: make_state(0.0)))
        jax.tree.map(np.testing.assert_array_equal, restored, make_state(1.0))
        (line,) = [line for line in caplog.messages if "cannot be read" in line]
        assert f"renamed to {name}; the checkpoint before it is restored" in line
        caplog.clear()
        assert run.latest_step() == 1 and (directory / name).is_dir()
        run.save(2, make_state(2.0), {"validation_loss": 1.0})
        run.close()
    assert manager.Checkpoints(directory).latest_step() == 2


def test_when_no_checkpoint_is_whole_nothing_begins_anew_unasked(two_steps, tmp_path):
    directory = shutil.copytree(two_steps, tmp_path / "run")
    for step in (1, 2):
        os.truncate(directory / str(step) / "params/manifest.ocdbt", 0)
    run = manager.Checkpoints(directory)
    with pytest.raises(UserError, match="none of the checkpoints in .* can be read"):
        run.restore(jax.eval_shape(lambda: make_state(0.0)))
    assert run.latest_step() == 2 and not list(directory.glob("damaged*"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(116, "Stale file handle"),
        PermissionError(13, "Permission denied"),
        ValueError('PERMISSION_DENIED: Error opening "zarr" driver'),
    ],
)
def test_what_is_out_of_reach_is_not_damaged(two_steps, tmp_path, monkeypatch, error):
    directory = shutil.copytree(two_steps, tmp_path / "run")

    def restore(*_, **__):
        raise error

    monkeypatch.setattr(manager.ocp.StandardCheckpointHandler, "restore", restore)
    with pytest.raises(UserError, match="cannot be read now"):
        manager.Checkpoints(directory).restore(jax.eval_shape(lambda: make_state(0.0)))
    assert sorted(path.name for path in directory.iterdir()) == ["1", "2"]


def test_parameters_alone_are_not_resumed_nor_harmed(two_steps, tmp_path):
    directory = shutil.copytree(two_steps, tmp_path / "run")
    for step in (1, 2):
        shutil.rmtree(directory / str(step) / "state")
    with pytest.raises(UserError, match="2 contains parameters only .*INITIAL_CHECKPOINT_PATH"):
        manager.Checkpoints(directory).restore(jax.eval_shape(lambda: make_state(0.0)))
    assert sorted(path.name for path in directory.iterdir()) == ["1", "2"]


def test_metrics_that_are_cut_cost_no_checkpoint(two_steps, tmp_path):
    directory = shutil.copytree(two_steps, tmp_path / "run")
    os.truncate(directory / "2/metrics/metrics", 3)
    run = manager.Checkpoints(directory)
    assert int(run.restore(jax.eval_shape(lambda: make_state(0.0)))["step"]) == 2
    run.close()
    assert steps.checkpoint_path(directory, "best").name == "1"


@pytest.mark.slow
def test_a_finished_run_whose_last_checkpoint_is_cut_trains_its_last_steps_again(cache, tmp_path):
    model_dir = tmp_path / "run"
    command = [
        *TRAIN,
        *arguments(cache, model_dir, *ONE_TASK, "--gin.TRAIN_STEPS=6", "--gin.CHECKPOINT_EVERY=3"),
    ]
    run_one(command)
    expected = losses(model_dir)
    os.truncate(largest_file(model_dir / "checkpoints/6/state/d"), 10)
    output = run_one(command)
    assert output.count("cannot be read") == 1 and "resuming from step 3" in output
    assert losses(model_dir) == expected and (model_dir / "checkpoints/6").is_dir()


# --- No room
# --------------------------------------------------------------------------------------------------


SAVE_TWICE = """
import sys
sys.path.insert(0, {tests!r})
import resource
import jax.numpy as jnp
from flan_jax.cli import dispatch
from flan_jax.checkpoints import manager as checkpoints
from support.states import make_state

def main(argv):
    run = checkpoints.Checkpoints({directory!r})
    run.save(1, make_state(1.0))
    run.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
    run.save(2, {{**make_state(2.0), "more": jnp.arange(40000.0) ** 0.5}})
    run.wait()

dispatch.run(main)
"""


def test_a_checkpoint_that_does_not_fit_is_one_sentence_and_leaves_the_last_one_whole(tmp_path):
    """The limit of a file's size stands for a disk that is full: writes fail in the same place."""
    program = SAVE_TWICE.format(tests=TESTS, directory=str(tmp_path / "run"))
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=simulating(1)
    )
    assert result.returncode == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("flan-jax: error:")]
    assert (
        "cannot be written" in line
        and "the same command resumes from step 1, which is whole" in line
    )
    run = manager.Checkpoints(tmp_path / "run")
    assert run.latest_step() == 1
    jax.tree.map(
        np.testing.assert_array_equal,
        run.restore(jax.eval_shape(lambda: make_state(0.0))),
        make_state(1.0),
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20000  # of this process


# A file system of its own, 8 MB large, in which the four runs of the test below take place.
SMALL_DISK = """
set -e
mount -t tmpfs -o size=8m tmpfs "$DISK"
train() {
    "$PYTHON" -m flan_jax.train "$@" > "$LOGS/$NAME.txt" 2>&1 && echo "$NAME 0" || echo "$NAME $?"
}
NAME=first train "$@" --gin.TRAIN_STEPS=4
mount -o remount,ro "$DISK"
NAME=readonly train "$@" --gin.TRAIN_STEPS=8
mount -o remount,rw "$DISK"
free=$(df --output=avail -k "$DISK" | tail -1)
head -c $(((free - 100) * 1024)) /dev/zero > "$DISK/filler"
NAME=full train "$@" --gin.TRAIN_STEPS=8
head -c 1m /dev/zero >> "$DISK/filler" 2> /dev/null || true
NAME=brimful train "$@" --gin.TRAIN_STEPS=8
rm "$DISK/filler"
NAME=again train "$@" --gin.TRAIN_STEPS=8
cp -r "$DISK/run" "$LOGS/run"
"""


def may_mount() -> bool:
    command = ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    return (
        bool(shutil.which("unshare"))
        and subprocess.run(command, capture_output=True).returncode == 0
    )


@pytest.mark.slow
def test_full_and_read_only_disks_end_with_one_sentence_and_the_same_command_resumes(
    cache, tmp_path
):
    if not may_mount():
        pytest.skip("this machine lets nobody mount a file system of his own")
    disk, logs = tmp_path / "disk", tmp_path / "logs"
    disk.mkdir()
    logs.mkdir()
    settings = [*ONE_TASK, "--gin.CHECKPOINT_EVERY=4"]
    # Prepared, so that only the run's directory is on the small disk.
    run_one([*TRAIN, *arguments(cache, tmp_path / "whole", *settings, "--gin.TRAIN_STEPS=8")])
    result = subprocess.run(
        [
            "unshare",
            "-Urm",
            "bash",
            "-c",
            SMALL_DISK,
            "bash",
            *arguments(cache, disk / "run", *settings),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**simulating(1), "DISK": str(disk), "LOGS": str(logs), "PYTHON": sys.executable},
    )
    printed = {path.stem: path.read_text() for path in logs.glob("*.txt")}
    assert result.stdout.split("\n")[:5] == [
        "first 0",
        "readonly 2",
        "full 2",
        "brimful 2",
        "again 0",
    ], (result.stderr, printed)
    for name, reason in (
        ("readonly", "Read-only file system"),
        ("full", "No space left"),
        ("brimful", "No space"),
    ):
        (line,) = [
            line for line in printed[name].splitlines() if line.startswith("flan-jax: error:")
        ]
        assert reason in line and "cannot be written" in line, line
    assert "resuming from step 4" in printed["again"]
    assert losses(logs / "run") == losses(tmp_path / "whole")
