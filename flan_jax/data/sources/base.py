"""Where raw rows come from: TensorFlow Datasets, JSON lines, the rows bundled with the package;
`hub` has one more.

A source answers four questions about a dataset: is it available, which slice of which raw split is
our 'train' or 'test', what are its rows, and what is its fingerprint (so that a token cache made
from other rows is never used). Only reading from TFDS imports TensorFlow.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import re
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from flan_jax.catalogue.records import Dataset
from flan_jax.data.sources.slices import in_order, parse_spec, reading_order
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest, shown
from flan_jax.storage.files import readable
from flan_jax.storage.hashing import digest, file_digest
from flan_jax.storage.paths import local_path

if TYPE_CHECKING:
    from flan_jax.data.sources.hub import HubSource

KINDS = ("tfds", "hf", "jsonl", "bundled")

_ESCAPED = re.compile(rb"\\.")
_ESCAPED_TEXT = re.compile(r"\\.")
_MOST_CHARACTERS = 2**26  # of a row: one that does not end by then lacks a quotation mark
# how JSON escapes each half of what lies beyond 16 bits
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_DOWNLOAD_TIMEOUT_SECONDS = 60
_DOWNLOAD_HOST = "storage.googleapis.com"  # where TFDS looks first


def read_jsonl(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file. A row whose text holds raw line breaks goes on over several
    lines.

    Raises:
      UserError: for a line that is cut short, is no JSON object or no UTF-8, has a number that is
        too long or is nested too deeply, with file and line number.
    """
    return (_object(text, f"{path}:{number}") for number, text in _texts(path))


def _texts(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """(number of its first line, JSON) of each row."""
    lines = _lines(path)
    for number, text in lines:
        if not text.strip() and not any(more.strip() for _, more in lines):
            return
        yield number, _whole_row(text, lines)


def _whole_row(text: str, lines: Iterator[tuple[int, str]]) -> str:
    """The line, and those after it up to the end of a text that it begins and does not end."""
    parts, size, open_text = [text], len(text), _ends_within_a_text(text)
    while open_text and size < _MOST_CHARACTERS:
        more = next(lines, None)
        if more is None:
            break
        parts.append(more[1])
        size += len(more[1])
        open_text ^= _ends_within_a_text(more[1])
    return "".join(parts)


def _ends_within_a_text(line: str) -> bool:
    marks = _ESCAPED_TEXT.sub("", line) if "\\" in line else line
    return marks.count('"') % 2 == 1


def _rows_at(path: pathlib.Path, positions: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """(position, row) of ascending positions in a JSONL file."""
    left = iter(positions.tolist())
    wanted = next(left, None)
    for position, (number, text) in enumerate(_texts(path)):
        if wanted is None:
            return
        if position == wanted:
            yield position, _object(text, f"{path}:{number}")
            wanted = next(left, None)


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text, strict=False)
    except json.JSONDecodeError as error:
        place = f"at column {error.colno}"
        if error.lineno > 1:
            place += f" of line {error.lineno} of the row; is a quotation mark missing?"
        raise UserError(
            f"{where}: not a whole JSON object ({error.msg.removesuffix(' at')} {place}); mend the "
            "line or take it out."
        ) from error
    except (ValueError, RecursionError) as error:  # a whole number of thousands of digits
        why = (
            "nested too deeply"
            if isinstance(error, RecursionError)
            else "it has a number of too many digits"
        )
        raise UserError(
            f"{where}: not readable JSON ({why}); mend the line or take it out."
        ) from error
    if not isinstance(row, dict):
        kind = "null" if row is None else type(row).__name__
        raise UserError(f"{where}: a row must be a JSON object, not {kind}.")
    if _SURROGATE.search(text):
        _check_unicode(row, where)
    return row


def _check_unicode(row: dict[str, Any], where: str) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: {error.object[error.start]!r} is half of a character, as where a text was "
            "cut within one; mend the line or take it out."
        ) from error


def _lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """(number, text) of each line."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                # Windows marks a file's beginning
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}:{number}: byte {error.start + 1} of the line is not UTF-8; write the "
                    "file anew in that encoding."
                ) from error


def count_jsonl(path: pathlib.Path) -> int:
    """Rows of a JSONL file; parses it only where some line does not end an object, or ends within a
    text.
    """
    count = 0
    with open(path, "rb") as file:
        for line in file:
            marks = _ESCAPED.sub(b"", line) if b"\\" in line else line
            if not line.rstrip().endswith(b"}") or marks.count(b'"') % 2:
                return sum(1 for _ in read_jsonl(path))
            count += 1
    return count


class JsonlSource:
    """`<directory>/<configuration>/<raw split>.jsonl`, in the field names of TFDS."""

    kind = "jsonl"

    def __init__(self, directory: str | pathlib.Path):
        self.directory = local_path(directory, "DATA_DIR")
        if not self.directory.is_dir():
            raise UserError(
                f"DATA_DIR {str(directory)!r} is not a directory; give one that holds "
                "<dataset>/<split>.jsonl."
            )
        self._counts: dict[pathlib.Path, int] = {}

    def spec(self, dataset: Dataset, split: str) -> str | None:
        """The slice of a raw split that is our split of the dataset; None if it has none."""
        return dataset.splits.get(split)

    def path(self, dataset: Dataset, raw_split: str) -> pathlib.Path:
        """The file of a raw split."""
        return self.directory / dataset.name / f"{raw_split}.jsonl"

    def available(self, dataset: Dataset, split: str = "train") -> str | None:
        """None if our split has rows here, else why not."""
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
        """(position in the raw split, raw row) for each row of a slice."""
        raw_split = parse_spec(spec)[0]
        path = self.path(dataset, raw_split)
        if not path.is_file():
            raise UserError(
                f"{dataset.name} has no raw split {raw_split!r} here: there is no file {path}."
            )
        for positions in reading_order(dataset, spec, self._count(path)):
            yield from in_order(positions, functools.partial(_rows_at, path))

    def fingerprint(self, dataset: Dataset, spec: str) -> str:
        """Digest of the file that holds the slice."""
        return file_digest(self.path(dataset, parse_spec(spec)[0]))

    def _count(self, path: pathlib.Path) -> int:
        if path not in self._counts:
            self._counts[path] = count_jsonl(path)
        return self._counts[path]


class BundledSource(JsonlSource):
    """The rows shipped with the package: about 24 a dataset, written for this project, one file for
    each split.
    """

    kind = "bundled"

    def __init__(self):
        import flan_jax.tasks

        super().__init__(pathlib.Path(flan_jax.tasks.__file__).parent / "rows")

    def spec(self, dataset: Dataset, split: str) -> str | None:
        """The split itself: bundled files are already cut into ours."""
        return split if split in dataset.splits else None


class TfdsSource:
    """TensorFlow Datasets, prepared below `directory` (its own default if None); downloads what is
    missing.
    """

    kind = "tfds"

    def __init__(self, directory: str | pathlib.Path | None = None):
        self.directory = local_path(
            "~/tensorflow_datasets" if directory is None else directory, "DATA_DIR"
        )

    def spec(self, dataset: Dataset, split: str) -> str | None:
        """The slice of a raw split that is our split of the dataset; None if it has none."""
        return dataset.splits.get(split)

    def prepared(self, dataset: Dataset) -> pathlib.Path | None:
        """The builder's `dataset_info.json`, if the data lie on disk; looked up without
        TensorFlow.
        """
        if dataset.tfds is None:
            return None
        name, version = dataset.tfds.rsplit(":", 1)
        path = self.directory / name / version / "dataset_info.json"
        return path if path.is_file() else None

    def available(self, dataset: Dataset, split: str = "train") -> str | None:
        """None if our split lies on disk, else why not."""
        if self.spec(dataset, split) is None:
            return f"has no {split} split"
        if dataset.tfds is None:
            return "is not in TensorFlow Datasets"
        if self.prepared(dataset) is None:
            manual = f"; manual download: {dataset.manual}" if dataset.manual else ""
            return f"{dataset.tfds} is not prepared in {self.directory}{manual}"
        return None

    def downloadable(self, dataset: Dataset) -> bool:
        """Whether the dataset does not lie on disk though its builder could download it."""
        return bool(dataset.tfds) and not dataset.manual and self.prepared(dataset) is None

    def download(self, dataset: Dataset) -> str | None:
        """Downloads and prepares a dataset that is not on disk; None, or why it could not. Imports
        TensorFlow.
        """
        if self.prepared(dataset) is not None:
            return None
        if dataset.tfds is None:
            return "is not in TensorFlow Datasets"
        if dataset.manual:
            return f"manual download: {dataset.manual}"
        offline = no_network(_DOWNLOAD_HOST)
        if offline:
            return f"not downloaded, {offline}"
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_SECONDS)
        try:
            self._builder(dataset).download_and_prepare()
        # TFDS and its transports raise anything; the reason goes to the user
        except Exception as error:
            return (
                f"{type(error).__name__}: "
                f"{str(error).strip().splitlines()[0] if str(error).strip() else 'failed'}"
            )
        finally:
            socket.setdefaulttimeout(before)
        return None

    def rows(self, dataset: Dataset, spec: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """(position in the raw split, raw row as plain Python) for each row of a slice. Imports
        TensorFlow.
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
        """Digest of the builder's name, version and split sizes."""
        return digest([dataset.tfds, self.prepared(dataset).read_text(encoding="utf-8")])

    def _builder(self, dataset: Dataset):
        import tensorflow as tf
        import tensorflow_datasets as tfds

        tf.config.set_visible_devices([], "GPU")
        return tfds.builder(dataset.tfds, data_dir=str(self.directory))


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turns what TFDS and TensorFlow raise for damaged files into one message."""
    import tensorflow as tf

    advice = "prepare it again with TFDS"
    try:
        with readable(what, advice):
            yield
    except tf.errors.OpError as error:
        reason = re.sub(r"\{\{.*?\}\} | \[Op:.*", "", error.message)
        raise UserError(f"{what} is not readable ({shown(reason)}); {advice}.") from error


@functools.cache
def no_network(host: str, port: int = 443) -> str | None:
    """Why a host cannot be reached, found out once and quickly: TFDS itself would retry for minutes
    a dataset.
    """
    if any(name.lower() in ("https_proxy", "all_proxy") for name in os.environ):
        return None
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        return f"there is no network ({error})"
    return None


Source = JsonlSource | BundledSource | TfdsSource


def open_source(kind: str, data_dir: str | None = None) -> Source | HubSource:
    """The source that DATA_SOURCE and DATA_DIR name.

    Raises:
      UserError: for an unknown kind, or a directory that is missing.
    """
    if kind == "tfds":
        return TfdsSource(data_dir)
    if kind == "hf":
        from flan_jax.data.sources.hub import HubSource

        return HubSource(data_dir)
    if kind == "bundled":
        if data_dir is not None:
            raise UserError(
                f"DATA_DIR {shown(repr(data_dir))} has no effect on the rows bundled with the "
                "package; set DATA_SOURCE to 'jsonl', 'hf' or 'tfds' to read from there, or leave "
                "DATA_DIR out."
            )
        return BundledSource()
    if kind == "jsonl":
        if data_dir is None:
            raise UserError(
                "DATA_SOURCE=jsonl needs DATA_DIR, a directory that holds <dataset>/<split>.jsonl."
            )
        return JsonlSource(data_dir)
    near = did_you_mean(nearest(kind, KINDS), f"; it is one of {', '.join(KINDS)}.")
    raise UserError(f"unknown DATA_SOURCE {kind!r}{near}")


def described(source: Source | HubSource) -> str:
    """Which rows a source has, in words."""
    if source.kind == "bundled":
        return (
            "the rows bundled with the package (DATA_SOURCE=bundled), some 24 a dataset, for "
            "trying things out"
        )
    return f"{source.directory} (DATA_SOURCE={source.kind})"


def unavailable(
    source: Source | HubSource, dataset: Dataset, split: str, shots: int = 0
) -> str | None:
    """None if a split of a dataset has rows here, and exemplars where there are `shots` before
    each; else why not.
    """
    reason = source.available(dataset, split)
    if reason is None and shots and (why := source.available(dataset, "train")):
        return f"has no exemplars: its training side {why}"
    return reason


def row_id(dataset: Dataset, spec: str, index: int) -> str:
    """The name of a row in hashes and results: '<configuration>/<raw split>/<position>'."""
    return f"{dataset.name}/{parse_spec(spec)[0]}/{index}"


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
