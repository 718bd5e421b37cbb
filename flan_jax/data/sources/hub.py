"""Rows of the Hugging Face hub, from parquet or JSON files.

pyarrow and `datasets` read them, without trust_remote_code. The layout of the files is that of the
branch that the hub fills for every dataset (`refs/convert/parquet`):
`<hub id>/<config>/<split>/0000.parquet`, ... `DATA_DIR` names a mirror of it that the user has
made; without one, `flan-jax prepare` downloads what a run needs, and `flan-jax tasks check` reads
the first rows over the network.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import pathlib
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flan_jax.catalogue.fingerprint import code_of
from flan_jax.catalogue.records import Dataset
from flan_jax.config.checks import quoted
from flan_jax.data.sources.network import no_network
from flan_jax.data.sources.slices import in_order, parse_spec, reading_order
from flan_jax.errors import UserError
from flan_jax.messages import first_line, listed
from flan_jax.storage.copies import fetch_all, name_of, read_path
from flan_jax.storage.files import readable
from flan_jax.storage.hashing import digest
from flan_jax.storage.known_digests import known_file_digest

DEFAULT_DIRECTORY = "~/.cache/flan_jax/hub"

REVISION = "refs/convert/parquet"
# The hub names a split 'partial-...' if it converted only the first gigabytes of it.
_PREFIXES = ("", "partial-")
_SUFFIXES = (".parquet", ".jsonl", ".json")
_BATCH_ROWS = 1000
_NO_COPY = "has no copy on the Hugging Face hub that can be read without trust_remote_code"


class HubSource:
    """The Hugging Face hub, or a mirror of it.

    Args:
      directory: a mirror that the user has made; None for the hub itself.

    Raises:
      UserError: if the package `datasets` is not installed, or there is no such directory.
    """

    kind = "hf"

    def __init__(self, directory: str | pathlib.Path | None = None):
        if importlib.util.find_spec("datasets") is None:
            raise UserError(
                "DATA_SOURCE=hf reads with the package datasets, which is not installed; run "
                "pip install 'flan_jax[hf]'."
            )
        self.mirror = directory is not None
        self.directory = read_path(
            DEFAULT_DIRECTORY if directory is None else directory,
            "DATA_DIR",
            wanted=lambda name: False,
        )
        if self.mirror and not self.directory.is_dir():
            raise UserError(
                f"DATA_DIR {str(directory)!r} is not a directory; give one that holds "
                "<hub id>/<config>/<split>/*.parquet, or leave it out to read from the hub."
            )
        self._listings: dict[tuple[str, str], list[Any] | str] = {}
        self._counts: dict[str, int] = {}
        self._digests: dict[pathlib.Path, str] = {}
        self._unreachable: str | None = None

    @property
    def data_dir(self) -> str | None:
        """Returns the DATA_DIR that opens the same source again; None for the hub itself."""
        return name_of(self.directory) if self.mirror else None

    @property
    def description(self) -> str:
        """Returns which rows the source has, in words."""
        return f"{name_of(self.directory)} (DATA_SOURCE={self.kind})"

    def spec(self, dataset: Dataset, split: str) -> str | None:
        """Returns the slice of a raw split that is our split; None if there is none."""
        return dataset.splits.get(split)

    def available(self, dataset: Dataset, split: str = "train") -> str | None:
        """Returns None if our split is on disk or on the hub, else the reason why not."""
        spec = self.spec(dataset, split)
        if spec is None:
            return f"has no {split} split"
        if dataset.hub is None:
            return _NO_COPY
        raw_split, part = parse_spec(spec)
        files = self._local(dataset, raw_split)
        if files:
            count = sum(map(self._count, files))
            if range(count)[part]:
                return None
            return f"{spec} is empty: {files[0].parent} has {count} rows"
        folder = (
            self.directory / dataset.hub.id / dataset.hub.config / _hub_split(dataset, raw_split)
        )
        if self.mirror:
            return f"no parquet or JSON file in {folder}"
        files = self._remote(dataset, raw_split)
        return files if isinstance(files, str) else None

    def downloadable(self, dataset: Dataset) -> bool:
        """Returns whether the dataset has a copy on the hub and is not on disk."""
        return (
            not self.mirror
            and dataset.hub is not None
            and any(not self._local(dataset, raw_split) for raw_split in _needed(dataset))
        )

    def download(self, dataset: Dataset) -> str | None:
        """Downloads the files of a dataset that are not on disk; returns None, or why it failed."""
        for raw_split in _needed(dataset) if self.downloadable(dataset) else ():
            if not self._local(dataset, raw_split):
                files = self._remote(dataset, raw_split)
                reason = files if isinstance(files, str) else self._download(dataset, files)
                if reason:
                    return reason
        return None

    def rows(self, dataset: Dataset, spec: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (position in the raw split, row as the row function reads it).

        Raises:
          UserError: if there are no files of the raw split, or they lack a field of the record.
        """
        files = self._files(dataset, parse_spec(spec)[0])
        if isinstance(files, str):
            raise UserError(f"{dataset.name} {files}.")
        for positions in reading_order(dataset, spec, sum(map(self._count, files))):
            yield from in_order(positions, functools.partial(self._rows_at, dataset, files))

    def manual_steps(self, dataset: Dataset) -> str | None:
        """Returns the steps to fetch the rows by hand from TensorFlow Datasets, if only it can."""
        if dataset.hub is None and dataset.manual:
            return f"only with --source=tfds: {dataset.manual}"
        return None

    def _rows_at(
        self, dataset: Dataset, files: Sequence[pathlib.Path | str], positions: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """(position, row) of ascending positions in the files of a raw split."""
        begin = 0
        for file in files:
            end = begin + self._count(file)
            within = positions[slice(*np.searchsorted(positions, [begin, end]))]
            if len(within):
                for index, row, classes in _read(str(file), begin, within):
                    yield index, _as_tfds(dataset, row, classes)
            begin = end

    def fingerprint(self, dataset: Dataset, spec: str) -> str:
        """Returns a digest of the record's Hub and of the files of the slice.

        It is of the bytes of files on disk, and of names and versions of files on the hub.
        """
        raw_split = parse_spec(spec)[0]
        hub = dataset.hub
        record = [hub.id, hub.config, _hub_split(dataset, raw_split)]
        if hub.rename or hub.classes or hub.row:
            record.append(code_of([hub.rename, hub.classes, hub.row], f"the Hub of {dataset.name}"))
        files = self._local(dataset, raw_split)
        if files:
            for file in files:
                if file not in self._digests:
                    self._digests[file] = known_file_digest(file)
            return digest([record, [(file.name, self._digests[file]) for file in files]])
        listing = self._listing(dataset)
        return digest(
            [
                record,
                listing if isinstance(listing, str) else [(f.path, f.blob_id) for f in listing],
            ]
        )

    def _files(self, dataset: Dataset, raw_split: str) -> Sequence[pathlib.Path | str] | str:
        """The files of a raw split, those on disk if there are any; or why there are none."""
        if dataset.hub is None:
            return _NO_COPY
        files = self._local(dataset, raw_split)
        if files:
            return files
        if self.mirror:
            return (
                f"has no files of {raw_split!r} in "
                f"{self.directory / dataset.hub.id / dataset.hub.config}"
            )
        files = self._remote(dataset, raw_split)
        if isinstance(files, str):
            return files
        return [f"hf://datasets/{dataset.hub.id}@{REVISION}/{f}" for f in files]

    def _local(self, dataset: Dataset, raw_split: str) -> list[pathlib.Path]:
        config = self.directory / dataset.hub.id / dataset.hub.config
        for prefix in _PREFIXES:
            folder = config / f"{prefix}{_hub_split(dataset, raw_split)}"
            entries = folder.glob("*") if folder.is_dir() else ()
            files = sorted(entry for entry in entries if entry.suffix in _SUFFIXES)
            if files:
                fetch_all(files)
                return files
        return []

    def _remote(self, dataset: Dataset, raw_split: str) -> list[str] | str:
        """Paths of the files of a raw split within the hub's branch, or why there are none."""
        listing = self._listing(dataset)
        if isinstance(listing, str):
            return listing
        for prefix in _PREFIXES:
            folder = f"{dataset.hub.config}/{prefix}{_hub_split(dataset, raw_split)}/"
            files = sorted(
                f.path for f in listing if f.path.startswith(folder) and f.path.endswith(".parquet")
            )
            if files:
                return files
        return (
            f"has no split {dataset.hub.config}/{_hub_split(dataset, raw_split)} among the parquet "
            f"files of {dataset.hub.id}"
        )

    def _listing(self, dataset: Dataset) -> list[Any] | str:
        """The files of a configuration on the hub, requested once; or why there are none."""
        key = (dataset.hub.id, dataset.hub.config)
        if key not in self._listings:
            self._listings[key] = self._unreachable or offline() or self._request_listing(*key)
        return self._listings[key]

    def _request_listing(self, repository: str, config: str) -> list[Any] | str:
        import huggingface_hub
        from huggingface_hub import errors

        try:
            entries = huggingface_hub.HfApi().list_repo_tree(
                repository, config, recursive=True, revision=REVISION, repo_type="dataset"
            )
            return [entry for entry in entries if hasattr(entry, "blob_id")]
        except errors.GatedRepoError:
            return (
                f"{repository} needs a login: accept its terms on its page on the hub and run "
                "hf auth login"
            )
        except errors.RevisionNotFoundError:
            return f"{repository} has no parquet files made by the hub ({REVISION})"
        except errors.RepositoryNotFoundError:
            return f"{repository} is not on the hub, or needs a login (hf auth login)"
        except errors.EntryNotFoundError:
            return f"{repository} has no configuration {config!r} among its parquet files"
        # The HTTP client can raise anything; the user needs the reason.
        except Exception as error:
            self._unreachable = f"the hub cannot be reached ({first_line(error)})"
            return self._unreachable

    def _download(self, dataset: Dataset, files: list[str]) -> str | None:
        import huggingface_hub

        # A split is renamed to its place when it is complete, so that a part is never read.
        unfinished = self.directory / "unfinished" / dataset.hub.id
        try:
            for name in files:
                huggingface_hub.hf_hub_download(
                    dataset.hub.id,
                    name,
                    repo_type="dataset",
                    revision=REVISION,
                    local_dir=unfinished,
                )
            folder = pathlib.PurePosixPath(files[0]).parent
            target = self.directory / dataset.hub.id / folder
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(unfinished / folder, target)
        except Exception as error:  # as in `_request_listing`
            return f"not downloaded ({first_line(error)})"
        return None

    def _count(self, file: pathlib.Path | str) -> int:
        name = str(file)
        if name not in self._counts:
            self._counts[name] = (
                _parquet_rows(name)
                if name.endswith(".parquet")
                else sum(len(table) for table, _ in _tables(name))
            )
        return self._counts[name]


def _hub_split(dataset: Dataset, raw_split: str) -> str:
    return dataset.hub.splits.get(raw_split, raw_split)


def _needed(dataset: Dataset) -> list[str]:
    """The raw splits that our splits are taken from."""
    return list(dict.fromkeys(parse_spec(spec)[0] for spec in dataset.splits.values()))


def _parquet_rows(file: str) -> int:
    """Rows of a parquet file, from its footer."""
    import fsspec
    import pyarrow.parquet

    with _readable(file), fsspec.open(file, "rb") as opened:
        return pyarrow.parquet.ParquetFile(opened).metadata.num_rows


def _tables(file: str) -> Iterator[tuple[Any, Any]]:
    """Yields (Arrow table of some rows, their `datasets.Features` or None) of a JSON file."""
    import datasets

    with _readable(file):
        data = datasets.load_dataset("json", data_files=file, split="train", streaming=True)
        for table in data.with_format("arrow").iter(batch_size=_BATCH_ROWS):
            yield table, data.features


def _parquet_tables(file: str, wanted: np.ndarray) -> Iterator[tuple[Any, Any]]:
    """As `_tables` for a parquet file; of a row group without wanted rows only the length."""
    import datasets
    import fsspec
    import pyarrow.parquet

    with _readable(file), fsspec.open(file, "rb") as opened:
        parquet = pyarrow.parquet.ParquetFile(opened)
        features = datasets.Features.from_arrow_schema(parquet.schema_arrow)
        begin = 0
        for group in range(parquet.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            first, last = np.searchsorted(wanted, [begin, begin + count])
            if first == last:
                yield range(count), None
            else:
                for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group]):
                    yield pyarrow.Table.from_batches([batch]), features
            begin += count


def _read(
    file: str, begin: int, wanted: np.ndarray
) -> Iterator[tuple[int, dict[str, Any], dict[str, list[str]]]]:
    """Yields (position, row, field -> class names) of wanted rows of a file, ascending.

    Args:
      file: a path or a URL of fsspec.
      begin: position of the first row of the file in its raw split.
      wanted: positions in the raw split.
    """
    tables = _parquet_tables(file, wanted - begin) if file.endswith(".parquet") else _tables(file)
    for table, features in tables:
        within = wanted[slice(*np.searchsorted(wanted, [begin, begin + len(table)]))]
        if len(within):
            classes = {
                name: feature.names
                for name, feature in (features or {}).items()
                if hasattr(feature, "names")
            }
            for position, row in zip(within.tolist(), table.take(within - begin).to_pylist()):
                yield position, row, classes
        begin += len(table)
        if begin > wanted[-1]:
            return


@contextlib.contextmanager
def _readable(file: str) -> Iterator[None]:
    """Turns what the readers of parquet and JSON raise into one clear message."""
    import pyarrow

    # Its import takes seconds, and counting rows does not need it.
    datasets = sys.modules.get("datasets")
    errors = (datasets.exceptions.DatasetsError,) if datasets else ()
    try:
        with readable(file, "fetch it again"):
            yield
    except (pyarrow.ArrowException, *errors) as error:
        raise UserError(f"{file} is not readable ({first_line(error)}); fetch it again.") from error


def _as_tfds(
    dataset: Dataset, row: dict[str, Any], classes: dict[str, list[str]]
) -> dict[str, Any]:
    """A row of the hub in the fields, and with the class numbers, that the row function reads."""
    hub = dataset.hub
    for ours, theirs in hub.rename.items():
        if theirs not in row:
            raise UserError(
                f"the files of {dataset.name} have no field {theirs!r}, but {listed(row, 10)}; are "
                f"they of {hub.id}, configuration {hub.config}?"
            )
        row[ours] = row.pop(theirs)
    for field, order in hub.classes.items():
        row[field] = _class(
            dataset, field, row[field], classes.get(hub.rename.get(field, field)), order
        )
    try:
        return hub.row(row) if hub.row else row
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"a row of {dataset.name} does not have the fields of the hub "
            f"({type(error).__name__}: {error}); it has {listed(row, 10)}."
        ) from error


def _class(
    dataset: Dataset, field: str, value: Any, names: list[str] | None, order: tuple[str, ...]
) -> int:
    """The number of a class in our order, by its name."""
    if isinstance(value, int) and names is not None:
        value = names[value] if 0 <= value < len(names) else value
    if value not in order:
        raise UserError(
            f"the field {field!r} of {dataset.name} is {quoted(value)}, which is not one of its "
            f"classes ({', '.join(order)}); the files must have the names of the classes."
        )
    return order.index(value)


@functools.cache
def offline() -> str | None:
    """Why the hub cannot be reached, or None if it can; determined once."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "is not on disk, and HF_HUB_OFFLINE is set"
    address = urllib.parse.urlsplit(constants.ENDPOINT)
    reason = no_network(address.hostname, address.port or (80 if address.scheme == "http" else 443))
    return reason and f"is not on disk, and {reason}"
