"""A limit of the work that a chat template does, in steps: it stops the same one everywhere.

A step is an item of a loop, a call, a filter, or 64 characters or items that one of them makes. A
limit in seconds would stop a template on a busy machine that another machine renders.
"""

from __future__ import annotations

import contextvars
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

# Steps, and characters of one text, that any template may take, and more for each character of the
# messages. The templates of eight families take fewer than 60 steps a message.
_STEPS, _STEPS_PER_CHARACTER = 200_000, 4
_LARGEST, _LARGEST_PER_CHARACTER = 1_000_000, 16
_STEP_SIZE = 64
# Most of a number that says how wide something is: `center(80)`, `tojson(indent=4)`.
WIDEST = 256
# Most bits of a number that is multiplied or raised to a power.
_MOST_BITS = 10_000
# Widths of `%` and of `format` with four digits or more, or that an argument gives.
_WIDE_FORMAT = re.compile(
    r"%(\([^)]*\))?[-+ #0]*(\d{4,}|\*|\d*\.(\d{4,}|\*))|\{[^{}]*:[^{}]*(\d{4,}|\{)"
)


class TemplateStopped(Exception):
    """A template works too long, or makes too much."""


@dataclasses.dataclass
class Meter:
    """What is left of the steps of one rendering.

    Attributes:
      steps: how many.
      largest: most characters or items of one value.
    """

    steps: int
    largest: int

    @classmethod
    def of(cls, characters: int) -> Meter:
        """Returns a full meter for messages of so many characters."""
        return cls(
            _STEPS + _STEPS_PER_CHARACTER * characters,
            _LARGEST + _LARGEST_PER_CHARACTER * characters,
        )

    def charge(self, size: int = 0) -> None:
        """Takes a step, and more for a value of this size.

        Raises:
          TemplateStopped: if none is left, or the value is too large.
        """
        self.steps -= 1 + size // _STEP_SIZE
        if self.steps < 0:
            raise TemplateStopped("it takes too many steps, as an endless loop does")
        self.check(size)

    def check(self, size: int) -> None:
        """Checks the size of a value before it is made.

        Raises:
          TemplateStopped: if it is too large.
        """
        if size > self.largest:
            raise TemplateStopped(f"it makes a value of {size:,} characters or items")

    def items(self, values: Any) -> Any:
        """Returns what a loop goes through, each item of which is a step."""
        if isinstance(values, Sized):
            self.steps -= len(values)
            self.charge()
            return values
        return self._counted(values)

    def _counted(self, values: Iterable) -> Iterator:
        for value in values:
            self.charge()
            yield value


_METER: contextvars.ContextVar[Meter] = contextvars.ContextVar("meter")


def meter() -> Meter:
    """Returns the meter of the rendering that goes on; a full one where none does."""
    return _METER.get(None) or Meter.of(0)


def started(characters: int) -> contextvars.Token:
    """Starts the meter of a rendering; `stopped` ends it."""
    return _METER.set(Meter.of(characters))


def stopped(token: contextvars.Token) -> None:
    """Ends what `started` began."""
    _METER.reset(token)


def size_of(value: Any) -> int:
    """Returns the characters or items of a value; 0 for one without a length."""
    return len(value) if isinstance(value, Sized) else 0


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Checks the size of what `*`, `**` or `%` makes of two values.

    Raises:
      TemplateStopped: if it is too large.
    """
    if operator == "%":
        if isinstance(left, str):
            check_format(left)
            check_text(right)
        return
    numbers = [value for value in (left, right) if isinstance(value, int)]
    if len(numbers) < 2:
        meter().check(size_of(left) * (numbers or [1])[0] + size_of(right) * (numbers or [1])[0])
        return
    bits = [number.bit_length() for number in numbers]
    total = bits[0] * max(abs(numbers[1]), 1) if operator == "**" else sum(bits)
    if total > _MOST_BITS:
        raise TemplateStopped(f"it makes a number of {total:,} bits")


def check_format(text: str) -> None:
    """Checks the widths in a format.

    Raises:
      TemplateStopped: if one is large, or not in the format itself.
    """
    if _WIDE_FORMAT.search(text):
        raise TemplateStopped("it formats a value wider than a chat template has to")


def check_widths(values: Iterable[Any]) -> None:
    """Checks the arguments of what pads or indents a text.

    Raises:
      TemplateStopped: if one is a number, or a text of more characters, above `WIDEST`.
    """
    for value in values:
        if isinstance(value, list | tuple):
            check_widths(value)
        width = len(value) if isinstance(value, str) else value
        if isinstance(width, int | float) and abs(width) > WIDEST:
            raise TemplateStopped(f"it pads or indents by {width:,}")


def check_text(value: Any) -> None:
    """Checks how long a value is as text, with all that is nested in it.

    A list may have the same long text, or another list, many times.

    Raises:
      TemplateStopped: if it is too long.
    """
    waiting, total = [value], 0
    while waiting:
        item = waiting.pop()
        total += 1 + size_of(item)
        meter().check(total)
        if isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            waiting += item


def check_replace(text: str, old: str, new: str) -> None:
    """Checks the size of a text after a replacement.

    Raises:
      TemplateStopped: if it is too large.
    """
    meter().check(len(text) + (text.count(old) if old else len(text) + 1) * len(new))
