"""Whether all hosts of a run see the same checkpoint directory; a failure raises on all."""

from __future__ import annotations

import time
import uuid
import zlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from flan_jax.errors import UserError
from flan_jax.parallel.processes import any_of_all

# How long a host waits for a file that another one has written.
_PATIENCE_S = 10


def check_shared(directory: Any) -> None:
    """Checks that all hosts see what the first one writes; otherwise they would wait forever.

    Raises:
      UserError: on every host, if one of them does not.
    """
    if jax.process_count() == 1:
        return
    number = multihost_utils.broadcast_one_to_all(np.uint32(uuid.uuid4().int >> 96))
    probe = directory / f".shared.{number:08x}"
    if jax.process_index() == 0:
        probe.write_text("")
    any_of_all(False)  # returns when it is written
    deadline = time.monotonic() + _PATIENCE_S
    while not (is_visible := probe.exists()) and time.monotonic() < deadline:
        time.sleep(0.2)
    is_hidden_somewhere = any_of_all(not is_visible)
    if jax.process_index() == 0:
        probe.unlink()
    if is_hidden_somewhere:
        raise UserError(
            f"not all hosts see in {directory} what process 0 writes there; give a MODEL_DIR on "
            "storage that all hosts see, by its full path."
        )


def check_same_steps(directory: Any, steps: list[int]) -> None:
    """Checks that all hosts list the same checkpoints: others would resume from different steps.

    Raises:
      UserError: if they do not.
    """
    if jax.process_count() == 1:
        return
    checksum = np.uint32(zlib.crc32(str(steps).encode()))
    if len(set(multihost_utils.process_allgather(checksum).tolist())) > 1:
        raise UserError(
            f"process {jax.process_index()} sees the checkpoints of steps "
            f"{', '.join(map(str, steps)) or '-'} in {directory}, another process sees others; is "
            "it on storage that all hosts see? Then run the same command again."
        )
