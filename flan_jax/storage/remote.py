"""Objects of a bucket, by names that behave like paths only where buckets do.

A `Remote` has no `__fspath__`: `open(remote)` fails instead of making a directory `gs:`. It cannot
be renamed or appended to, and has no directories to make: buckets have none of these.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import urllib.parse
import uuid
from typing import TYPE_CHECKING, Any

from flan_jax.storage.bucket_errors import bucket_errors
from flan_jax.storage.pace import paced

if TYPE_CHECKING:
    import tensorstore

_log = logging.getLogger(__name__)

DRIVERS = {"gs": "gcs", "s3": "s3"}
# TensorStore's own 32 retries take minutes before an outage is reported.
RETRIES = {"max_retries": 8, "initial_delay": "500ms", "max_delay": "32s"}
# What other clients read for another server than Google's or Amazon's, and TensorStore's name.
GS_ENDPOINT, _GS_ENDPOINT_OF_TENSORSTORE = "STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"
S3_ENDPOINT = "AWS_ENDPOINT_URL"


@dataclasses.dataclass(frozen=True, order=True)
class Remote:
    """An object of a bucket, or what its objects' names begin with, as if it were a directory.

    Attributes:
      scheme: 'gs' or 's3'.
      bucket: its name.
      key: the name in the bucket, without slashes at its ends.
    """

    scheme: str
    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> Remote:
        """Returns what `name`, relative to this, stands for."""
        return dataclasses.replace(self, key=f"{self.key}/{name}".strip("/"))

    @property
    def name(self) -> str:
        """The last part of the name; empty for the bucket itself."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The end of `name` from its last dot on; empty without one."""
        return os.path.splitext(self.name)[1]

    @property
    def parent(self) -> Remote:
        """The name without its last part; the bucket is its own parent."""
        return dataclasses.replace(self, key=self.key.rpartition("/")[0])

    def kvstore(self) -> tensorstore.KvStore:
        """Returns TensorStore's store of the objects below this name."""
        store = _bucket(self.scheme, self.bucket).copy()
        store.path = f"{self.key}/" if self.key else ""
        return store

    def store_spec(self) -> dict[str, Any]:
        """Returns TensorStore's specification of `kvstore`, to be a part of another one."""
        spec = self.kvstore().spec().to_json()
        return spec | {f"{DRIVERS[self.scheme]}_request_retries": RETRIES}

    def read_bytes(self, begin: int = 0, end: int | None = None) -> bytes:
        """Returns the contents, or the bytes from `begin` to before `end`.

        Raises:
          FileNotFoundError: if there is no such object.
          BucketError: if it cannot be read.
        """
        with self._reaching("read"):
            whole = begin == 0 and end is None
            byte_range = None if whole else slice(begin, end)
            result = self._bucket().read(self.key, byte_range=byte_range).result()
        if result.state == "missing":
            raise FileNotFoundError(2, "no such object", str(self))
        return result.value

    def read_text(self) -> str:
        """Returns the contents, UTF-8, as a text; see `read_bytes`."""
        return self.read_bytes().decode()

    def read_version(self) -> tuple[bytes | None, bytes]:
        """Returns the contents, None if there is no such object, and the generation.

        Raises:
          BucketError: if it cannot be read.
        """
        with self._reaching("read"):
            result = self._bucket().read(self.key).result()
        return None if result.state == "missing" else result.value, result.stamp.generation

    def read_versions(self, names: list[str]) -> list[tuple[bytes | None, bytes]]:
        """Returns `read_version` of several objects below this name, read at the same time.

        Raises:
          BucketError: if one cannot be read.
        """
        with self._reaching("read"):
            store = self.kvstore()
            results = [future.result() for future in [store.read(name) for name in names]]
        return [
            (None if result.state == "missing" else result.value, result.stamp.generation)
            for result in results
        ]

    def generation(self) -> bytes | None:
        """Returns the generation, which changes with the contents; None without such an object.

        Raises:
          BucketError: if it cannot be read.
        """
        with self._reaching("read"):
            result = self._bucket().read(self.key, byte_range=slice(0, 0)).result()
        return None if result.state == "missing" else result.stamp.generation

    def write_bytes(
        self, contents: bytes | str, if_generation: bytes | None = None
    ) -> bytes | None:
        """Writes the object, text as UTF-8, whole or not at all.

        Args:
          contents: of the object.
          if_generation: write only where the object still has this generation (that of a missing
            one: `read_version`).

        Returns:
          The generation; None where another process was first. A write that was repeated after a
          lost answer may return None, too: read again.

        Raises:
          BucketError: if it cannot be written.
        """
        contents = contents.encode() if isinstance(contents, str) else contents
        with self._changing(), self._reaching("written"):
            future = self._bucket().write(self.key, contents, if_equal=if_generation)
            return future.result().generation or None

    def delete(self, if_generation: bytes | None = None) -> None:
        """Deletes the object, if there is one; not what is below its name.

        Args:
          if_generation: delete only where the object still has this generation.

        Raises:
          BucketError: if it cannot be deleted.
        """
        with self._changing(), self._reaching("deleted"):
            self._bucket().write(self.key, None, if_equal=if_generation).result()

    def exists(self) -> bool:
        """Returns whether there is such an object, or one below this name.

        Raises:
          BucketError: if the bucket cannot be read.
        """
        return bool(self.key) and self.generation() is not None or bool(self.names())

    def names(self) -> list[str]:
        """Returns the names of all objects below this name, relative to it, sorted.

        Raises:
          BucketError: if the bucket cannot be listed.
        """
        with self._reaching("listed"):
            names = self.kvstore().list().result()
            if not names:
                # TensorStore takes a list that is refused for an empty one. Whoever may not list
                # may not learn either that an object does not exist.
                self.kvstore().read(".none", byte_range=slice(0, 0)).result()
        # some programs mark a directory by an empty object whose name ends in a slash
        return sorted(name for name in map(bytes.decode, names) if name and name[-1] != "/")

    def children(self) -> list[Remote]:
        """Returns what is directly below this name, sorted.

        Raises:
          BucketError: if the bucket cannot be listed.
        """
        return [self / name for name in sorted({name.split("/")[0] for name in self.names()})]

    def check_writable(self) -> None:
        """Writes an object below this name and deletes it.

        Only a write without a condition tells a bucket that does not exist from an empty one.

        Raises:
          BucketError: if the bucket does not exist, or cannot be written.
        """
        probe = self / f".writable.{uuid.uuid4().hex[:8]}"
        probe.write_bytes(b"")
        probe.delete()

    def _bucket(self) -> tensorstore.KvStore:
        return _bucket(self.scheme, self.bucket)

    def _changing(self) -> contextlib.AbstractContextManager[None]:
        is_paced = self.scheme == "gs"
        return paced(f"{self.bucket}/{self.key}") if is_paced else contextlib.nullcontext()

    def _reaching(self, action: str):
        return bucket_errors(self.scheme, self.bucket, action)


@functools.cache
def _bucket(scheme: str, bucket: str) -> tensorstore.KvStore:
    """The store of a whole bucket; TensorStore keeps its connections."""
    import tensorstore as ts

    spec = {"driver": DRIVERS[scheme], "bucket": bucket}
    endpoint = set_endpoint(scheme)
    if scheme == "s3":
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if endpoint:
            spec |= {"endpoint": endpoint, "aws_region": region or "us-east-1"}
        elif region:
            spec["aws_region"] = region
        spec["use_conditional_write"] = True
        if os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY"):
            # they go before the files in ~/.aws, which the client would report as missing
            spec["aws_credentials"] = {"type": "environment"}
    context = ts.Context({"gcs_request_retries": RETRIES, "s3_request_retries": RETRIES})
    with bucket_errors(scheme, bucket, "opened"):
        return ts.KvStore.open(spec, context=context).result()


@functools.cache
def set_endpoint(scheme: str) -> str | None:
    """Returns the server that variables of the environment name in place of the provider's.

    The clients of gs:// read different variables: each gets the same value. What is set is logged,
    so that no one writes to another server unawares.
    """
    if scheme == "s3":
        endpoint, variable = os.environ.get(S3_ENDPOINT), S3_ENDPOINT
    else:
        names = (GS_ENDPOINT, _GS_ENDPOINT_OF_TENSORSTORE)
        variable = next((name for name in names if os.environ.get(name)), GS_ENDPOINT)
        endpoint = os.environ.get(variable)
        if endpoint:
            endpoint = endpoint if "://" in endpoint else f"http://{endpoint}"
            os.environ |= dict.fromkeys(names, endpoint)
    if endpoint:
        host = urllib.parse.urlsplit(endpoint).netloc.rpartition("@")[2]
        _log.warning("%s:// is served by %s (%s is set)", scheme, host, variable)
    return endpoint or None


def forget_buckets() -> None:
    """Closes all buckets: the next use reads the environment again."""
    _bucket.cache_clear()
    set_endpoint.cache_clear()
