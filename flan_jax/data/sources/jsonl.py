"""Rows in JSON lines that a user has written: `<DATA_DIR>/<configuration>/<raw split>.jsonl`."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

from flan_jax.catalogue.records import Dataset
from flan_jax.data.sources.jsonl_files import count_jsonl, rows_at
from flan_jax.data.sources.slices import in_order, parse_spec, reading_order
from flan_jax.errors import UserError
from flan_jax.storage.copies import fetched, name_of, read_path
from flan_jax.storage.known_digests import known_file_digest


class JsonlSource:
    """The files `<directory>/<configuration>/<raw split>.jsonl`, in the field names of TFDS.

    Args:
      directory: the value of DATA_DIR.

    Raises:
      UserError: if it is None, or not a directory.
    """

    kind = "jsonl"

    def __init__(self, directory: str | pathlib.Path | None):
        if directory is None:
            raise UserError(
                "DATA_SOURCE=jsonl needs DATA_DIR, a directory that holds <dataset>/<split>.jsonl."
            )
        self.directory = read_path(directory, "DATA_DIR", wanted=lambda name: False)
        if not self.directory.is_dir():
            raise UserError(
                f"DATA_DIR {str(directory)!r} is not a directory; give one that holds "
                "<dataset>/<split>.jsonl."
            )
        self._counts: dict[pathlib.Path, int] = {}

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

    def path(self, dataset: Dataset, raw_split: str) -> pathlib.Path:
        """Returns the file of a raw split."""
        path = self.directory / dataset.name / f"{raw_split}.jsonl"
        return fetched(path) if path.is_file() else path

    def available(self, dataset: Dataset, split: str = "train") -> str | None:
        """Returns None if our split has rows here, else the reason why not."""
        spec = self.spec(dataset, split)
        if spec is None:
            return f"has no {split} split"
        raw_split, part = parse_spec(spec)
        path = self.path(dataset, raw_split)
        if not path.is_file():
            return f"no file {path}"
        count = self._count(path)
        if not range(count)[part]:
            return f"{spec} is empty: {path} has {count} rows"
        return None

    def rows(self, dataset: Dataset, spec: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (position in the raw split, raw row) for each row of a slice."""
        raw_split = parse_spec(spec)[0]
        path = self.path(dataset, raw_split)
        if not path.is_file():
            raise UserError(
                f"{dataset.name} has no raw split {raw_split!r} here: there is no file {path}."
            )
        for positions in reading_order(dataset, spec, self._count(path)):
            yield from in_order(positions, functools.partial(rows_at, path))

    def fingerprint(self, dataset: Dataset, spec: str) -> str:
        """Returns a digest of the file that holds the slice."""
        return known_file_digest(self.path(dataset, parse_spec(spec)[0]))

    def downloadable(self, dataset: Dataset) -> bool:
        """Returns False: these rows are on disk or nowhere."""
        return False

    def download(self, dataset: Dataset) -> str | None:
        """Returns None: there is nothing to download."""
        return None

    def manual_steps(self, dataset: Dataset) -> str | None:
        """Returns None: the user writes these rows."""
        return None

    def _count(self, path: pathlib.Path) -> int:
        if path not in self._counts:
            self._counts[path] = count_jsonl(path)
        return self._counts[path]
