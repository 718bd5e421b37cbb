"""The command line: `flan-jax VERB ...`, the same program as `python -m flan_jax.VERB ...`.

A verb is a module with `main(argv) -> int | None`, imported only when it is asked for: the help
costs no start-up.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from flan_jax import __version__, signals
from flan_jax.errors import Diverged, UserError
from flan_jax.messages import did_you_mean, escaped, nearest

# Verb -> the module that does it, and what it does.
VERBS = {
    "train": (
        "flan_jax.train",
        "prepare if needed, train, checkpoint, evaluate, report; the same command resumes",
    ),
    "eval": (
        "flan_jax.eval",
        "evaluate a checkpoint on the held-out datasets, or on any, into results.csv",
    ),
    "generate": ("flan_jax.generate", "answer a prompt, or a file of prompts, from a checkpoint"),
    "prepare": ("flan_jax.prepare", "build or check the token cache"),
    "precompile": (
        "flan_jax.precompile",
        "compile the step for a slice that is not here: does it fit, how fast is it",
    ),
    "tasks": ("flan_jax.tasks.__main__", "look at the catalogue: list, show, render, check, split"),
    "convert": (
        "flan_jax.convert",
        "checkpoints of T5X, Hugging Face and GGUF into ours, and ours into theirs",
    ),
    "report": ("flan_jax.report", "tables and figures from results.csv"),
    "launch": (
        "flan_jax.launch",
        "the command lines or manifests that train on several hosts: TPU VM, GKE, SLURM",
    ),
}

# Characters: enough for the list of the tensors in which two models of this project differ.
_LONGEST_MESSAGE = 8_000

Main = Callable[[Sequence[str]], int | None]

# What a file system says that takes no more.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


class ArgumentParser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` whose errors are a `UserError` that suggests the nearest flag or
    choice.
    """

    _intermixed = False

    def parse_intermixed_args(self, args=None, namespace=None):
        """As argparse's: positional arguments may stand before, between and after the flags."""
        self._intermixed = True
        return super().parse_intermixed_args(args, namespace)

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's, but an unknown argument is an error of the parser that reads it, that of a
        sub-verb too.
        """
        namespace, unknown = super().parse_known_args(args, namespace)
        # Between flags and flags, positional arguments are left over for a second pass.
        if unknown and not (
            self._intermixed and not any(argument.startswith("-") for argument in unknown)
        ):
            flags = {flag.lstrip("-"): flag for flag in self._option_string_actions}
            near = flags.get(nearest(unknown[0].lstrip("-").partition("=")[0], flags))
            self.error(f"unrecognized arguments: {' '.join(unknown)}{did_you_mean(near, '')}")
        return namespace, unknown

    def error(self, message: str):
        raise UserError(f"{message} (`{self.prog} --help` says more)")

    def _check_value(self, action: argparse.Action, value) -> None:
        if action.choices is not None and value not in action.choices:
            near = did_you_mean(nearest(value, map(str, action.choices)))
            raise argparse.ArgumentError(
                action,
                f"invalid choice: {value!r}{near} The choices are "
                f"{', '.join(map(str, action.choices))}",
            )


def add_step_flag(parser: argparse.ArgumentParser) -> None:
    """The flag --step, by which verbs that read a checkpoint choose one of a run: a number, or
    'best'.
    """
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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `flan-jax` with arguments (those of the process if None) and gives its exit status."""
    return _status(_dispatch, sys.argv[1:] if argv is None else argv)


def run(verb_main: Main) -> None:
    """Ends the process with a verb's status: `if __name__ == '__main__': cli.run(main)` in its
    module.
    """
    sys.exit(_status(verb_main, sys.argv[1:]))


def _dispatch(argv: Sequence[str]) -> int | None:
    if not argv:
        raise UserError(f"no verb given; write flan-jax {'|'.join(VERBS)}, or flan-jax --help.")
    verb, *rest = argv
    if verb in ("--help", "-h", "help"):
        print(_help())
        return 0
    if verb == "--version":
        print(f"flan_jax {__version__}")
        return 0
    if verb not in VERBS:
        hint = did_you_mean(
            nearest(verb, VERBS, cutoff=0.5), f"; the verbs are {', '.join(VERBS)}."
        )
        raise UserError(f"unknown verb {verb!r}{hint}")
    return importlib.import_module(VERBS[verb][0]).main(rest)


def _help() -> str:
    verbs = "\n".join(f"  {verb:<12}{summary}" for verb, (_, summary) in VERBS.items())
    return f"""Instruction tuning of language models (FLAN) in JAX.

usage: flan-jax VERB ...

verbs:
{verbs}

A run:  flan-jax train --gin_file=gin/flan.gin --gin.HELD_OUT=nli --gin.MODEL_DIR=runs/nli
`flan-jax VERB --help` tells more; `flan-jax --version` the version."""


def _status(verb_main: Main, argv: Sequence[str]) -> int:
    """Returns the exit status of a verb: 0 finished; 2 a mistake of the user, with one clear
    message on stderr; 143 ended by SIGTERM or Ctrl-C, the same command does the rest; 1 anything
    else.
    """
    try:
        with signals.handled(signals.preempt):
            status = verb_main(list(argv)) or 0
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # The reader of a pipe, such as `head`, has had enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        status = explained(error)
        if status is None:
            raise
        return status


def explained(error: BaseException) -> int | None:
    """Returns the exit status of an error that a message explains, after printing it on stderr;
    None for any other.
    """
    if isinstance(error, KeyboardInterrupt):
        print(
            f"flan-jax: {str(error) or signals.CTRL_C}: ended; what was finished is kept, and the "
            f"same command does "
            "the rest.",
            file=sys.stderr,
        )
        return signals.SAVED
    if isinstance(error, Diverged):
        print(f"flan-jax: error: {escaped(str(error))}", file=sys.stderr)
        return 1
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        error = UserError(
            f"{error.filename or 'a file of this run'} cannot be written ({error.strerror}); make "
            f"room, "
            "or give another directory. The same command goes on with what is there."
        )
    if isinstance(error, UserError):
        # gin adds lines to an error that passes through a configurable function.
        message = escaped(str(error).split("\n  In call to configurable ")[0])
        if len(message) > _LONGEST_MESSAGE:
            message = (
                f"{message[: _LONGEST_MESSAGE // 2]} ... {message[-(_LONGEST_MESSAGE // 2) :]}"
            )
        print(f"flan-jax: error: {message}", file=sys.stderr)
        return 2
    return None


if __name__ == "__main__":
    sys.exit(main())
