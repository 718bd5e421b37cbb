"""The processes of a run: how they connect, wait for each other, and end when one of them fails.

On a TPU slice, under SLURM, under Open MPI and in a Kubernetes Indexed Job `jax.distributed` finds
the processes itself; elsewhere flags or environment variables give their addresses.
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
from typing import NamedTuple

from flan_jax import exit_status
from flan_jax.errors import UserError

# Flag -> the environment variable that sets it.
FLAG_VARIABLES = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}
# Where there is a GPU or a TPU, one of these exists.
ACCELERATOR_FILES = ("/dev/nvidia*", "/dev/kfd", "/dev/accel*", "/dev/vfio/[0-9]*")
# How long process 0 may take to start after the others.
PATIENCE_S = 300.0
# Other processes wait for process 0 to prepare the data for as long as it takes; this is only a
# bound.
_A_WEEK_MS = 7 * 24 * 3600 * 1000
# Process 0 is the coordinator: when it ends, JAX aborts the others, which may be about to report
# the same error.
_REPORTING_S = 3.0
_CONNECTION_ERROR = re.compile(
    "gloo|nccl|connection|coordination|barrier|heartbeat|unavailable", re.IGNORECASE
)


class Address(NamedTuple):
    """The coordinator ('HOST:PORT'), the number of processes, and the index of this process."""

    coordinator: str
    count: int
    index: int


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --coordinator, --num_processes and --process_id."""
    group = parser.add_argument_group(
        "several processes (detected on TPU slices, under SLURM, Open MPI and "
        "in Kubernetes Indexed Jobs)"
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where process 0 listens for the others"
    )
    group.add_argument(
        "--num_processes", metavar="N", help="how many processes run; 1: this one alone"
    )
    group.add_argument("--process_id", metavar="I", help="which of them this is, from 0 to N - 1")


def explicit_address(
    flags: argparse.Namespace | None, environment: Mapping[str, str]
) -> Address | None:
    """Returns the address that flags, or else environment variables, set; None if none is set.

    A single process needs no coordinator.

    Raises:
      UserError: if some of the three values are missing or not valid.
    """
    values = {
        name: getattr(flags, name, None) or environment.get(variable)
        for name, variable in FLAG_VARIABLES.items()
    }
    given = [name for name, value in values.items() if value]
    if not given:
        return None
    # How the user set each of them: as a flag or as a variable.
    set_by = {
        name: f"--{name}" if getattr(flags, name, None) else FLAG_VARIABLES[name] for name in given
    }
    numbers = {
        name: _whole_number(set_by[name], values[name], least)
        for name, least in (("num_processes", 1), ("process_id", 0))
        if name in given
    }
    if numbers.get("num_processes") == 1:
        return Address("", 1, 0)
    missing = [name for name in FLAG_VARIABLES if name not in given]
    if missing:
        raise UserError(
            f"{' and '.join(set_by.values())} {'is' if len(given) == 1 else 'are'} given, but "
            "several processes need all of --coordinator=HOST:PORT, --num_processes=N and "
            f"--process_id=I: add {' and '.join(f'--{name}' for name in missing)}."
        )
    address = Address(values["coordinator"], numbers["num_processes"], numbers["process_id"])
    _check_address(address, set_by)
    return address


def _check_address(address: Address, set_by: Mapping[str, str]) -> None:
    if not address.index < address.count:
        raise UserError(
            f"{set_by['process_id']} is {address.index}, but {address.count} processes have the "
            f"numbers 0 to {address.count - 1}."
        )
    port = re.fullmatch(r".+:(\d{1,5})", address.coordinator)
    if not port or not 0 < int(port[1]) < 2**16:
        raise UserError(
            f"{set_by['coordinator']} is {address.coordinator!r}, but it must be the host of "
            "process 0 and a free port of it, such as 10.0.0.1:8476."
        )


def _whole_number(name: str, text: str, least: int) -> int:
    if not re.fullmatch(r"\d+", text) or int(text) < least:
        bounds = f"of at least {least}" if least else "from 0 on"
        raise UserError(f"{name} is {text!r}, but it must be a whole number {bounds}.")
    return int(text)


def join(flags: argparse.Namespace | None = None) -> None:
    """Connects this process with the others of its run, if any; call it before using a device.

    Raises:
      UserError: if the addresses are not valid, or the others cannot be found or reached.
    """
    import jax

    if jax.distributed.is_initialized():
        return
    address = explicit_address(flags, os.environ)
    if address is not None:
        if address.count > 1:
            _join_at(address)
        return
    place = _place_with_processes(os.environ, jax.config.jax_platforms)
    if place is None:
        return
    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError, OSError) as error:  # OSError: the metadata server of a TPU VM
        if place == "a TPU" and "coordinator_address should be defined" in str(error):
            return  # neither a Google TPU VM nor a pod: a single host
        raise UserError(
            f"this looks like {place}, but the other processes are not found "
            f"({_first_line(error)}); name them with --coordinator=HOST:PORT --num_processes=N "
            "--process_id=I, or give --num_processes=1 if there are none."
        ) from error


def _join_at(address: Address) -> None:
    """Connects this process with the coordinator of an address.

    Raises:
      UserError: if it cannot be reached.
    """
    import jax

    if address.index > 0:
        _await_coordinator(address)
    try:
        jax.distributed.initialize(*address)
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"process {address.index} of {address.count} cannot join the others at "
            f"{address.coordinator} ({_first_line(error)}); start all {address.count} processes "
            "with the same coordinator, which process 0 must be able to listen on."
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _await_coordinator(address: Address) -> None:
    """Returns when the coordinator accepts connections.

    JAX would abort the process instead of raising an error.

    Raises:
      UserError: if it does not within `PATIENCE_S`.
    """
    host, _, port = address.coordinator.rpartition(":")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"process {address.index} of {address.count} cannot connect to the coordinator "
                    f"at {address.coordinator} ({error}); start process 0 there, with a port that "
                    "this host can reach."
                ) from error
            time.sleep(0.2)


def is_alone(flags: argparse.Namespace | None = None) -> bool:
    """Returns whether `join` would surely find no other processes; it does not import JAX."""
    try:
        address = explicit_address(flags, os.environ)
    except UserError:
        return False
    if address is not None:
        return address.count == 1
    return _place_with_processes(os.environ, os.environ.get("JAX_PLATFORMS")) is None


def _place_with_processes(environment: Mapping[str, str], platforms: str | None) -> str | None:
    """Returns what this process runs in, if JAX may find other processes there."""
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
    """Returns the index of this process and the number of processes, as `join` set them.

    Unlike `jax.process_index`, it does not start the devices, which could wait for the others.
    """
    if "jax" not in sys.modules:
        return 0, 1
    from jax._src import distributed  # jax.process_count() would start the devices

    state = distributed.global_state
    return (state.process_id, state.num_processes) if state.client is not None else (0, 1)


def several() -> bool:
    """Returns whether this process runs with others."""
    return index_and_count()[1] > 1


def mute_others() -> None:
    """Discards standard output from here on in all processes but 0: it would be the same again."""
    if index_and_count()[0] > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)


def any_of_all(value: bool) -> bool:
    """Returns whether `value` is true on any of the processes, each of which must call this."""
    if not several():
        return value
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(value)).any())


def wait_for_all(key: str) -> None:
    """Returns when every process has called it with the same key.

    It waits at the coordinator, and not in a collective, which times out after 30 s on CPU (Gloo).
    """
    if several():
        from orbax.checkpoint import multihost

        multihost.get_barrier_sync_fn()(key=key, timeout_ms=_A_WEEK_MS)


def end_together(
    main: Callable[[Sequence[str] | None], int | None],
) -> Callable[[Sequence[str] | None], int | None]:
    """Returns a verb that ends its process at once if it fails in one process of several.

    Python's normal exit waits for the other processes, which would wait in a collective for this
    one. The process prints a clear error message first; the others notice at once on CPU, and
    within JAX's heartbeat timeout (100 s) elsewhere.
    """

    @functools.wraps(main)
    def main_ending_together(argv: Sequence[str] | None = None) -> int | None:
        try:
            return main(argv)
        except BaseException as error:
            if not several():
                raise
            status = _report(error)
        sys.stdout.flush()
        sys.stderr.flush()
        if index_and_count()[0] == 0:
            time.sleep(_REPORTING_S)
        os._exit(status)

    return main_ending_together


def _report(error: BaseException) -> int:
    """Prints on standard error why this process ends; returns its exit status."""
    import jax

    process = "process {} of {}".format(*index_and_count())
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    if isinstance(error, jax.errors.JaxRuntimeError) and _CONNECTION_ERROR.search(str(error)):
        print(
            f"flan-jax: error: {process} lost the connection to a peer "
            f"({_first_line(error)[:200]}): the log of that one says why; start the same command "
            "on all hosts again, it resumes from the last checkpoint.",
            file=sys.stderr,
        )
        return 1
    status = exit_status.explained(error)
    if status is None:
        traceback.print_exception(error)
        print(
            f"flan-jax: error: {process} ends with the error above, and the others with it.",
            file=sys.stderr,
        )
    return 1 if status is None else status
