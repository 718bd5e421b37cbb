"""A kill campaign.

Every verb, alone and as two processes, is killed at moments drawn from a seed and started again.

Each command is killed several times on its way, by SIGKILL or SIGTERM, and then ends with the bytes
of an undisturbed one: losses, results, predictions, answers, tensors. No process and no temporary
file is left. In half an hour, `python -m pytest tests/chaos -m slow -s` prints a line for each
kill.
"""

import dataclasses
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from support.processes import simulating
from support.two_processes import ONE_TASK, SMALL, free_port

SEED = 14
WORK = [
    *SMALL,
    *ONE_TASK,
    "--gin.TRAIN_STEPS=60",
    "--gin.CHECKPOINT_EVERY=10",
    "--gin.EVAL_EVERY=20",
    "--gin.EVAL_EVERY_ROWS=2",
    "--gin.EVAL_DATASETS=copa+hellaswag",
    "--gin.EVAL_TEMPLATES=4",
    "--gin.EVAL_ROWS=8",
]
# What programs that are killed may leave behind, and what their successors must remove.
TEMPORARY = re.compile(
    r"incomplete|orbax-checkpoint-tmp|\.writable\.|\.shared\.|\.tmp|\.[0-9a-f]{8}$"
)
# Seconds that children have to end after their parent, and a process after SIGTERM.
PATIENCE_S = 30.0
_KILLS_IN_A_LIFE = 4
# The moments lie in this part of the time of an undisturbed command; restarts have less to do.
_PART = 0.7


@dataclasses.dataclass(frozen=True)
class Case:
    """A command that is killed.

    Attributes:
      command: makes its arguments from the directory that it writes into and the one that it reads
        from.
      kills: how often in all. After four, or when one came too late, it runs to its end, and begins
        anew elsewhere.
      processes: how many run it together.
      outputs: the files that must have the bytes of the undisturbed command, as patterns.
    """

    command: Callable[[pathlib.Path, pathlib.Path], list[str]]
    kills: int
    outputs: tuple[str, ...]
    processes: int = 1


def train(out: pathlib.Path, ready: pathlib.Path) -> list[str]:
    return ["train", *WORK, f"--gin.MODEL_DIR={out}", f"--gin.CACHE_DIR={ready.parent / 'cache'}"]


def train_without_cache(out: pathlib.Path, ready: pathlib.Path) -> list[str]:
    return ["train", *WORK, f"--gin.MODEL_DIR={out}", f"--gin.CACHE_DIR={out}.cache"]


def evaluate(out: pathlib.Path, ready: pathlib.Path) -> list[str]:
    return ["eval", str(ready), f"--output={out}", "--gin.EVAL_TEMPLATES=8", "--gin.EVAL_ROWS=12"]


def convert(out: pathlib.Path, ready: pathlib.Path) -> list[str]:
    return ["convert", str(ready), "--to=hf", f"--output={out / 'export'}"]


def generate(out: pathlib.Path, ready: pathlib.Path) -> list[str]:
    return [
        "generate",
        str(ready),
        f"--file={ready.parent / 'prompts.txt'}",
        f"--output={out / 'answers.jsonl'}",
    ]


def prepare(out: pathlib.Path, ready: pathlib.Path) -> list[str]:
    return ["prepare", *WORK, f"--gin.CACHE_DIR={out}", "--workers=2"]


RUN = ("metrics.jsonl", "results.csv", "predictions/*/*.jsonl", "report.md")
CASES = {
    "train": Case(train, 8, RUN),
    "two_processes": Case(train, 6, RUN, processes=2),
    "train_without_cache": Case(train_without_cache, 4, RUN),
    "eval": Case(evaluate, 8, ("results.csv", "predictions/*/*.jsonl", "report.md")),
    "generate": Case(generate, 8, ("answers.jsonl",)),
    "convert": Case(convert, 8, ("export/*",)),
    "prepare": Case(prepare, 8, ()),
}


def start(
    arguments: list[str], processes: int, mark: str, temporary: pathlib.Path
) -> list[subprocess.Popen]:
    """Starts the processes of a command.

    `mark` stands in their environment and in that of their children.
    """
    place = (
        [f"--coordinator=localhost:{free_port()}", f"--num_processes={processes}"]
        if processes > 1
        else []
    )
    variables = {**simulating(1), "FLAN_JAX_CHAOS": mark, "TMPDIR": str(temporary)}
    return [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flan_jax",
                *arguments,
                *place,
                *([f"--process_id={index}"] if place else []),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=variables,
        )
        for index in range(processes)
    ]


def marked(mark: str) -> list[int]:
    """The processes that live and have `mark` in their environment."""
    found = []
    for place in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if f"FLAN_JAX_CHAOS={mark}".encode() in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
        except OSError:
            continue  # it has ended, or belongs to somebody else
    return found


def wait_until_gone(mark: str) -> list[int]:
    deadline = time.monotonic() + PATIENCE_S
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def finish(arguments: list[str], processes: int, mark: str, temporary: pathlib.Path) -> float:
    """Runs a command to its end; the seconds that it took."""
    began = time.monotonic()
    started = start(arguments, processes, mark, temporary)
    outputs = [process.communicate(timeout=900)[0] for process in started]
    assert [process.returncode for process in started] == [0] * processes, "\n".join(
        text[-3000:] for text in outputs
    )
    return time.monotonic() - began


def kill(
    arguments: list[str],
    case: Case,
    mark: str,
    temporary: pathlib.Path,
    moment: float,
    number: signal.Signals,
    victims: list[int],
) -> str:
    """Starts a command and kills the processes `victims` after `moment` seconds.

    How each process ended.
    """
    started = start(arguments, case.processes, mark, temporary)
    deadline = time.monotonic() + moment
    while time.monotonic() < deadline and started[0].poll() is None:
        time.sleep(0.05)
    for victim in victims:
        started[victim].send_signal(number)
    outputs = [process.communicate(timeout=150)[0] for process in started]
    for index, process in enumerate(started):
        # 0: it was faster. 143: saved. 1 or an abort: the peer was lost; what JAX says then is its
        # own.
        allowed = (
            {0, 143, -number} if case.processes == 1 else {0, 1, 143, -number, -signal.SIGABRT}
        )
        assert process.returncode in allowed, f"{process.returncode}\n{outputs[index][-3000:]}"
        assert case.processes > 1 or "Traceback" not in outputs[index], outputs[index][-3000:]
    return " ".join(str(process.returncode) for process in started)


def contents(directory: pathlib.Path, case: Case) -> dict[str, bytes]:
    """The outputs of a command by name, the lines of results in alphabetical order."""
    found = {}
    for path in (
        path for pattern in case.outputs for path in directory.glob(pattern) if path.is_file()
    ):
        text = path.read_bytes()
        name = str(path.relative_to(directory))
        found[name] = b"\n".join(sorted(text.splitlines())) if path.name == "results.csv" else text
    return found


def left_over(*directories: pathlib.Path) -> list[pathlib.Path]:
    return [
        path
        for directory in directories
        for path in directory.rglob("*")
        if TEMPORARY.search(path.name)
    ]


@pytest.fixture(scope="module")
def ready(tmp_path_factory) -> pathlib.Path:
    """A run that is finished, with a filled cache and a file of prompts beside it."""
    place = tmp_path_factory.mktemp("ready")
    (place / "tmp").mkdir()
    (place / "prompts.txt").write_text("".join(f"Is {i} more than {i % 7}?\n" for i in range(600)))
    finish(train(place / "run", place / "run"), 1, "ready", place / "tmp")
    return place / "run"


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_command_that_is_killed_again_and_again_ends_with_the_bytes_of_an_undisturbed_one(
    name, ready, tmp_path
):
    case, draw, temporary = CASES[name], random.Random(f"{SEED} {name}"), tmp_path / "tmp"
    temporary.mkdir()
    whole = tmp_path / "whole" / "out"
    whole.mkdir(parents=True)
    seconds = finish(case.command(whole, ready), case.processes, f"{name} whole", temporary)
    expected = contents(whole, case)
    assert bool(expected) == bool(case.outputs)
    kills, life = 0, 0
    while kills < case.kills:
        life += 1
        out = tmp_path / str(life) / "out"
        out.mkdir(parents=True)
        for i in range(_KILLS_IN_A_LIFE):
            mark = f"{name} {life} {i}"
            moment, number = (
                draw.uniform(0, _PART * seconds),
                draw.choice([signal.SIGKILL, signal.SIGTERM]),
            )
            victims = draw.choice([[0], [1], [0, 1]]) if case.processes == 2 else [0]
            ended = kill(case.command(out, ready), case, mark, temporary, moment, number, victims)
            print(
                (
                    f"{name} {life}.{i}: {number.name} to {victims} after {moment:.1f} s: status "
                    f"{ended}"
                ),
                flush=True,
            )
            assert not wait_until_gone(mark), "a process is left"
            if ended.split() == ["0"] * case.processes:
                break
            kills += 1
            if kills == case.kills:
                break
        # else `convert` was done when it was killed, and does not write twice
        if not (out / "export").is_dir():
            finish(case.command(out, ready), case.processes, f"{name} {life}", temporary)
        assert contents(out, case) == expected
        assert not left_over(out.parent) and not list(temporary.iterdir())
        if name == "prepare":  # what was prepared trains as it would otherwise
            run = out.parent / "trained" / ready.name  # results have the name
            finish([*train(run, ready), f"--gin.CACHE_DIR={out}"], 1, f"{name} run", temporary)
            assert contents(run, CASES["train"]) == contents(ready, CASES["train"])
        shutil.rmtree(out.parent)
    assert not marked("ready") and os.path.isdir(ready)
