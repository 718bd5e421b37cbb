"""The data of a run with its rows in the token cache; what is missing is prepared first."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np

from flan_jax import signals
from flan_jax.data.run_data import RunData, open_data
from flan_jax.errors import UserError
from flan_jax.parallel import processes
from flan_jax.runs.data_log import log_counts


def prepared(data: RunData, argv: list[str], only: str | None = None) -> RunData:
    """Returns the data with its rows in the cache; prepares them first if some are missing.

    `flan-jax prepare` runs in a process of its own, on the first of several hosts; the others wait.

    Args:
      data: the data of a run.
      argv: the gin arguments of this verb, for `prepare`.
      only: 'eval' for what an evaluation of a checkpoint needs.

    Returns:
      `data`, or the same settings opened again if they were prepared meanwhile.

    Raises:
      SystemExit: if the preparation failed, with its status; it has printed why.
    """
    import jax
    from jax.experimental import multihost_utils

    first, prepares, status = jax.process_index() == 0, False, 0
    if first:
        prepares = bool(data.undownloaded() or data.missing(only))
        if not prepares:
            data.cache.push()  # what an earlier start could not
    if prepares:
        status = _prepare([*([f"--only={only}"] if only else []), *argv])
    if jax.process_count() > 1:
        processes.wait_for_all("the token cache")
        outcome = np.array([prepares, status], np.int32)
        prepares, status = multihost_utils.broadcast_one_to_all(outcome).tolist()
    if status:
        raise SystemExit(status)
    if prepares or not first:
        # Rows may have been downloaded meanwhile: all hosts look them up after the first one did.
        data = open_data(data.config, data.layout.prompt.start)
    if (prepares or not first) and data.missing(only):
        raise UserError(
            f"the token cache in {data.directory} lacks what was just prepared: is it on storage "
            "that all hosts see, and are the data left alone? Then run the same command again."
        )
    if first and not prepares:  # the preparation prints this, too
        log_counts(data, only)
    return data


def _prepare(arguments: list[str]) -> int:
    """Runs `flan-jax prepare` and returns its status; it ends when this process ends."""
    command = [sys.executable, "-m", "flan_jax.prepare", "--for_a_run", *arguments]
    # The other end of this pipe is closed when this process is gone.
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if status >= 0:
        return status
    print(
        f"flan-jax: error: the preparation of the data was ended by signal {-status}, perhaps for "
        "lack of memory; the same command resumes it, and flan-jax prepare --workers=1 needs "
        "less.",
        file=sys.stderr,
    )
    return signals.SAVED if status == -signal.SIGTERM else 1
