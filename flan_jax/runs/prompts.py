"""Prompts of a file or of standard input: one a line, or JSON lines of prompts and messages."""

from __future__ import annotations

import logging
import sys
from typing import Any

from flan_jax.data.chat.dialogue_records import is_unicode
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.runs.answers import Prompt
from flan_jax.storage.copies import read_path
from flan_jax.storage.files import parse_json

_log = logging.getLogger(__name__)

JSON_LINES = ".jsonl"


def read_prompts(name: str | None, setting: str = "--file") -> list[Prompt]:
    """Returns the prompts of a file, or of standard input if `name` is None.

    A line is a prompt; in a file called *.jsonl it is an object with 'prompt' or 'messages', and
    may have 'system', a message before them.

    Args:
      name: of the file.
      setting: or flag that gives it, for messages.

    Raises:
      UserError: if the file cannot be read, is not UTF-8 text, contains no prompt, or a line of
        JSON is neither, or has tools.
    """
    try:
        contents = (
            sys.stdin.buffer.read() if name is None else read_path(name, setting).read_bytes()
        )
        text = contents.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        place = "standard input" if name is None else f"{setting} {name!r}"
        raise UserError(
            f"{place} is not UTF-8 text ({error.reason} at byte {error.start}); convert it."
        ) from error
    except OSError as error:
        raise UserError(f"{setting} {name!r} cannot be read ({error.strerror}).") from error
    lines = text.removesuffix("\n").split("\n")
    prompts = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise UserError(
            f"no prompt given; write one as an argument, or give {setting} with one a line."
        )
    if len(prompts) < len(lines):
        _log.warning(
            f"{len(lines) - len(prompts)} of {len(lines)} lines are empty and get no answer"
        )
    if name is None or not name.lower().endswith(JSON_LINES):
        return [line for _, line in prompts]
    return [_prompt(line, f"line {number} of {shown(name)}") for number, line in prompts]


def _prompt(line: str, place: str) -> Prompt:
    record = parse_json(line, place, advice="write an object with 'prompt' or 'messages'")
    prompt, messages, system = (record.get(name) for name in ("prompt", "messages", "system"))
    if record.get("tools"):
        raise UserError(f"{place} has 'tools', which generation does not read; take them out.")
    if not is_unicode(record):
        raise UserError(f"{place} has half of a character, a lone surrogate; correct it.")
    is_text = isinstance(prompt, str) and messages is None
    if not is_text and (prompt is not None or not are_messages(messages)):
        raise UserError(
            f"{place} must have either 'prompt', a text, or 'messages', a list of objects with "
            "'role' and 'content'; correct it."
        )
    if not system:
        return prompt if is_text else messages
    if not isinstance(system, str):
        raise UserError(f"{place} has a 'system' that is not a text; correct it.")
    messages = [{"role": "user", "content": prompt}] if is_text else messages
    return [{"role": "system", "content": system}, *messages]


def are_messages(value: Any) -> bool:
    """Returns whether a value is a list of messages, objects with 'role' and 'content'."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(each, dict) and isinstance(each.get("role"), str) and "content" in each
            for each in value
        )
    )
