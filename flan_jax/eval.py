"""`flan-jax eval`: evaluates a checkpoint on the held-out cluster, in every template; reports."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
from typing import Any

from flan_jax.cli import dispatch
from flan_jax.cli.console import log_left_out, log_trained_on
from flan_jax.cli.setup import (
    RunSetup,
    alone,
    check_parameters,
    make_directory,
    make_evaluate,
    open_run,
    prepared,
    read_parameters,
)
from flan_jax.config import gin_files, run_directory
from flan_jax.config.checks import check_text
from flan_jax.config.flags import ArgumentParser, add_step_flag
from flan_jax.errors import UserError
from flan_jax.evaluation.known_runs import run_name
from flan_jax.evaluation.result_rows import MAJORITY, UNTUNED
from flan_jax.evaluation.results_store import ResultsStore
from flan_jax.parallel import processes
from flan_jax.report.write import conclude
from flan_jax.storage.paths import local_path


@processes.end_together
def main(argv: list[str] | None = None) -> int:
    """Evaluates a run, with its directory or its gin arguments; returns the exit status.

    What is in the output's `results.csv` already is not evaluated again.
    """
    argv = sys.argv[1:] if argv is None else argv
    flags = gin_files.parse_command_line(argv, gin_files.CONFIGURED, make_parser())

    # 1. The model on its mesh, and the checkpoints: mistakes are found before data are prepared.
    run = open_run(flags=flags)
    sources = _sources(flags, run)
    if not run.data.eval.names:
        raise UserError(
            "HELD_OUT=none leaves nothing to evaluate; name datasets: "
            "--gin.EVAL_DATASETS=copa+arc_easy."
        )

    # 2. The results, and the runs that the parameters belong to.
    if flags.output is None:
        output = make_directory(str(run.directory))
    else:
        output = make_directory(flags.output, "--output")
    results, name = ResultsStore(output), flags.name or "tuned"
    results.check()
    for source in sources:
        results.check_run(_directory_of(source, run, name), name)

    # 3. Data and evaluation.
    data = prepared(run.data, flags.gin_arguments, only="eval")
    run = dataclasses.replace(run, data=data)
    log_left_out(data)
    finished, bases = True, {}
    with run.preemption.handled():
        for source, step in sources.items():
            finished = finished and _evaluate(run, source, step, flags.step, output, name, bases)

    # 4. The report.
    return conclude(output, finished, run.preemption.cause)


def _sources(flags: argparse.Namespace, run: RunSetup) -> dict[str, int]:
    """Returns the checkpoints to evaluate, each with its step.

    Raises:
      UserError: if one cannot be read, or its numbers could be confused with those of another.
    """
    if flags.adapters is None:
        sources = [str(run.directory) if flags.checkpoint is None else flags.checkpoint]
    else:
        sources = _adapters(flags)
    for source in sources:
        _check_name(flags, source, _is_of(source, run), run.directory)
    return {source: check_parameters(run, source, flags.step) for source in sources}


def _adapters(flags: argparse.Namespace) -> list[str]:
    """Returns the runs of --adapters.

    Raises:
      UserError: if there are none, or it is given beside --checkpoint.
    """
    sources = [name for name in flags.adapters.split(",") if name]
    if not sources or flags.checkpoint is not None:
        raise UserError(
            "--adapters takes directories with commas between them, and the place of --checkpoint; "
            "give one of the two."
        )
    return sources


def _is_of(source: str, run: RunSetup) -> bool:
    """Returns whether a checkpoint belongs to the run."""
    checkpoint = local_path(source, "--checkpoint").resolve()
    return checkpoint.is_relative_to(run.directory.resolve())


def _directory_of(source: str, run: RunSetup, name: str) -> pathlib.Path:
    """Returns the directory of the run that a checkpoint belongs to."""
    # The untuned model is the one that this run began with.
    if _is_of(source, run) or name == UNTUNED:
        return run.directory
    return run_directory.run_of(local_path(source, "--checkpoint").resolve())


def _evaluate(
    run: RunSetup,
    source: str,
    step: int,
    chosen: int | str | None,
    output: pathlib.Path,
    name: str,
    bases: dict[str, Any],
) -> bool:
    """Evaluates a checkpoint into the results; returns whether everything is evaluated.

    Args:
      run: the model, and the data.
      source: the checkpoint.
      step: its step.
      chosen: the flag --step.
      output: directory of the results.
      name: of the model in them.
      bases: see `read_parameters`.
    """
    from flan_jax.training import run_record

    directory = _directory_of(source, run, name)
    # Other models may be evaluated into the same output meanwhile.
    lock = f".eval.{run_name(directory)}.{name}.{step}.lock"
    with alone(output, lock, "flan-jax eval"):
        if name == UNTUNED:
            trained_on = run_record.trained_before(run.config.initial_checkpoint_path)
        else:
            trained_on = run_record.trained_on(directory, run.data)
        log_trained_on(run.data, trained_on)
        step, params = read_parameters(run, source, chosen, bases=bases)
        return make_evaluate(run, run.data, output, directory)(name, params, step)


def make_parser() -> ArgumentParser:
    """Returns the parser of the verb's own flags."""
    parser = ArgumentParser(prog="flan-jax eval", description=__doc__)
    run_directory.add_flag(parser)
    parser.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="a run, one of its steps, or a checkpoint of "
        "another program (default: the last in MODEL_DIR)",
    )
    add_step_flag(parser)
    parser.add_argument(
        "--adapters",
        metavar="A,B,...",
        help="runs with PEFT, or their steps, that tune the same base: each is evaluated, and the "
        "base is read once",
    )
    parser.add_argument("--output", metavar="DIR", help="where results go (default: MODEL_DIR)")
    parser.add_argument("--name", help="column `model` of the results (default: tuned)")
    processes.add_flags(parser)
    return parser


def _check_name(
    flags: argparse.Namespace, source: str, is_of_run: bool, directory: pathlib.Path
) -> None:
    """Checks that the numbers cannot be confused with those of another model.

    Raises:
      UserError: if --name is not valid, or missing where it is needed.
    """
    name = flags.name
    if name == "":
        raise UserError("--name= is empty; give another --name.")
    if name == MAJORITY:
        raise UserError(
            f"--name={name} is the most frequent class in results; give another --name."
        )
    if name is not None:
        check_text("--name", name)
        if "/" in name or name.startswith("."):
            raise UserError(
                f"--name={name} cannot be a folder of predictions; give a --name without / and "
                "without a dot in front."
            )
    elif flags.output is None and not is_of_run:
        raise UserError(
            f"--checkpoint={source} is not in MODEL_DIR {str(directory)!r}, where results have the "
            "name 'tuned'; give it another --name, or write its results elsewhere with --output."
        )


if __name__ == "__main__":
    dispatch.run(main)
