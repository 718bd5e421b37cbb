"""The files of one part of MIXTURE_OR_TASK_NAME, as a source of rows.

In a directory, files whose names have the word train, validation (valid, val, dev) or test are
those splits, and others train; files in directories of such names are those splits, too, as those
of the hub are. Without a validation file, the last 200 rows by hash of their
position are for validation, and no more than a tenth of the rows.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax.catalogue.records import Dataset
from flan_jax.config.checks import quoted
from flan_jax.data.sources import file_rows
from flan_jax.data.sources.slices import in_order, parse_spec, reading_order
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, listed, nearest, shown
from flan_jax.storage.copies import copy_of, name_of, origin, read_path
from flan_jax.storage.files import readable
from flan_jax.storage.hashing import digest
from flan_jax.storage.known_digests import known_file_digest
from flan_jax.storage.places import is_remote

# Rows for validation where no file has them: so many, and one of so many.
VALIDATION_ROWS, VALIDATION_PART = 200, 10

_WORDS = {
    "train": "train",
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    "test": "test",
}
_WORD = re.compile("[a-z]+")
_SETTING = "MIXTURE_OR_TASK_NAME"


class OwnFiles:
    """The rows of a file or a directory; a source of one dataset.

    Attributes:
      path: of the file or directory.
      files: raw split -> its files.

    Args:
      path: of an existing file or directory.

    Raises:
      UserError: if it has no file of a known kind, or none to train on.
    """

    kind = "files"
    data_dir = None

    def __init__(self, path: pathlib.Path):
        self.path, self.directory = path, path.parent
        self.files = _files_by_split(path)
        self._digests: dict[pathlib.Path, str] = {}
        self._counts: dict[pathlib.Path, int] = {}

    @property
    def description(self) -> str:
        """Returns which rows the source has, in words."""
        return name_of(self.path)

    @functools.cached_property
    def counts(self) -> dict[str, int]:
        """Returns the number of rows of each raw split, damaged ones included."""
        return {split: sum(map(self._count, files)) for split, files in self.files.items()}

    @functools.cached_property
    def splits(self) -> dict[str, str]:
        """Returns the slices of `Dataset.splits`."""
        splits = {split: split for split in self.files}
        if "validation" not in splits:
            held = min(VALIDATION_ROWS, self.counts["train"] // VALIDATION_PART)
            if held:
                splits |= {"train": f"train[:-{held}]", "validation": f"train[-{held}:]"}
        return splits

    @property
    def unread(self) -> list[str]:
        """Returns the files of a directory that are of no known kind, and its other directories."""
        if not self.path.is_dir():
            return []
        read = {self.path, *_split_folders(self.path)}
        entries = [entry for folder in read for entry in folder.iterdir() if entry not in read]
        return sorted(
            f"{entry.relative_to(self.path)}{'/' * entry.is_dir()}"
            for entry in entries
            if not entry.name.startswith(".")
            and (entry.is_dir() or file_rows.kind_of(entry) is None)
        )

    def spec(self, dataset: Dataset, split: str) -> str | None:
        """Returns the slice of a raw split that is our split; None if there is none."""
        return dataset.splits.get(split)

    def available(self, dataset: Dataset, split: str = "train") -> str | None:
        """Returns None if our split has rows here, else the reason why not."""
        spec = self.spec(dataset, split)
        if spec is None:
            return f"has no {split} rows"
        return None if self.counts[parse_spec(spec)[0]] else f"{self.path} has no rows"

    def rows(self, dataset: Dataset, spec: str) -> Iterator[tuple[int, file_rows.Row]]:
        """Yields (position in the raw split, record) for each row of a slice."""
        split = parse_spec(spec)[0]
        if split not in self.files:
            raise UserError(f"{self.path} has no split {split!r}; it has {', '.join(self.files)}.")
        for positions in reading_order(dataset, spec, self.counts[split]):
            yield from in_order(positions, functools.partial(self._rows_at, split))

    def first_records(self, count: int) -> list[Mapping[str, Any]]:
        """Returns the first training records that are not damaged."""
        rows = itertools.chain.from_iterable(map(file_rows.read_rows, self.files["train"]))
        return list(itertools.islice((row for row in rows if isinstance(row, dict)), count))

    def fingerprint(self, dataset: Dataset, spec: str) -> str:
        """Returns a digest of the files of a slice, and of how they are read."""
        files = self.files[parse_spec(spec)[0]]
        for path in files:
            if path not in self._digests:
                with readable(path, "check its permissions"):
                    self._digests[path] = known_file_digest(path)
        named = [(path.name, self._digests[path]) for path in files]
        return digest([named, inspect.getsource(file_rows)])

    def downloadable(self, dataset: Dataset) -> bool:
        """Returns False: these rows are on disk."""
        return False

    def download(self, dataset: Dataset) -> str | None:
        """Returns None: there is nothing to download."""
        return None

    def manual_steps(self, dataset: Dataset) -> str | None:
        """Returns None: the user brings these rows."""
        return None

    def _count(self, path: pathlib.Path) -> int:
        if path not in self._counts:
            self._counts[path] = file_rows.count_rows(path)
        return self._counts[path]

    def _rows_at(self, split: str, positions: np.ndarray) -> Iterator[tuple[int, file_rows.Row]]:
        """(position, record) of ascending positions in the files of a raw split."""
        begin = 0
        for path in self.files[split]:
            count = self._count(path)
            within = positions[slice(*np.searchsorted(positions, [begin, begin + count]))]
            wanted = iter((within - begin).tolist())
            number = next(wanted, None)
            for index, row in enumerate(file_rows.read_rows(path) if len(within) else ()):
                if index == number:
                    yield begin + index, row
                    number = next(wanted, None)
                    if number is None:
                        break
            begin += count


def paths_of(name: str) -> list[pathlib.Path]:
    """Returns the files and directories of a name: one, or those that a pattern with `*` matches.

    Raises:
      UserError: if there is none; it has the place where it was looked for.
    """
    if "*" not in name:
        path = read_path(name, _SETTING, file_rows.kind_of)
        if not path.exists():
            raise UserError(_not_found(name, path))
        return [path]
    paths, looked_for = _matching(name)
    if not paths:
        raise UserError(
            f"nothing matches {quoted(name)} (looked for {looked_for}); "
            f"it takes files of the kinds {file_rows.KINDS_IN_WORDS}, and directories of them."
        )
    return paths


def _matching(name: str) -> tuple[list[pathlib.Path], str]:
    """The files and directories that a pattern matches, and the whole pattern."""
    # of a bucket, everything below the last directory that is no pattern is listed
    begin = name[: name.index("*")].rpartition("/")[0]
    if is_remote(begin):
        root = read_path(begin, _SETTING, wanted=lambda name: False)
        pattern, looked_for = name[len(begin) + 1 :], name
    else:
        # as in a bucket: directories before the first `*` are no pattern, whatever their names
        absolute = pathlib.Path(name).expanduser().absolute()
        looked_for = str(absolute)
        root = pathlib.Path(looked_for[: looked_for.index("*")].rpartition("/")[0] or "/")
        pattern = str(absolute.relative_to(root))
    matches = sorted(match for match in root.glob(pattern) if not match.name.startswith("."))
    paths = [match for match in matches if match.is_dir() or file_rows.kind_of(match)]
    if is_remote(begin):
        paths = [copy_of(origin(path), file_rows.kind_of) for path in paths]
    return paths, looked_for


def _not_found(name: str, path: pathlib.Path) -> str:
    if is_remote(name):
        return f"no file {quoted(name)} in the bucket; give the name of one that is there."
    folder = path.absolute().parent
    others = [other.name for other in folder.iterdir()] if folder.is_dir() else []
    where = f"looked for {path.absolute()}"
    if not folder.is_dir():
        where += f", and there is no directory {folder}"
    hint = did_you_mean(nearest(path.name, others), "; give the path from where you run this.")
    return f"no file {quoted(name)} ({where}){hint}"


def _files_by_split(path: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    if not path.is_dir():
        if file_rows.kind_of(path) is None:
            raise UserError(
                f"{shown(path)} is not a file of a known kind; the kinds are "
                f"{file_rows.KINDS_IN_WORDS}."
            )
        return {"train": [path]}
    files = sorted(
        file
        for folder in (path, *_split_folders(path))
        for file in folder.iterdir()
        if file.is_file() and file_rows.kind_of(file) and not file.name.startswith(".")
    )
    splits: dict[str, list[pathlib.Path]] = {}
    for file in files:
        named = file if file.parent == path else file.parent
        splits.setdefault(_split_of(named) or "train", []).append(file)
    if "train" not in splits:
        found = listed(file.name for file in files) or "no file of a known kind"
        folders = listed(sorted(entry.name for entry in path.iterdir() if entry.is_dir()))
        found += f", but directories: {folders}" if folders else ""
        raise UserError(
            f"{shown(path)} has nothing to train on: it has {found}; the kinds are "
            f"{file_rows.KINDS_IN_WORDS}, and files with 'validation' or 'test' in their names do "
            "not train."
        )
    return splits


def _split_folders(path: pathlib.Path) -> list[pathlib.Path]:
    return [entry for entry in path.iterdir() if entry.is_dir() and _split_of(entry)]


def _split_of(path: pathlib.Path) -> str | None:
    """The split that a file or directory is called after; None if its name has no such word."""
    words: Sequence[str] = _WORD.findall(path.name.lower())
    return next((_WORDS[word] for word in words if word in _WORDS), None)
