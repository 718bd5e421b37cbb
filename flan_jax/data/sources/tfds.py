"""Rows of TensorFlow Datasets. Only reading and downloading import TensorFlow."""

from __future__ import annotations

import contextlib
import pathlib
import re
import socket
from collections.abc import Iterator
from typing import Any

from flan_jax.catalogue.records import Dataset
from flan_jax.data.sources.network import no_network
from flan_jax.data.sources.slices import parse_spec
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.copies import fetch_all, fetched, name_of, origin, read_path
from flan_jax.storage.files import readable
from flan_jax.storage.hashing import digest

_DOWNLOAD_TIMEOUT_SECONDS = 60
_DOWNLOAD_HOST = "storage.googleapis.com"  # where TFDS looks first


class TfdsSource:
    """TensorFlow Datasets; downloads what is missing.

    Args:
      directory: where datasets are prepared; None for the default of TFDS.
    """

    kind = "tfds"

    def __init__(self, directory: str | pathlib.Path | None = None):
        self.directory = read_path(
            "~/tensorflow_datasets" if directory is None else directory,
            "DATA_DIR",
            wanted=lambda name: False,
        )

    @property
    def data_dir(self) -> str | None:
        """Returns the DATA_DIR that opens the same source again."""
        return name_of(self.directory)

    @property
    def description(self) -> str:
        """Returns which rows the source has, in words."""
        return f"{name_of(self.directory)} (DATA_SOURCE={self.kind})"

    def spec(self, dataset: Dataset, split: str) -> str | None:
        """Returns the slice of a raw split that is our split; None if there is none."""
        return dataset.splits.get(split)

    def prepared(self, dataset: Dataset) -> pathlib.Path | None:
        """Returns the builder's `dataset_info.json` if the data are on disk, else None."""
        if dataset.tfds is None:
            return None
        name, version = dataset.tfds.rsplit(":", 1)
        path = self.directory / name / version / "dataset_info.json"
        return fetched(path) if path.is_file() else None

    def available(self, dataset: Dataset, split: str = "train") -> str | None:
        """Returns None if our split is on disk, else the reason why not."""
        if self.spec(dataset, split) is None:
            return f"has no {split} split"
        if dataset.tfds is None:
            return "is not in TensorFlow Datasets"
        if self.prepared(dataset) is None:
            manual = f"; manual download: {dataset.manual}" if dataset.manual else ""
            return f"{dataset.tfds} is not prepared in {name_of(self.directory)}{manual}"
        return None

    def downloadable(self, dataset: Dataset) -> bool:
        """Returns whether the dataset is not on disk and its builder can download it."""
        return bool(dataset.tfds) and not dataset.manual and self.prepared(dataset) is None

    def download(self, dataset: Dataset) -> str | None:
        """Downloads and prepares a dataset that is not on disk. Imports TensorFlow.

        Returns:
          None, or the reason why it failed.
        """
        if self.prepared(dataset) is not None:
            return None
        if dataset.tfds is None:
            return "is not in TensorFlow Datasets"
        if dataset.manual:
            return f"manual download: {dataset.manual}"
        if origin(self.directory):
            return f"not prepared in a bucket: prepare it on a disk and copy it to {self.data_dir}"
        offline = no_network(_DOWNLOAD_HOST)
        if offline:
            return f"not downloaded, {offline}"
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_SECONDS)
        try:
            self._builder(dataset).download_and_prepare()
        # TFDS and its HTTP client can raise anything; the user needs the reason.
        except Exception as error:
            lines = str(error).strip().splitlines() or ["failed"]
            return f"{type(error).__name__}: {lines[0]}"
        finally:
            socket.setdefaulttimeout(before)
        return None

    def rows(self, dataset: Dataset, spec: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (position in the raw split, raw row as plain Python). Imports TensorFlow.

        Args:
          dataset: a dataset that is available.
          spec: a slice of a raw split.

        Raises:
          UserError: if there is no such split, or the files are damaged.
        """
        import tensorflow_datasets as tfds

        raw_split, part = parse_spec(spec)
        with _readable(f"{dataset.tfds} in {self.directory}"):
            builder = self._builder(dataset)
            if raw_split not in builder.info.splits:
                raise UserError(
                    f"{dataset.tfds} has no split {raw_split!r}, but "
                    f"{', '.join(builder.info.splits)}."
                )
            begin = range(builder.info.splits[raw_split].num_examples)[part].start
            data = builder.as_dataset(
                split=spec,
                shuffle_files=False,
                read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
            )
            for offset, row in enumerate(tfds.as_numpy(data)):
                yield begin + offset, _to_python(row)

    def fingerprint(self, dataset: Dataset, spec: str) -> str:
        """Returns a digest of the builder's name, version and split sizes."""
        return digest([dataset.tfds, self.prepared(dataset).read_text(encoding="utf-8")])

    def manual_steps(self, dataset: Dataset) -> str | None:
        """Returns the steps to fetch the rows by hand, where the builder cannot."""
        return dataset.manual

    def _builder(self, dataset: Dataset):
        import tensorflow as tf
        import tensorflow_datasets as tfds

        tf.config.set_visible_devices([], "GPU")
        if info := self.prepared(dataset):
            fetch_all(path for path in info.parent.iterdir() if path.is_file())
        return tfds.builder(dataset.tfds, data_dir=str(self.directory))


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turns what TFDS and TensorFlow raise for damaged files into one clear message."""
    import tensorflow as tf

    advice = "prepare it again with TFDS"
    try:
        with readable(what, advice):
            yield
    except tf.errors.OpError as error:
        reason = re.sub(r"\{\{.*?\}\} | \[Op:.*", "", error.message)
        raise UserError(f"{what} is not readable ({shown(reason)}); {advice}.") from error


def _to_python(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_python(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if hasattr(value, "tolist"):
        return _to_python(value.tolist())
    if isinstance(value, list | tuple):
        return [_to_python(item) for item in value]
    return value
