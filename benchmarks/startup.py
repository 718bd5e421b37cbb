"""What the commands cost before they work: seconds of the processor, with warm caches.

  python benchmarks/startup.py [--repeats=5] [--only=TEXT] [--package=DIR ...] [--json=FILE]

Each number is the median of several processes, user and system time of a process and its children:
the time of all cores, which depends less on what else the machine does than the clock's does.
"First step" ends where a run in a new directory logs its first step, with its tokens and compiled
programs in their caches; the other commands find their work done and end by themselves. With
several --package, which are checkouts of this repository, they are measured in turns.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
SETTINGS = (
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 128}",
    "--gin.BATCH_SIZE=4",
    "--gin.EVAL_TEMPLATES=1",
    "--gin.EVAL_ROWS=8",
)
FIRST_STEP = "first step after"

# Measures a command in the package and the directory of caches and runs that it is given.
Measure = Callable[[pathlib.Path, pathlib.Path], float]


def train(package: pathlib.Path, home: pathlib.Path, run: str, steps: int) -> list[str]:
    """Returns the arguments of `flan-jax` that train t5_tiny in a directory of `home`."""
    return [
        "train",
        f"--gin_file={package / 'gin/flan.gin'}",
        f"--gin.MODEL_DIR={home / run}",
        f"--gin.TRAIN_STEPS={steps}",
        f"--gin.CACHE_DIR={home / 'cache'}",
        *SETTINGS,
    ]


def start(package: pathlib.Path, arguments: list[str]) -> subprocess.Popen:
    """Starts `flan-jax` from a checkout; its output is a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "flan_jax", *arguments],
        env={**os.environ, "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def whole(package: pathlib.Path, arguments: list[str]) -> float:
    """Returns the seconds of the processor that `flan-jax` takes.

    Raises:
      SystemExit: if it fails; with its output.
    """
    process = start(package, arguments)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"flan-jax {' '.join(arguments)}: {process.returncode}\n{output}")
    return usage.ru_utime + usage.ru_stime


def to_first_step(package: pathlib.Path, home: pathlib.Path) -> float:
    """Returns the seconds of the processor until a new run has taken its first step.

    Raises:
      SystemExit: if it ends before.
    """
    shutil.rmtree(home / "new", ignore_errors=True)
    process = start(package, train(package, home, "new", 300))
    lines = []
    for line in process.stdout:
        lines.append(line)
        if FIRST_STEP in line:
            break
    else:
        raise SystemExit(f"flan-jax train: no first step\n{''.join(lines)}")
    seconds = used_so_far(process.pid)
    process.kill()
    process.wait()
    return seconds


def used_so_far(pid: int) -> float:
    """Returns the seconds of the processor that a process and its ended children have taken."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def command(*arguments: str) -> Measure:
    """Returns what measures a command; RUN in its arguments is the directory of a finished run."""
    return lambda package, home: whole(
        package, [word.replace("RUN", str(home / "run")) for word in arguments]
    )


CASES: dict[str, Measure] = {
    "flan-jax --help": command("--help"),
    "train --help": command("train", "--help"),
    "eval --help": command("eval", "--help"),
    "generate --help": command("generate", "--help"),
    "tasks list": command("tasks", "list"),
    "train, to the first step": to_first_step,
    "train, of a finished run": lambda package, home: whole(
        package, train(package, home, "run", 2)
    ),
    "eval, of what is evaluated": command("eval", "RUN"),
    "report, up to date": command("report", "RUN"),
}


def warm(package: pathlib.Path, home: pathlib.Path) -> None:
    """Makes the caches and a finished run; each command runs once."""
    whole(package, train(package, home, "run", 2))
    for measure in CASES.values():
        measure(package, home)


def main() -> None:
    """Measures the commands of one or several checkouts; prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="the commands whose name contains it")
    parser.add_argument("--package", type=pathlib.Path, action="append", help="checkouts, in turns")
    parser.add_argument("--home", type=pathlib.Path, help="directory for caches and runs, kept")
    parser.add_argument("--json", type=pathlib.Path)
    flags = parser.parse_args()
    packages = [path.resolve() for path in flags.package or [REPOSITORY]]
    cases = {name: measure for name, measure in CASES.items() if flags.only in name}
    seconds = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        homes = [(flags.home or pathlib.Path(temporary)) / str(n) for n in range(len(packages))]
        for package, home in zip(packages, homes):
            warm(package, home)
        for _ in range(flags.repeats):
            for name, measure in cases.items():
                for number, (package, home) in enumerate(zip(packages, homes)):
                    seconds[name, number].append(measure(package, home))
    print(f"{'processor seconds':<28}" + "".join(f"{path.name:>12}" for path in packages))
    for name in cases:
        medians = [statistics.median(seconds[name, number]) for number in range(len(packages))]
        print(f"{name:<28}" + "".join(f"{median:12.2f}" for median in medians))
    if flags.json:
        rows = [
            {"command": name, "package": str(packages[number]), "seconds": measured}
            for (name, number), measured in seconds.items()
        ]
        flags.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
