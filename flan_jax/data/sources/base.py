"""What a source of rows offers, and whether a dataset has rows in it.

A new source is one file beside this one with a class that has the attributes of `Source`, and its
line in `kinds.py`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from flan_jax.catalogue.records import Dataset
from flan_jax.catalogue.registry import Catalogue


class Source(Protocol):
    """Where raw rows come from.

    Attributes:
      kind: its value of DATA_SOURCE.
      directory: where its rows are.
      data_dir: the DATA_DIR that opens the same source again; None for none.
      description: which rows it has, in words.
    """

    kind: str
    directory: pathlib.Path

    @property
    def data_dir(self) -> str | None:
        """Returns the DATA_DIR that opens the same source again; None for none."""

    @property
    def description(self) -> str:
        """Returns which rows the source has, in words."""

    def spec(self, dataset: Dataset, split: str) -> str | None:
        """Returns the slice of a raw split that is our split of the dataset; None if it has none.

        Args:
          dataset: a dataset of the catalogue.
          split: 'train', 'validation' or 'test'.
        """

    def available(self, dataset: Dataset, split: str = "train") -> str | None:
        """Returns None if our split has rows here, else the reason why not."""

    def rows(self, dataset: Dataset, spec: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (position in the raw split, raw row as plain Python) for each row of a slice."""

    def fingerprint(self, dataset: Dataset, spec: str) -> str:
        """Returns a digest of the rows of a slice: a token cache of other rows is never used."""

    def downloadable(self, dataset: Dataset) -> bool:
        """Returns whether the dataset is not on disk and `download` can fetch it."""

    def download(self, dataset: Dataset) -> str | None:
        """Downloads a dataset that is `downloadable`; returns None, or the reason it failed."""

    def manual_steps(self, dataset: Dataset) -> str | None:
        """Returns the steps to fetch the rows by hand; None where `download` can, or nobody can."""


def unavailable(source: Source, dataset: Dataset, split: str, shots: bool = False) -> str | None:
    """Returns None if a split of a dataset, and its exemplars, have rows here, else the reason.

    Args:
      source: where rows come from.
      dataset: a dataset of the catalogue.
      split: 'train', 'validation' or 'test'.
      shots: whether there are exemplars before rows; they are training rows.
    """
    reason = source.available(dataset, split)
    if reason is None and shots:
        no_training_rows = source.available(dataset, "train")
        if no_training_rows:
            return f"has no exemplars: its training side {no_training_rows}"
    return reason


def counts_once(
    catalogue: Catalogue, dataset: Dataset, names: Iterable[str], source: Source
) -> str | None:
    """Returns the reason if the rows of a dataset train already as those of another one, else None.

    Args:
      catalogue: the registered datasets.
      dataset: a dataset that could train.
      names: the datasets that train.
      source: where rows come from.
    """
    twin = dataset.shares_training_with
    if twin in names and source.available(catalogue[twin], "train") is None:
        return f"has the training rows of {twin} and counts once"
    return None
