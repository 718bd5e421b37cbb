"""Whether a host can be reached."""

from __future__ import annotations

import functools
import os
import socket


@functools.cache
def no_network(host: str, port: int = 443) -> str | None:
    """Returns why a host cannot be reached, or None if it can.

    Tried once for each host and for 10 seconds: TFDS itself would retry for minutes a dataset.
    """
    if any(name.lower() in ("https_proxy", "all_proxy") for name in os.environ):
        return None
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        return f"there is no network ({error})"
    return None
