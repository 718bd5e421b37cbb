"""Rows of a file of one's own: .jsonl, .json, .csv, .tsv or .parquet, each also .gz or .zst.

A row that is damaged is a `Drop` with the reason, so that it is counted like one that cannot be
used; a file that cannot be read on is one clear message. Files are read as a stream.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from flan_jax.catalogue.records import Drop
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.files import readable

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
COMPRESSIONS = (".gz", ".zst")
KINDS_IN_WORDS = f"{', '.join(KINDS)}, each also {' or '.join(COMPRESSIONS)}"

NOT_JSON = "not a JSON object on one line"
NOT_UTF8 = "not UTF-8"
OTHER_CELLS = "another number of cells than the header"

Row = dict[str, Any] | Drop

_CHUNK = 2**20
_BATCH_ROWS = 1000
_ADVICE = "repair or save it again"


def kind_of(path: str | os.PathLike) -> str | None:
    """Returns the kind of a file by its name, one of `KINDS`; None for another."""
    base, suffix = os.path.splitext(os.fspath(path).lower())
    if suffix in COMPRESSIONS:
        suffix = os.path.splitext(base)[1]
    return suffix if suffix in KINDS else None


def read_rows(path: pathlib.Path) -> Iterator[Row]:
    """Yields the rows of a file, in their order; a `Drop` for each that is damaged.

    Args:
      path: a file of one of `KINDS`.

    Raises:
      UserError: if the file cannot be read, or cannot be read on.
    """
    kind = kind_of(path)
    with readable(path, _ADVICE), _opened(path) as file:
        yield from _READERS[kind](path, file)


def count_rows(path: pathlib.Path) -> int:
    """Returns how many rows `read_rows` yields.

    Raises:
      UserError: as `read_rows`.
    """
    kind = kind_of(path)
    if kind not in (".jsonl", ".parquet"):
        return sum(1 for _ in read_rows(path))
    with readable(path, _ADVICE), _opened(path) as file:
        if kind == ".parquet":
            return _parquet(path, file).metadata.num_rows
        return sum(1 for line in file if not line.isspace())


def _opened(path: pathlib.Path) -> BinaryIO:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path, "rb")
    if suffix == ".zst":
        import pyarrow  # tensorflow-datasets depends on it

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"), _CHUNK)
    return open(path, "rb")


def _json_lines(path: pathlib.Path, file: BinaryIO) -> Iterator[Row]:
    encoding = "utf-8-sig"  # Windows marks a file's beginning
    for line in file:
        if not line.isspace():
            yield _json_object(line, encoding)
        encoding = "utf-8"


def _json_object(line: bytes, encoding: str) -> Row:
    try:
        value = json.loads(line.decode(encoding), strict=False)
    except UnicodeDecodeError:
        return Drop(NOT_UTF8)
    except (ValueError, RecursionError):
        return Drop(NOT_JSON)
    return value if isinstance(value, dict) else Drop(NOT_JSON)


def _json(path: pathlib.Path, file: BinaryIO) -> Iterator[Row]:
    """An array of objects; or objects on lines, as some programs write them."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig")
    buffer = text.read(_CHUNK).lstrip()
    if buffer.startswith("["):
        yield from _array(path, text, buffer[1:])
        return
    while "\n" not in buffer and (more := text.read(_CHUNK)):
        buffer += more
    first = buffer.split("\n", 1)[0].encode()
    if isinstance(_json_object(first, "utf-8"), Drop) and first:
        raise UserError(
            f"{shown(path)} is neither an array of objects, [{{...}}, {{...}}], nor an object on "
            "each line; write it as one of them."
        )
    with _opened(path) as lines:
        yield from _json_lines(path, lines)


def _array(path: pathlib.Path, text: io.TextIOWrapper, buffer: str) -> Iterator[Row]:
    """The objects of an array whose bracket is read; holds one object and a chunk at a time."""
    decode, position, done = json.JSONDecoder(strict=False).raw_decode, 0, 0
    while True:
        while position < len(buffer) and buffer[position] in " \t\r\n,":
            position += 1
        if buffer.startswith("]", position):
            if (buffer[position + 1 :] + text.read()).strip():
                raise UserError(
                    f"{shown(path)} has more after the end of its array of {done:,} rows; write it "
                    "as one array, or as an object on each line (.jsonl)."
                )
            return
        try:
            value, position = decode(buffer, position)
        except (json.JSONDecodeError, RecursionError) as error:
            # as much again as there is, so that a long object is not parsed too often
            more = text.read(max(_CHUNK, len(buffer)))
            if not more:
                why = "nested too deeply" if isinstance(error, RecursionError) else error.msg
                raise UserError(
                    f"{shown(path)}: row {done} (counted from 0) of the array is not readable JSON "
                    f"({why}); {_ADVICE}."
                ) from error
            buffer, position = buffer[position:] + more, 0
            continue
        done += 1
        yield value if isinstance(value, dict) else Drop("not a JSON object")


def _table(delimiter: str) -> Callable[[pathlib.Path, BinaryIO], Iterator[Row]]:
    """A reader of cells in lines, of which the first has the names of the fields."""

    def read(path: pathlib.Path, file: BinaryIO) -> Iterator[Row]:
        # bytes that are not UTF-8 become lone surrogates, which `record_forms` drops
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        # strict: else a quotation mark that is not closed takes all lines after it for one cell
        lines = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            header = next(_of_any_length(lines), [])
            if len(set(header)) < len(header):
                raise UserError(f"{shown(path)}: the header names a field twice; rename one.")
            for cells in _of_any_length(lines):
                if len(cells) == len(header):
                    yield dict(zip(header, cells))
                elif cells:
                    yield Drop(OTHER_CELLS)
        except csv.Error as error:
            raise UserError(
                f"{shown(path)}:{lines.line_num}: the cells cannot be told apart ({error}); is a "
                "quotation mark not closed, or not doubled within quotation marks?"
            ) from error

    return read


def _of_any_length(lines: Iterator[list[str]]) -> Iterator[list[str]]:
    """Yields the lines, with cells of any length; the limit is the process's, so it is put back."""
    while True:
        limit = csv.field_size_limit(2**31 - 1)
        try:
            cells = next(lines, None)
        finally:
            csv.field_size_limit(limit)
        if cells is None:
            return
        yield cells


def _parquet(path: pathlib.Path, file: BinaryIO) -> Any:
    import pyarrow
    import pyarrow.parquet

    # its end is read first: what is compressed as a whole is read into memory
    is_plain = path.suffix.lower() not in COMPRESSIONS
    try:
        return pyarrow.parquet.ParquetFile(file if is_plain else pyarrow.BufferReader(file.read()))
    except pyarrow.ArrowException as error:
        raise UserError(f"{shown(path)} is not readable ({shown(error)}); {_ADVICE}.") from error


def _parquet_rows(path: pathlib.Path, file: BinaryIO) -> Iterator[Row]:
    for batch in _parquet(path, file).iter_batches(_BATCH_ROWS):
        yield from batch.to_pylist()


_READERS: dict[str, Callable[[pathlib.Path, BinaryIO], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": _parquet_rows,
}
