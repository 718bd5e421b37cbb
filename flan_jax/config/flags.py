"""Command-line flags: a parser whose errors suggest the nearest flag, and shared flags."""

from __future__ import annotations

import argparse
import itertools
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from flan_jax import log
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest


class ArgumentParser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that raises a `UserError` with the nearest flag or choice."""

    _intermixed = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.add_argument(
            "--log_level",
            choices=log.LEVELS,
            default=argparse.SUPPRESS,
            help=f"the least severe log lines that are shown (default: {log.DEFAULT_LEVEL})",
        )

    def parse_intermixed_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As argparse's: positional arguments may stand before, between and after the flags."""
        self._intermixed = True
        return self._complete(*self.parse_known_intermixed_args(args, namespace))

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, but an unknown argument is an error of the parser that reads it.

        That holds for the parser of a sub-verb too.
        """
        namespace, unknown = super().parse_known_args(args, namespace)
        # Older versions of Python call this twice for intermixed arguments: positional ones between
        # flags are left over for the second pass.
        if not self._intermixed or _flags(unknown):
            self._complete(namespace, unknown)
        return namespace, unknown

    def _complete(
        self, namespace: argparse.Namespace, unknown: Sequence[str]
    ) -> argparse.Namespace:
        """Refuses unknown arguments, and shows log lines from here on."""
        if unknown:
            # Beside an unknown flag, valid positional arguments may be left over.
            wrong = _flags(unknown) or unknown
            flags = {flag.lstrip("-"): flag for flag in self._option_string_actions}
            near = flags.get(nearest(wrong[0].lstrip("-").partition("=")[0], flags))
            self.error(f"unrecognized arguments: {' '.join(wrong)}{did_you_mean(near, '')}")
        log.configure(getattr(namespace, "log_level", log.DEFAULT_LEVEL))
        return namespace

    def error(self, message: str) -> NoReturn:
        """Raises a UserError instead of ending the process."""
        raise UserError(f"{message} (`{self.prog} --help` says more)")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            near = did_you_mean(nearest(value, map(str, action.choices)))
            raise argparse.ArgumentError(
                action,
                f"invalid choice: {value!r}{near} The choices are "
                f"{', '.join(map(str, action.choices))}",
            )


def _flags(arguments: Sequence[str]) -> list[str]:
    """Returns the flags among arguments: not "- a text", "-5" and what follows "--"."""
    before = itertools.takewhile(lambda argument: argument != "--", arguments)
    return [argument for argument in before if re.match(r"-(?!\d*\.?\d*$)\S*$", argument)]


def add_gin_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that name gin files; flags are never abbreviated then."""
    parser.allow_abbrev = False
    parser.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="a gin file: a path, or one of the shipped ones such as gin/flan.gin; may be repeated",
    )
    parser.add_argument(
        "--gin_search_paths",
        default=[],
        type=lambda text: [os.path.expanduser(path) for path in text.split(",") if path],
        metavar="DIR,DIR",
        help="directories in which gin files and their includes are looked up",
    )


def add_step_flag(parser: argparse.ArgumentParser) -> None:
    """Adds the flag --step, which chooses a checkpoint of a run: a number, or 'best'."""
    parser.add_argument(
        "--step",
        type=_step,
        help="the checkpoint of this step, or best: the one with the lowest "
        "validation loss (default: the last)",
    )


def _step(text: str) -> int | str:
    if text != "best" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor best")
    return text if text == "best" else int(text)


def whole_number(flags: argparse.Namespace, name: str, default: int | None = None) -> int | None:
    """Returns the number of a flag, or the default where it is not given.

    Raises:
      UserError: if it is not a whole number of at least 1.
    """
    text = getattr(flags, name)
    if text is None:
        return default
    if not re.fullmatch(r"[1-9]\d*", text):
        raise UserError(f"--{name}={text} must be a whole number of at least 1.")
    return int(text)
