"""Prefetch: the next batches are made and put on the devices while the current step runs."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from flan_jax.data.batches import Batches


def device_batches(
    batches: Batches, sharding: jax.sharding.NamedSharding, begin: int, end: int, ahead: int = 2
) -> Iterator[tuple[dict[str, jax.Array], int]]:
    """Yields (global batch on the devices, its non-padding tokens) for steps begin..end-1.

    Each host makes its own rows. Close the iterator (`contextlib.closing`) when not all steps are
    taken: it ends the thread.

    Args:
      batches: of the run.
      sharding: of a batch array [B, ...].
      begin: the first step, from 0.
      end: the step after the last one.
      ahead: most batches that wait on the devices.

    Raises:
      Exception: whatever making a batch raised, at the step of that batch.
    """
    ready: queue.Queue = queue.Queue(ahead)
    stop = threading.Event()

    def offer(item: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def produce() -> None:
        try:
            for step in range(begin, end):
                if stop.is_set():
                    return
                offer(put_batch(batches, sharding, step))
        except Exception as error:  # handed to the consumer
            offer(error)

    thread = threading.Thread(target=produce, daemon=True, name="batches")
    thread.start()
    try:
        for _ in range(begin, end):
            item = ready.get()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:  # a thread that is inside XLA when Python ends would abort the process
        stop.set()
        thread.join()


def put_batch(
    batches: Batches, sharding: jax.sharding.NamedSharding, step: int
) -> tuple[dict[str, jax.Array], int]:
    """Returns the batch of a step as global int32 arrays [B, ...], and its non-padding tokens."""
    shape = next(iter(batches.layout.shapes(batches.batch_size).values()))
    local_rows = [
        index[0].indices(batches.batch_size)
        for index in sharding.addressable_devices_indices_map(shape).values()
    ]
    first = min(start for start, _, _ in local_rows)
    last = max(stop for _, stop, _ in local_rows)
    local = batches.at(step, first, last)

    def part(array: np.ndarray) -> jax.Array:
        def rows_of(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(batches.batch_size)
            return array[start - first : stop - first]

        return jax.make_array_from_callback((batches.batch_size, array.shape[1]), sharding, rows_of)

    return {name: part(array) for name, array in local.items()}, batches.tokens_at(step)
