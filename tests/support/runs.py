"""Commands of a small run, each in a process of its own, and what they leave behind."""

import contextlib
import io
import json
import pathlib
import signal
import subprocess
import sys
import time

import gin
import numpy as np

from flan_jax.checkpoints.open import open_tensors
from flan_jax.cli import dispatch
from support.processes import simulating

SMALL_DECODER = [
    "--gin.DecoderConfig.emb_dim=32",
    "--gin.DecoderConfig.num_heads=2",
    "--gin.DecoderConfig.head_dim=16",
    "--gin.DecoderConfig.mlp_dim=64",
    "--gin.DecoderConfig.num_layers=2",
]
SMALL = [
    "--gin.T5Config.emb_dim=32",
    "--gin.T5Config.num_heads=2",
    "--gin.T5Config.head_dim=16",
    "--gin.T5Config.mlp_dim=64",
    "--gin.T5Config.num_encoder_layers=2",
    "--gin.T5Config.num_decoder_layers=2",
    "--gin.T5Config.dtype=float32",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 160, 'targets': 48}",
    "--gin.BATCH_SIZE=8",
    "--gin.Data.validation_batches=1",
]


def command(
    verb: str, cache, model_dir, *arguments: str, gin_file: str = "gin/flan.gin"
) -> list[str]:
    return [
        sys.executable,
        "-m",
        f"flan_jax.{verb}",
        f"--gin_file={gin_file}",
        *SMALL,
        f"--gin.CACHE_DIR={cache}",
        f"--gin.MODEL_DIR={model_dir}",
        *arguments,
    ]


def run(arguments: list[str], devices: int = 1, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        arguments, capture_output=True, text=True, env=simulating(devices), timeout=600, **options
    )


def run_here(arguments: list[str]) -> subprocess.CompletedProcess:
    """Runs a command in this process, which has one device: where its process is not the point."""
    python, option, module, *rest = arguments
    assert (python, option) == (sys.executable, "-m")
    output, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = dispatch.main([module.removeprefix("flan_jax."), *rest])
    finally:
        gin.clear_config()
    return subprocess.CompletedProcess(arguments, status, output.getvalue(), errors.getvalue())


def losses(model_dir: pathlib.Path) -> dict[int, float]:
    """Returns the loss of every step of `metrics.jsonl`, which has each step once."""
    lines = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, len(steps) + 1)), "a step is missing or stands twice"
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def whole_lines(path: pathlib.Path) -> list[str]:
    """The lines of a file to which another process may be writing one."""
    return path.read_text().rpartition("\n")[0].splitlines()


def start_and_signal(
    arguments: list[str], model_dir: pathlib.Path, step: int, number: int
) -> subprocess.Popen:
    """Starts a run and sends it a signal once `metrics.jsonl` holds a step."""
    # a shell has it ignored by what is in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=simulating(1),
    )
    path, deadline = model_dir / "metrics.jsonl", time.time() + 300
    while time.time() < deadline and process.poll() is None:
        if path.exists() and any(
            json.loads(line)["step"] >= step for line in whole_lines(path)[-1:]
        ):
            break
        time.sleep(0.02)
    process.send_signal(number)
    process.wait(300)
    return process


def wait_for_step(model_dir: pathlib.Path, step: int) -> None:
    """Waits until `metrics.jsonl` holds a step."""
    path, deadline = model_dir / "metrics.jsonl", time.time() + 600
    while time.time() < deadline:
        if path.exists() and any(json.loads(line)["step"] >= step for line in whole_lines(path)):
            return
        time.sleep(0.02)
    raise AssertionError(f"{model_dir} did not get to step {step}")


def saved(run_dir: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of the last checkpoint of a run: parameters and the optimizer's."""
    checkpoint = open_tensors(run_dir)
    assert checkpoint.slots, f"{run_dir} has no arrays of an optimizer"
    tensors = {**checkpoint.tensors, **checkpoint.slots}
    return {name: tensor.read() for name, tensor in tensors.items()}


def assert_same_end(run_dir: pathlib.Path, other: pathlib.Path) -> None:
    """Asserts that two runs have the same losses and, to the bit, the same last checkpoint."""
    assert losses(run_dir) == losses(other)
    arrays, expected = saved(run_dir), saved(other)
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
