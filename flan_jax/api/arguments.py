"""Checks of the arguments of `flan_jax.load` and so on that are not settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from flan_jax.checkpoints.steps import BEST
from flan_jax.config.checks import quoted
from flan_jax.errors import UserError


def checked_texts(name: str, texts: Any, each: str) -> list[str]:
    """Returns the texts of an argument as a list.

    Args:
      name: of the argument, for messages.
      texts: its value.
      each: what one of them is, for messages.

    Raises:
      UserError: if it is not a list of texts.
    """
    texts = _list(name, texts, "texts")
    for text in texts:
        _check_text(each, text)
    return texts


def checked_rows(rows: Any) -> list[tuple[str, list[str]]]:
    """Returns a text and its options for each row that is to be ranked.

    Raises:
      UserError: if a row is something else, or has no options.
    """
    return [_checked_row(row) for row in _list("rows", rows, "(text, options)")]


def _checked_row(row: Any) -> tuple[str, list[str]]:
    try:
        text, options = row
    except (TypeError, ValueError):
        raise UserError(f"a row must be (text, options), not {quoted(row)}.") from None
    _check_text("text", text)
    options = checked_texts("options", options, "an option")
    if not options:
        raise UserError("a row has no options; give at least one text.")
    return text, options


def checked_prompts(prompts: Any) -> list[Any]:
    """Returns the prompts as a list.

    Raises:
      UserError: if one of them is neither a text nor messages.
    """
    from flan_jax.runs.prompts import are_messages

    prompts = _list("prompts", prompts, "texts or messages")
    for prompt in prompts:
        if not isinstance(prompt, str) and not are_messages(prompt):
            raise UserError(
                "a prompt must be a text, or a list of messages {'role': ..., 'content': ...}, not "
                f"{quoted(prompt)}; one conversation is generate([messages])."
            )
    return prompts


def checked_step(step: Any) -> int | str | None:
    """Returns the step of a checkpoint as an int; 'best' and None as they are.

    Raises:
      UserError: if it is something else.
    """
    if step is None or (isinstance(step, str) and step == BEST):
        return step
    if isinstance(step, (int, np.integer)) and not isinstance(step, bool):
        return int(step)
    raise UserError(
        f"step must be the number of a checkpoint, such as 100, '{BEST}' or None, not "
        f"{quoted(step)}."
    )


def _list(name: str, values: Any, content: str) -> list[Any]:
    """The values of an argument as a list.

    Raises:
      UserError: if it is a single text, or has no values.
    """
    if isinstance(values, Iterable) and not isinstance(values, str):
        return list(values)
    hint = f"; write [{quoted(values)}]" if isinstance(values, str) else ""
    raise UserError(f"{name} must be a list of {content}, not {quoted(values)}{hint}.")


def _check_text(name: str, text: Any) -> None:
    if not isinstance(text, str):
        raise UserError(f"{name} must be a text, not {quoted(text)}.")
