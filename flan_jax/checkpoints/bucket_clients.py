"""The clients by which Orbax writes to gs://: TensorStore for arrays, gcsfs for small files."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import threading
from typing import Any

from flan_jax.errors import UserError
from flan_jax.storage.bucket_errors import BucketError, explained
from flan_jax.storage.pace import paced
from flan_jax.storage.remote import RETRIES, Remote, set_endpoint

# etils would import TensorFlow (17 s, 870 MB) for gs://; gcsfs would send a request per path to
# find kinds of buckets for which it has another client.
_VARIABLES = {"EPATH_USE_TF": "0", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
# Where the exceptions of these clients come from.
_MODULES = ("gcsfs", "aiohttp", "google", "requests", "fsspec")
_TOO_SHORT = "http_response_code='416'"  # a range beyond the end of an object: it is damaged
_OF_TENSORSTORE = ("http_response_code=", "curl_code=", "retry attempts failed")


def check(remote: Remote, setting: str) -> None:
    """Checks that Orbax can write to a bucket; imports nothing.

    Args:
      remote: the directory of a run.
      setting: or flag that gives it, for messages.

    Raises:
      UserError: if it cannot, and where gcsfs is not installed.
    """
    if remote.scheme != "gs":
        raise UserError(
            f"{setting} {remote}: checkpoints cannot be written to {remote.scheme}://; train in "
            f"gs:// or on a disk, and copy the run there when it is finished."
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(
            f"{setting} {remote} needs the package gcsfs, which is not installed; run: pip install "
            "'flan_jax[gcs]'"
        )


def set_up(remote: Remote, setting: str) -> None:
    """Sets the clients up, before Orbax has opened a directory of a bucket; see `check`."""
    check(remote, setting)
    os.environ |= _VARIABLES
    set_endpoint("gs")
    # its own attempts are reported as an exception with a traceback
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)

    import fsspec
    from etils.epath import backend, gpath
    from orbax.checkpoint._src.futures import future
    from orbax.checkpoint._src.serialization import tensorstore_utils

    fsspec.register_implementation("gcs", _paced_files(), clobber=True)
    # etils keeps the client that this process has used before
    getattr(backend.fsspec_backend._get_filesystem, "cache_clear", lambda: None)()

    # etils has read its variable if this process has used a path before
    getattr(gpath._is_tf_installed, "cache_clear", lambda: None)()
    # Orbax has no option for it; by default an outage is reported after a quarter of an hour
    for name in ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT"):
        getattr(tensorstore_utils, name, {})["gcs_request_retries"] = RETRIES
    if hasattr(future, "_SignalingThread"):
        future._SignalingThread.start = _start_daemon


def _start_daemon(thread: threading.Thread) -> None:
    """Starts a thread of a save as a daemon, so that the end of the process does not wait for it.

    Where a save fails, such threads wait up to ten minutes for the other parts. A run waits for its
    saves itself.
    """
    thread.daemon = True
    threading.Thread.start(thread)


@functools.cache
def _paced_files() -> type:
    """gcsfs, with one change of a file a second: Orbax writes some when it begins and ends."""
    import gcsfs

    class PacedFile(gcsfs.core.GCSFile):
        def close(self) -> None:
            is_change = not self.closed and self.mode != "rb"
            with paced(self.path) if is_change else contextlib.nullcontext():
                super().close()

    class PacedFiles(gcsfs.GCSFileSystem):
        def _open(self, *arguments: Any, **options: Any) -> Any:
            file = super()._open(*arguments, **options)
            if type(file) is gcsfs.core.GCSFile:
                file.__class__ = PacedFile
            return file

    return PacedFiles


def handler() -> Any:
    """Returns Orbax's handler of an item, which writes the item's index once.

    Orbax writes the index of a process in one transaction only where it does not limit the bytes
    that are written at once. With a limit (96 GB, which a host hardly reaches) TensorStore writes
    the same object again for every few arrays, and GCS refuses to change one twice a second: a
    checkpoint of any size takes about 10 s of retries.
    """
    import orbax.checkpoint as ocp

    result = ocp.StandardCheckpointHandler()
    # Orbax has no option for it: None is taken for the default
    impl = getattr(getattr(result, "_impl", None), "_handler_impl", None)
    if hasattr(impl, "_save_concurrent_bytes"):
        impl._save_concurrent_bytes = None
    return result


def list_again(remote: Remote) -> None:
    """Lists all checkpoints with one request: gcsfs answers from that what Orbax wants to know.

    What it has listed before is forgotten: others may have changed it.

    Args:
      remote: the directory of the checkpoints.
    """
    import fsspec

    files = fsspec.filesystem("gcs", finalize_on_close=True)  # the instance that etils has
    files.invalidate_cache()
    files.find(str(remote))


def bucket_error(error: BaseException, remote: Remote, action: str) -> BucketError | None:
    """Returns what Orbax raised about a bucket as a message; None for any other error.

    An object that is shorter than it should be is another error.

    Args:
      error: the exception.
      remote: the directory of the checkpoints.
      action: 'read' or 'written'.
    """
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    if any(_TOO_SHORT in str(cause) for cause in causes):
        return None
    for cause in causes:
        is_of_clients = type(cause).__module__.split(".")[0] in _MODULES
        is_of_tensorstore = any(text in str(cause) for text in _OF_TENSORSTORE)
        if isinstance(cause, (OSError, TimeoutError)) or is_of_clients or is_of_tensorstore:
            return explained(cause, remote.scheme, remote.bucket, action)
    return None
