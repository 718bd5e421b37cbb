"""Queues that run the points of a sweep: an array of SLURM, JobSets of Kubernetes, or any other."""

from __future__ import annotations

import argparse
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Sequence

from flan_jax.cli.job_set import MOUNT, job_set
from flan_jax.cli.launch_backends import (
    BACKENDS,
    FLAG_HELP,
    Launch,
    requeue_lines,
    sbatch_lines,
)
from flan_jax.config.flags import whole_number
from flan_jax.errors import UserError
from flan_jax.storage.places import is_remote
from flan_jax.sweeps.grid import Point
from flan_jax.sweeps.plan import LOGS, Sweep

# Flags of `flan-jax launch` that a sweep has for each queue.
_FLAGS = {name: BACKENDS[name].flags for name in ("slurm", "gcluster")}
_FLAGS["slurm"] += ("sbatch",)
_HELP = {
    **FLAG_HELP,
    "nodes": "how many nodes of each point (default: 1)",
    "gpus_per_node": "GPUs of each, one process a GPU (default: none)",
    "sbatch": "more options of the script, such as '--mem=64G --qos=long'",
    "name": "of the jobs (default: the name of DIR)",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the queues."""
    for name in dict.fromkeys(name for names in _FLAGS.values() for name in names):
        users = ", ".join(backend for backend, names in _FLAGS.items() if name in names)
        parser.add_argument(f"--{name}", metavar="X", help=f"{users}: {_HELP[name]}")


def check_flags(flags: argparse.Namespace) -> None:
    """Checks that the flags belong to the backend, and that those which it needs are there.

    Raises:
      UserError: if not.
    """
    for name in dict.fromkeys(name for names in _FLAGS.values() for name in names):
        users = [backend for backend, names in _FLAGS.items() if name in names]
        if getattr(flags, name) is not None and flags.backend not in users:
            raise UserError(
                f"--{name} has no effect with --backend={flags.backend}; it is for "
                f"{' and '.join(users)}."
            )
    needs = (*BACKENDS["gcluster"].needs, "claim") if flags.backend == "gcluster" else ()
    for name in needs:
        if not getattr(flags, name):
            raise UserError(f"--backend={flags.backend} needs --{name}: {_HELP[name]}.")
    if flags.backend == "gcluster" and is_remote(flags.directory):
        raise UserError(
            f"DIR is {flags.directory}, and --backend=gcluster is for sweeps on the storage of "
            f"--claim: give {MOUNT}/NAME; or start the lines of --backend=print in pods of your "
            "own, which needs no shared storage."
        )
    if flags.backend == "gcluster" and not flags.directory.startswith(f"{MOUNT}/"):
        raise UserError(
            f"DIR is {flags.directory}, which the pods do not see; give {MOUNT}/NAME, where "
            "--claim is mounted."
        )
    if flags.submits and flags.backend not in _FLAGS:
        raise UserError(f"--run is for {' and '.join(_FLAGS)}; leave it out.")


def launch_of(
    sweep: Sweep, points: Sequence[Point], flags: argparse.Namespace, typed: Sequence[str]
) -> Launch:
    """Returns what runs some points of a sweep.

    Args:
      sweep: of the points.
      points: to run.
      flags: of the verb.
      typed: its arguments that configure the sweep, as they were typed.
    """
    build: Callable = {"print": _lines, "slurm": _array, "gcluster": _job_sets}[flags.backend]
    return build(sweep, points, flags, typed)


def _lines(sweep: Sweep, points: Sequence[Point], *_) -> Launch:
    lines = [
        f"flan-jax sweep {shlex.quote(str(sweep.place))} --point={point.name}" for point in points
    ]
    return Launch("\n".join(lines), [])


def _array(sweep: Sweep, points: Sequence[Point], flags: argparse.Namespace, *_) -> Launch:
    """Returns an array of SLURM: a job for each point, its output in the log of the point.

    SLURM writes no logs into a bucket: those of a sweep in one are below the working directory.
    """
    is_here = isinstance(sweep.place, pathlib.Path)
    logs = sweep.directory / LOGS if is_here else pathlib.Path.cwd() / f"{sweep.place.name}_{LOGS}"
    logs.mkdir(parents=True, exist_ok=True)
    numbers = [number for number, point in enumerate(sweep.points) if point in points]
    cpus, gpus = whole_number(flags, "cpus_per_task", 8), whole_number(flags, "gpus_per_node")
    options = {
        "job-name": flags.name or sweep.directory.name,
        "array": f"{','.join(map(str, numbers))}%{flags.jobs}",
        "nodes": whole_number(flags, "nodes", 1),
        "ntasks-per-node": gpus or 1,
        "gpus-per-node": gpus,
        "cpus-per-task": cpus,
        "time": flags.time,
        "partition": flags.partition,
        "account": flags.account,
        "output": f"{logs}/slurm-%a.log",
    }
    names = " ".join(f"[{number}]={sweep.points[number].name}" for number in numbers)
    command = [sys.executable, "-m", "flan_jax", "sweep", str(sweep.place)]
    lines = [
        "#!/bin/bash",
        *sbatch_lines(options),
        "#SBATCH --requeue --open-mode=append --signal=TERM@120",
        *(f"#SBATCH {option}" for option in shlex.split(flags.sbatch or "")),
        f"names=({names})",
        f"exec >> {shlex.quote(str(logs))}/${{names[$SLURM_ARRAY_TASK_ID]}}.log 2>&1",
        f"srun --cpus-per-task={cpus} --kill-on-bad-exit=1 {shlex.join(command)} "
        "--point=${names[$SLURM_ARRAY_TASK_ID]}",
        # SLURM_JOB_ID of the last job of an array is the id of the whole array.
        *requeue_lines("${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"),
    ]
    return Launch("\n".join(lines), [["sbatch"]], stdin=True)


def _job_sets(
    sweep: Sweep, points: Sequence[Point], flags: argparse.Namespace, typed: Sequence[str]
) -> Launch:
    """Returns a JobSet for each point.

    Its pods have the whole sweep in their arguments: the directory is on their storage, and the
    machine that submits need not see it.
    """
    stem = re.sub(r"[^a-z0-9]+", "-", (flags.name or sweep.directory.name).lower()).strip("-")
    if not stem or not stem[0].isalpha():
        raise UserError(f"give the JobSets a --name that begins with a letter, not {stem!r}.")
    sets = []
    for number, point in enumerate(sweep.points):
        if point in points:
            command = ["flan-jax", "sweep", str(sweep.directory), *typed, f"--point={point.name}"]
            name = f"{stem[:40].strip('-')}-{number}"
            sets.append(job_set(flags, command, name, {"flan-jax/point": point.name}))
    return Launch("\n---\n".join(sets), [["kubectl", "apply", "-f", "-"]], stdin=True)


def check_cache(flags: argparse.Namespace) -> None:
    """Checks that pods keep the token cache of the present settings on their storage.

    Raises:
      UserError: if not.
    """
    from flan_jax.data.config import DataConfig
    from flan_jax.storage.mirror import DEFAULT_CACHE

    cache = DataConfig().cache_dir or DEFAULT_CACHE
    if flags.backend == "gcluster" and not cache.startswith(f"{MOUNT}/"):
        raise UserError(
            f"CACHE_DIR is {cache}, which ends with the container and which the other pods do not "
            f"see; give --gin.CACHE_DIR={MOUNT}/cache, where --claim is mounted."
        )


def is_elsewhere(flags: argparse.Namespace, directory: pathlib.Path) -> bool:
    """Returns whether the sweep lies on storage that this machine does not see."""
    return flags.backend == "gcluster" and not directory.is_dir()
