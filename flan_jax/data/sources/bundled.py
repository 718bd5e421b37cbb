"""The rows shipped with the package: about 24 a dataset, written for this project."""

from __future__ import annotations

import importlib.resources

from flan_jax.catalogue.records import Dataset
from flan_jax.config.checks import quoted
from flan_jax.data.sources.jsonl import JsonlSource
from flan_jax.errors import UserError


class BundledSource(JsonlSource):
    """The rows in `flan_jax/tasks/rows`, one file for each of our splits.

    Args:
      data_dir: must be None.

    Raises:
      UserError: for a directory, which has no effect.
    """

    kind = "bundled"
    data_dir = None
    description = (
        "the rows bundled with the package (DATA_SOURCE=bundled), some 24 a dataset, for trying "
        "things out"
    )

    def __init__(self, data_dir: str | None = None):
        if data_dir is not None:
            raise UserError(
                f"DATA_DIR {quoted(data_dir)} has no effect on the rows bundled with the "
                "package; set DATA_SOURCE to 'jsonl', 'hf' or 'tfds' to read from there, or leave "
                "DATA_DIR out."
            )
        super().__init__(str(importlib.resources.files("flan_jax.tasks") / "rows"))

    def spec(self, dataset: Dataset, split: str) -> str | None:
        """Returns the split itself, since there is one file for each; None if there is none."""
        return split if split in dataset.splits else None
