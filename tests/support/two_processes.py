"""Runs of two processes on this machine, for the tests of hosts and of what goes wrong."""

import json
import pathlib
import socket
import subprocess
import sys

from support.processes import ended_well, simulating

SMALL = [
    "--gin_file=gin/flan.gin",
    "--gin.T5Config.emb_dim=32",
    "--gin.T5Config.num_heads=2",
    "--gin.T5Config.head_dim=16",
    "--gin.T5Config.mlp_dim=64",
    "--gin.T5Config.num_encoder_layers=1",
    "--gin.T5Config.num_decoder_layers=1",
    "--gin.T5Config.dtype=float32",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 16}",
    "--gin.BATCH_SIZE=8",
    "--gin.Data.validation_batches=1",
    "--gin.LOG_EVERY=1",
    "--gin.DROPOUT_RATE=0.1",
]
ONE_TASK = ["--gin.HELD_OUT=none", "--gin.MIXTURE_OR_TASK_NAME=rte"]
TRAIN = [sys.executable, "-m", "flan_jax.train"]
SCRIPT = [sys.executable, str(pathlib.Path(__file__).parent / "watched_run.py")]


def arguments(cache, model_dir, *more: str) -> list[str]:
    return [*SMALL, f"--gin.CACHE_DIR={cache}", f"--gin.MODEL_DIR={model_dir}", *more]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start_two(command: list[str], devices: int = 1) -> list[subprocess.Popen]:
    """Starts both processes of a run, each with so many devices."""
    address = f"localhost:{free_port()}"
    return [
        subprocess.Popen(
            [*command, f"--coordinator={address}", "--num_processes=2", f"--process_id={index}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=simulating(devices),
        )
        for index in (0, 1)
    ]


def finish(processes: list[subprocess.Popen], status: int = 0) -> list[str]:
    """What each process prints; both must end with the status."""
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    ended = [process.returncode for process in processes]
    assert ended == [status, status], "\n".join(text[-4000:] for text in outputs)
    return outputs


def run_one(command: list[str], devices: int = 1) -> str:
    result = subprocess.run(
        command, capture_output=True, text=True, env=simulating(devices), timeout=400
    )
    ended_well(result)
    return result.stdout


def printed(output: str, key: str) -> list:
    """The values of the script's lines of JSON that have `key`."""
    lines = [json.loads(line) for line in output.splitlines() if line.startswith('{"')]
    return [line[key] for line in lines if key in line]
