"""The trackers by name, and whether one can be used here."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

from flan_jax.data.user_modules import import_module
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest
from flan_jax.training.trackers import module_tracker
from flan_jax.training.trackers.tracked_run import TrackedRun, Tracker


class _Known(NamedTuple):
    """A tracker of this package.

    Attributes:
      package: that it needs, as it is imported.
      module: whose `open_tracker` opens it.
    """

    package: str
    module: str


TRACKERS = {
    "tensorboard": _Known("tensorboardX", "flan_jax.training.trackers.tensorboard_tracker"),
    "wandb": _Known("wandb", "flan_jax.training.trackers.wandb_tracker"),
    "trackio": _Known("trackio", "flan_jax.training.trackers.trackio_tracker"),
}


def check(name: str | None) -> None:
    """Checks that a tracker can be used, before anything else is done.

    Args:
      name: the setting TRACKER.

    Raises:
      UserError: if its package is not installed, or it is a module without the functions that it
        needs.
    """
    if name is None:
        return
    known = TRACKERS.get(name)
    if known is None:
        _check_module(name)
    elif importlib.util.find_spec(known.package) is None:
        raise UserError(
            f"TRACKER={name!r} needs {known.package}, which is not installed: "
            f"pip install 'flan_jax[{name}]'."
        )


def opener(name: str) -> Callable[[TrackedRun], Tracker]:
    """Returns the function that opens a tracker; see `check`."""
    known = TRACKERS.get(name)
    if known is not None:
        return importlib.import_module(known.module).open_tracker
    module = import_module(name)
    return lambda run: module_tracker.open_tracker(module, run)


def _check_module(name: str) -> None:
    names = ", ".join(map(repr, TRACKERS))
    try:
        module = import_module(name)
    except UserError as error:
        near = did_you_mean(nearest(name, TRACKERS))
        raise UserError(
            f"TRACKER={name!r} is none of {names}{near} As a module: {error}"
        ) from error
    lacking = [part for part in module_tracker.FUNCTIONS if not callable(getattr(module, part, 0))]
    if lacking:
        raise UserError(
            f"TRACKER={name!r} is a module without {' and '.join(lacking)}; it needs the functions "
            f"{', '.join(module_tracker.FUNCTIONS)} (docs/training.md has an example), or take one "
            f"of {names}."
        )
