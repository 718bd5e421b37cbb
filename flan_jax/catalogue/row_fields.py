"""The named fields of a raw row: what a dataset's row function returns, checked and stripped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flan_jax.catalogue.records import FROM_ROW, Dataset, Drop
from flan_jax.config.checks import quoted
from flan_jax.errors import UserError
from flan_jax.messages import listed, shown


def read_row(dataset: Dataset, raw: Mapping[str, Any], row_id: str = "") -> dict[str, Any] | Drop:
    """Returns the named fields of a raw row, stripped, or a `Drop` with the reason.

    Args:
      dataset: the dataset of the row.
      raw: the row as its source reads it.
      row_id: names the row in messages.

    Raises:
      UserError: if the row function fails on the row, or returns a field that is not text, or a
        label that is not an option.
    """
    where = f"row {row_id} (counted from 0)" if row_id else f"a row of {dataset.name}"
    try:
        row = dataset.row(raw)
        return row if isinstance(row, Drop) else _checked(dataset, row, where)
    except UserError:
        raise
    except Exception as error:  # row functions are users' own and raise anything
        raise UserError(
            f"{where} cannot be read by its row function ({type(error).__name__}: {shown(error)}); "
            f"the row has {listed(raw, 10) or 'no fields'}."
        ) from error


def _checked(dataset: Dataset, row: dict[str, Any], where: str) -> dict[str, Any] | Drop:
    for name in dataset.fields:
        row[name] = _text(row[name], name, where)
        if not row[name]:
            return Drop(f"empty {name}")
    _check_for_metrics(row, where)
    if not dataset.options:
        row["answer"] = _text(row["answer"], "answer", where)
        return row if row["answer"] else Drop("empty answer")
    options = dataset.options
    if options == FROM_ROW:
        options = _list(row["options"], "options", where)
    row["label"] = _label(row["label"], len(options), where)
    row["options"] = [_text(option, "an option", where) for option in options]
    return row if all(row["options"]) else Drop("empty option")


def _label(label: Any, options: int, where: str) -> int:
    """The index of the right one of so many options."""
    if not isinstance(label, int | float) or label % 1:
        raise UserError(
            f"{where} has label {quoted(label)}; a label is a whole number, the index of the right "
            "option."
        )
    if not 0 <= label < options:
        raise UserError(
            f"{where} has label {quoted(label)}, but there are {options} options; return "
            "Drop('why') for a row without a right one."
        )
    return int(label)


def _check_for_metrics(row: dict[str, Any], where: str) -> None:
    """Checks the keys that only metrics read, much later."""
    if "references" in row:
        references = _list(row["references"] or [], "references", where)
        texts = [_text(value, "a reference", where) for value in references]
        row["references"] = [text for text in texts if text]
    if not isinstance(row.get("group"), str | int | None):
        raise UserError(f"{where} has {quoted(row['group'])} for group, which must be text.")
    if not isinstance(row.get("value"), int | float | None) or row.get("value") != row.get("value"):
        raise UserError(f"{where} has {quoted(row['value'])} for value, which must be a number.")


def _text(value: Any, name: str, where: str) -> str:
    """A value as text; '' for a missing one, which pandas writes as NaN."""
    if isinstance(value, str):
        if not value.isascii():
            _check_characters(value, name, where)
        return value.strip()
    if isinstance(value, list | tuple | dict | set | bytes):
        raise UserError(
            f"{where} has {type(value).__name__} {quoted(value, 60)} for {name}, which must be "
            "text; let the row function choose or join."
        )
    return "" if value is None or value != value else str(value).strip()


def _check_characters(value: str, name: str, where: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} has the lone surrogate {value[error.start]!r} in {name}, as after decoding "
            "with a wrong encoding; repair it in the row function, or return Drop('why')."
        ) from error


def _list(value: Any, name: str, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} has {quoted(value)} for {name}, which must be a list of texts.")
    return list(value)
