"""The command line: `flan-jax VERB ...`, the same program as `python -m flan_jax.VERB ...`.

A verb is a module with `main(argv) -> int | None`. It is imported only when it is called, so that
the help starts quickly.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from flan_jax import __version__, exit_status, log, signals
from flan_jax.errors import UserError
from flan_jax.huge_pages import start_again_with_huge_pages
from flan_jax.messages import did_you_mean, nearest

# Verb -> its module, and its summary in the help.
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
        "compile the step for a slice that is not attached: memory and time of a step",
    ),
    "tasks": (
        "flan_jax.tasks.__main__",
        "show the catalogue: list, show, render, check, split, overlap",
    ),
    "convert": (
        "flan_jax.convert",
        "convert checkpoints between flan_jax, T5X, Hugging Face and peft, and from GGUF",
    ),
    "report": ("flan_jax.report.__main__", "tables and figures from results.csv"),
    "sweep": (
        "flan_jax.sweep",
        "a run for each point of a grid of settings: on this machine, under SLURM or in GKE",
    ),
    "launch": (
        "flan_jax.launch",
        "the command lines or manifests that train on several hosts: TPU VM, GKE, SLURM",
    ),
}

# The verbs that compute with a model.
_COMPUTING = ("train", "eval", "generate", "sweep")

Main = Callable[[Sequence[str]], int | None]

# Imports and tracing make many objects that stay: collecting them as often as Python does by
# default takes a tenth of the time until the first step. A long run needs no more memory: its steps
# leave no cycles (8 collections in 300 steps of a tiny model, and 8 in 3,000; a peak of 383 MB, 379
# with Python's default), and arrays are freed by their reference counts.
_COLLECT_AFTER = (50_000, 20, 20)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `flan-jax` with arguments (those of the process if None); returns its exit status."""
    return _status(_dispatch, sys.argv[1:] if argv is None else argv)


def program() -> None:
    """Runs `flan-jax` as a program, and ends the process with its status."""
    _choose_pages(sys.argv[1] if sys.argv[1:] else "")
    sys.exit(main())


def run(verb_main: Main) -> None:
    """Runs a verb as a program, and ends the process with its status.

    Its module calls it: `if __name__ == '__main__': dispatch.run(main)`.
    """
    _choose_pages(_verb_of_program())
    log.include_main_module()
    sys.exit(_status(verb_main, sys.argv[1:]))


def _choose_pages(verb: str) -> None:
    """Starts the process of a verb that computes again, in its place, with large pages."""
    if verb in _COMPUTING:
        start_again_with_huge_pages()


def _verb_of_program() -> str:
    """Returns the verb of `python -m flan_jax.VERB`."""
    spec = sys.modules["__main__"].__spec__
    return spec.name.rpartition(".")[2] if spec is not None else ""


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
`flan-jax VERB --help` shows the flags of a verb, `flan-jax --version` the version."""


def _status(verb_main: Main, argv: Sequence[str]) -> int:
    """Runs a verb and returns its exit status.

    0: finished. 2: an error that the user can correct, with a clear error message on standard
    error. 143: ended by SIGTERM or Ctrl-C; the same command does the rest. 1: any other error.
    """
    gc.set_threshold(*_COLLECT_AFTER)
    try:
        with signals.handled(signals.preempt):
            status = verb_main(list(argv)) or 0
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # The reader of a pipe, such as `head`, has ended.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        status = exit_status.explained(error)
        if status is None:
            raise
        return status


if __name__ == "__main__":
    program()
