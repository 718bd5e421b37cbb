"""The grid of a sweep: settings by axis, expanded into points with names.

A dict is a product of its axes, a list of dicts their union. An axis 'A,B' changes both settings
together; its values are pairs. Evaluations are settings with which each point is evaluated again.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import gin

from flan_jax.config.checks import quoted
from flan_jax.config.gin_parsing import argument_value
from flan_jax.config.settings import setting
from flan_jax.errors import UserError
from flan_jax.storage.hashing import digest

GIN_FILE = "gin_file"
# Bytes of a name: file systems allow 255, with the ending of its log.
_LONGEST_NAME = 240
# Directories beside those of the points.
_RESERVED = ("logs", "baselines", "figures")


@gin.configurable("Sweep")
@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """The grid of a sweep."""

    grid: Any = setting(
        None,
        None,
        "axes and their values: {'HELD_OUT': ['nli', 'sentiment'], 'SEED': [0, 1]}, or a list of "
        "such; the axis gin_file has gin files, an axis 'A,B' pairs of values",
    )
    evaluations: Any = setting(
        None,
        None,
        "settings with which each point is evaluated again after training, where its own differ: "
        "[{'INSTRUCTIONS': 'template'}]",
    )


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a grid: one run.

    Attributes:
      name: of its directory in that of the sweep.
      gin_files: added to those of the sweep.
      settings: values by name, which override those of the files.
      evaluations: names of those that are made of it.
    """

    name: str
    gin_files: tuple[str, ...]
    settings: dict[str, Any]
    evaluations: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """Returns the arguments that a run of the point adds to those of the sweep."""
        files = [f"--gin_file={file}" for file in self.gin_files]
        return files + setting_arguments(self.settings)


def setting_arguments(settings: Mapping[str, Any]) -> list[str]:
    """Returns settings as arguments: --gin.NAME=VALUE."""
    return [f"--gin.{name}={_written(value)}" for name, value in settings.items()]


def points(grid: Any, axes: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Returns the points of a grid, times further axes, in its order.

    Args:
      grid: of `Sweep.grid`; None for a single point.
      axes: values by axis, of the command line; they come last in names.

    Raises:
      UserError: for a grid of another form, without points, or with two points of one name.
    """
    products = [grid] if isinstance(grid, Mapping) else [{}] if grid is None else grid
    if not isinstance(products, (list, tuple)) or not all(
        isinstance(product, Mapping) for product in products
    ):
        raise UserError(
            f"Sweep.grid must be a dict of lists such as {{'SEED': [0, 1]}}, or a list of such "
            f"dicts, not {quoted(grid)}."
        )
    found = [point for product in products for point in _product({**product, **axes})]
    seen: dict[str, Point] = {}
    for point in found:
        if point.name in seen:
            raise UserError(
                f"two points of the sweep are called {point.name!r}: take one of the equal values "
                "out."
            )
        if point.name in _RESERVED:
            raise UserError(
                f"a point of the sweep is called {point.name!r}, like a directory that every sweep "
                "has; add another axis, such as SEED, to its name."
            )
        seen[point.name] = point
    if not found:
        raise UserError("the sweep has no points; give each axis of its grid a value.")
    return found


def evaluations(given: Any, axes: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """Returns the settings of each evaluation by its name, such as 'instructions_template'.

    Args:
      given: of `Sweep.evaluations`: a list of dicts, or None.
      axes: values by setting, of the command line; their product is added.

    Raises:
      UserError: for evaluations of another form, or two of one name.
    """
    items = [given] if isinstance(given, Mapping) else [] if given is None else given
    if not isinstance(items, (list, tuple)) or not all(
        isinstance(item, Mapping) and item for item in items
    ):
        raise UserError(
            "Sweep.evaluations must be a list of dicts such as [{'INSTRUCTIONS': 'template'}], not "
            f"{quoted(given)}."
        )
    added = [dict(zip(axes, values)) for values in itertools.product(*axes.values())]
    named: dict[str, dict[str, Any]] = {}
    for item in [*items, *(added if axes else ())]:
        parts = (f"{_axis_name(axis)}_{value}" for axis, value in item.items())
        name = _cut("-".join(map(_file_name, parts)))
        if name in named:
            raise UserError(f"two evaluations of the sweep are called {name!r}: take one out.")
        named[name] = dict(item)
    return named


def _product(axes: Mapping[str, Sequence[Any]]) -> list[Point]:
    """The points of a product of axes."""
    for axis, values in axes.items():
        if not isinstance(values, (list, tuple)) or not values:
            raise UserError(
                f"the axis {axis} of the sweep must be a list of values, not {quoted(values)}."
            )
    choices = [[_choice(axis, value) for value in values] for axis, values in axes.items()]
    return [_point(choice) for choice in itertools.product(*choices)]


def _choice(axis: str, value: Any) -> list[tuple[str, Any]]:
    """The settings that a value of an axis sets."""
    names = [name.strip() for name in axis.split(",")]
    if len(names) == 1:
        return [(axis, value)]
    if not isinstance(value, (list, tuple)) or len(value) != len(names):
        raise UserError(
            f"each value of the axis {axis!r} must be a list of {len(names)}, not {quoted(value)}."
        )
    return list(zip(names, value))


def _point(choices: Sequence[list[tuple[str, Any]]]) -> Point:
    """The point of a value of each axis."""
    # 'A,B' with one value for both, such as a dataset that trains and is evaluated, names it once.
    names = [dict.fromkeys(_part(axis, value) for axis, value in choice) for choice in choices]
    pairs = list(itertools.chain.from_iterable(choices))
    files = tuple(value for axis, value in pairs if axis == GIN_FILE)
    settings = {axis: value for axis, value in pairs if axis != GIN_FILE}
    name = "-".join(itertools.chain.from_iterable(names)) or "run"
    if name.isdecimal():  # as the number of a point is
        name = f"{_axis_name(pairs[0][0])}_{name}"
    return Point(_cut(name), files, settings)


def _part(axis: str, value: Any) -> str:
    """A part of a name: 't5_small' of a gin file, 'nli' of a text, 'seed_0' of anything else."""
    if axis == GIN_FILE:
        text = pathlib.PurePath(value).stem
    elif isinstance(value, str):
        text = value.rstrip("/").split("/")[-1]
    else:
        text = f"{_axis_name(axis)}_{value}"
    return _file_name(text)


def _axis_name(axis: str) -> str:
    """An axis in a name: 'pack' of 'Data.pack'."""
    return axis.rpartition(".")[2].lower()


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.+=]+", "_", text).strip("_.")


def _cut(name: str) -> str:
    """A name that file systems allow: one that is too long is cut, and ends with its digest."""
    encoded = name.encode()
    if len(encoded) <= _LONGEST_NAME:
        return name
    return f"{encoded[:100].decode(errors='ignore')}-{digest(name)[:8]}"


def _written(value: Any) -> str:
    """A value as an argument has it: a text in quotes where it would be read as something else."""
    is_bare = isinstance(value, str) and value == value.strip() != "" and _read(value) == value
    return value if is_bare else repr(value)


def _read(text: str) -> Any:
    """What a text is read as in an argument; None where it cannot be read."""
    try:
        return argument_value("--gin.NAME", text)
    except UserError:
        return None
