"""The processes of a run: who they are, how they find each other, and how they end when one of them
does.

Flags and variables name them where nothing else does; on a TPU slice, under SLURM, under Open MPI
and in a Kubernetes Indexed Job JAX finds them by itself (`jax.distributed`).
"""

from __future__ import annotations

import argparse
import functools
import glob
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence

from flan_jax import exit_status
from flan_jax.errors import UserError

# Flag -> the variable that says the same.
NAMED_BY = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}
# How long process 0 may take to start after the others.
PATIENCE_S = 300.0
# Whoever waits for process 0 to prepare the data waits as long as it takes; this is only a bound.
_A_WEEK_MS = 7 * 24 * 3600 * 1000
# Process 0 is the coordinator: when it ends, JAX aborts the others, who may be about to explain the
# same mistake.
_LAST_WORDS_S = 3.0
_LOST = re.compile("gloo|nccl|connection|coordination|barrier|heartbeat|unavailable", re.IGNORECASE)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --coordinator, --num_processes and --process_id."""
    group = parser.add_argument_group(
        "several processes (found by themselves on TPU slices, under SLURM, Open MPI and "
        "in Kubernetes Indexed Jobs)"
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where process 0 listens for the others"
    )
    group.add_argument(
        "--num_processes", metavar="N", help="how many processes run; 1: this one alone"
    )
    group.add_argument("--process_id", metavar="I", help="which of them this is, from 0 to N - 1")


def named(
    flags: argparse.Namespace | None, environment: Mapping[str, str]
) -> tuple[str, int, int] | None:
    """(coordinator, number of processes, index of this one) of flags or else variables; None where
    nothing names them.

    A single process needs no coordinator.

    Raises:
      UserError: if some of the three are missing, or one of them cannot be.
    """
    values = {
        name: getattr(flags, name, None) or environment.get(variable)
        for name, variable in NAMED_BY.items()
    }
    given = [name for name, value in values.items() if value]
    if not given:
        return None
    said = {name: f"--{name}" if getattr(flags, name, None) else NAMED_BY[name] for name in given}
    numbers = {
        name: _whole_number(said[name], values[name])
        for name in ("num_processes", "process_id")
        if name in given
    }
    if numbers.get("num_processes") == 1:
        return "", 1, 0
    missing = [name for name in NAMED_BY if name not in given]
    if missing:
        raise UserError(
            f"{' and '.join(said.values())} {'is' if len(given) == 1 else 'are'} given, but "
            "several processes need all of --coordinator=HOST:PORT, --num_processes=N and "
            f"--process_id=I: add {' and '.join(f'--{name}' for name in missing)}."
        )
    count, index = numbers["num_processes"], numbers["process_id"]
    if not index < count:
        raise UserError(
            f"{said['process_id']} is {index}, but {count} processes have the numbers 0 to "
            f"{count - 1}."
        )
    port = re.fullmatch(r".+:(\d{1,5})", values["coordinator"])
    if not port or not 0 < int(port[1]) < 2**16:
        raise UserError(
            f"{said['coordinator']} is {values['coordinator']!r}, but it must be the host of "
            "process 0 and a free port of it, such as 10.0.0.1:8476."
        )
    return values["coordinator"], count, index


def _whole_number(name: str, text: str) -> int:
    if not re.fullmatch(r"\d+", text) or (name.lower().endswith("num_processes") and int(text) < 1):
        raise UserError(
            f"{name} is {text!r}, but it must be a whole "
            f"number{' of at least 1' if name.lower().endswith('num_processes') else ' from 0 on'}."
        )
    return int(text)


def join(flags: argparse.Namespace | None = None) -> None:
    """Connects this process with the others of its run, if there are others; before any device is
    touched.

    Raises:
      UserError: if the others are named wrongly, or cannot be found or reached.
    """
    import jax

    if jax.distributed.is_initialized():
        return
    found = named(flags, os.environ)
    if found is not None and found[1] == 1:
        return
    place = None if found else _place(os.environ, jax.config.jax_platforms)
    if found is None and place is None:
        return
    if found and found[2] > 0:
        _await_coordinator(*found)
    try:
        jax.distributed.initialize(*(found or ()))
    except (ValueError, RuntimeError, OSError) as error:  # OSError: the metadata server of a TPU VM
        if place == "a TPU" and "coordinator_address should be defined" in str(error):
            return  # neither a TPU VM of Google's nor a pod: a host of its own
        reason = str(error).strip().split("\n")[0]
        if found:
            raise UserError(
                f"process {found[2]} of {found[1]} cannot join the others at {found[0]} "
                f"({reason}); start all {found[1]} processes with the same coordinator, which "
                "process 0 must be able to listen on."
            ) from error
        raise UserError(
            f"this looks like {place}, but the other processes are not found ({reason}); name them "
            "with --coordinator=HOST:PORT --num_processes=N --process_id=I, or say "
            "--num_processes=1 if there are none."
        ) from error


def _await_coordinator(coordinator: str, count: int, index: int) -> None:
    """Returns when something listens there; JAX would abort the process instead of raising an
    error.
    """
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"process {index} of {count} finds nobody at {coordinator} ({error}); start "
                    "process 0 there, with a port that this host can reach."
                ) from error
            time.sleep(0.2)


def _place(environment: Mapping[str, str], platforms: str | None) -> str | None:
    """Where this process runs, if it is a place with several processes that JAX may know."""
    if int(environment.get("SLURM_NTASKS", 1)) > 1:
        return "a SLURM job of several tasks (started with srun?)"
    if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return "an Open MPI job of several ranks"
    if (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")) and platforms != "cpu":
        return "a TPU"
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return "a pod of an Indexed Job (is the package kubernetes installed?)"
    return None


def index_and_count() -> tuple[int, int]:
    """(index of this process, number of processes), as `join` found them; touches no device, which
    could wait for the other processes.
    """
    if "jax" not in sys.modules:
        return 0, 1
    from jax._src import distributed  # jax.process_count() would start the devices

    state = distributed.global_state
    return (state.process_id, state.num_processes) if state.client is not None else (0, 1)


def several() -> bool:
    """Whether this process runs with others."""
    return index_and_count()[1] > 1


def mute_others() -> None:
    """From here on only process 0 prints on standard output: the others' lines would be the same
    ones again.
    """
    if index_and_count()[0] > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for the rest of the process)


def any_of_all(value: bool) -> bool:
    """Whether `value` is true on any of the processes, each of which must call this."""
    if not several():
        return value
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(value)).any())


def wait_for_all(what: str) -> None:
    """Returns when every process has called it with the same text; a process alone does not wait.

    Waits at the coordinator and not in a collective, which Gloo (CPU) gives up after 30 s.
    """
    if several():
        from orbax.checkpoint import multihost

        multihost.get_barrier_sync_fn()(key=what, timeout_ms=_A_WEEK_MS)


def end_together(main: Callable[[Sequence[str] | None], int | None]) -> Callable:
    """A verb that, when it fails in one process of several, ends that process at once.

    The normal way out waits for the others, and they would wait in a collective for this one. It
    says why in one sentence, and the others notice: at once on CPU, and within JAX's heartbeat
    timeout (100 s) anywhere.
    """

    @functools.wraps(main)
    def ending(argv: Sequence[str] | None = None) -> int | None:
        try:
            return main(argv)
        except BaseException as error:
            if not several():
                raise
            status = _explained(error)
        sys.stdout.flush()
        sys.stderr.flush()
        if index_and_count()[0] == 0:
            time.sleep(_LAST_WORDS_S)
        os._exit(status)

    return ending


def _explained(error: BaseException) -> int:
    """Says on standard error why this process ends; its exit status."""
    import jax

    who = "process {} of {}".format(*index_and_count())
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    if isinstance(error, jax.errors.JaxRuntimeError) and _LOST.search(str(error)):
        reason = str(error).strip().split("\n")[0][:200]
        print(
            f"flan-jax: error: {who} lost the connection to a peer ({reason}): the log of that one "
            "says why; start the same command on all hosts again, it resumes from the last "
            "checkpoint.",
            file=sys.stderr,
        )
        return 1
    status = exit_status.explained(error)
    if status is None:
        traceback.print_exception(error)
        print(
            f"flan-jax: error: {who} ends with the error above, and the others with it.",
            file=sys.stderr,
        )
    return 1 if status is None else status
