"""Runs in a bucket: their commands, what they leave in it, and the kills of their processes."""

import csv
import io
import pathlib
import signal
import subprocess
import time

from support.processes import simulating
from support.two_processes import ONE_TASK, TRAIN, arguments

SETTINGS = [
    *ONE_TASK,
    "--gin.TRAIN_STEPS=6",
    "--gin.CHECKPOINT_EVERY=2",
    "--gin.EVAL_EVERY=2",
    "--gin.EVAL_EVERY_ROWS=2",
    "--gin.EVAL_DATASETS=copa",
    "--gin.EVAL_TEMPLATES=3",
    "--gin.EVAL_ROWS=2",
]


def train(cache, model_dir, *more: str) -> list[str]:
    """The command of a run."""
    return [*TRAIN, *arguments(cache, model_dir, *SETTINGS, *more)]


def start(command: list[str], home: pathlib.Path, **variables: str) -> subprocess.Popen:
    """Starts a command with a home and working directory of its own."""
    home.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        command,
        cwd=home,
        env={**simulating(1), "HOME": str(home), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_when(process: subprocess.Popen, is_time, number: int = signal.SIGKILL) -> bool:
    """Sends a signal as soon as a condition holds; returns whether the process still ran."""
    while process.poll() is None:
        if is_time():
            process.send_signal(number)
            process.wait(300)
            process.stdout.close()
            return True
        time.sleep(0.005)
    return False


def numbers(read) -> tuple[str, list[dict[str, str]]]:
    """The metrics and results of a run, without its name; `read` returns the bytes of a file."""
    rows = csv.DictReader(io.StringIO(read("results.csv").decode(), newline=""))
    return read("metrics.jsonl").decode(), [{**row, "run": ""} for row in rows]


def numbers_on_disk(directory: pathlib.Path) -> tuple[str, list[dict[str, str]]]:
    return numbers(lambda name: (directory / name).read_bytes())


def numbers_in(buckets, name: str) -> tuple[str, list[dict[str, str]]]:
    return numbers(lambda file: buckets.get(f"{name}/{file}"))


def forget_clients() -> None:
    """Forgets gcsfs's clients in this process: they keep the address of an earlier server."""
    import gcsfs
    from etils.epath import backend

    gcsfs.GCSFileSystem.clear_instance_cache()
    backend.fsspec_backend._get_filesystem.cache_clear()
