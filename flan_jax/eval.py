"""`flan-jax eval`: a checkpoint against the held-out cluster, every template, zero-shot; table and
picture.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from flan_jax.cli import dispatch
from flan_jax.cli.console import log_left_out, log_trained_on
from flan_jax.cli.setup import (
    alone,
    check_parameters,
    make_directory,
    make_evaluate,
    open_run,
    prepared,
    read_parameters,
)
from flan_jax.config import gin_files as gin_config
from flan_jax.config import run_directory
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
    """The verb. Takes a run's directory, or the gin arguments that it was trained with.

    What is in the output's `results.csv` already is not evaluated again.
    """
    argv = sys.argv[1:] if argv is None else argv
    flags = gin_config.parse_command_line(argv, gin_config.CONFIGURED, make_parser())

    from flan_jax.training import run_record

    run = open_run(flags=flags)
    source = str(run.directory) if flags.checkpoint is None else flags.checkpoint
    checkpoint = local_path(source, "--checkpoint").resolve()
    own = checkpoint.is_relative_to(run.directory.resolve())
    _check_name(flags, source, own, run.directory)
    step = check_parameters(run, source, flags.step)
    if not run.data.eval.names:
        raise UserError(
            "HELD_OUT=none leaves nothing to evaluate; name datasets: "
            "--gin.EVAL_DATASETS=copa+arc_easy."
        )
    output = (
        make_directory(str(run.directory))
        if flags.output is None
        else make_directory(flags.output, "--output")
    )
    results = ResultsStore(output)
    results.check()

    # Whoever calls a checkpoint untuned means the model that this run began with.
    whose = run.directory if own or flags.name == UNTUNED else run_directory.run_of(checkpoint)
    name = flags.name or "tuned"
    results.check_run(whose, name)
    # Other models and steps may be evaluated into the same output at the same time.
    with alone(output, f".eval.{run_name(whose)}.{name}.{step}.lock", "flan-jax eval"):
        data = prepared(run.data, flags.gin_arguments, only="eval")
        log_left_out(data)
        log_trained_on(
            data,
            run_record.trained_before(run.config.initial_checkpoint_path)
            if name == UNTUNED
            else run_record.trained_on(whose, data),
        )
        step, params = read_parameters(run, source, flags.step)
        with run.preemption.handled():
            finished = make_evaluate(run, data, output, whose)(name, params, step)
        return conclude(output, finished, run.preemption.cause)


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
    parser.add_argument("--output", metavar="DIR", help="where results go (default: MODEL_DIR)")
    parser.add_argument("--name", help="column `model` of the results (default: tuned)")
    processes.add_flags(parser)
    return parser


def _check_name(flags: argparse.Namespace, source: str, own: bool, directory: pathlib.Path) -> None:
    """Makes sure that no numbers are taken for those of another model."""
    if flags.name in ("", MAJORITY):
        raise UserError(
            f"--name={flags.name} is "
            f"{'empty' if not flags.name else 'the most frequent class in results'}; give another "
            "--name."
        )
    if flags.name is not None:
        check_text("--name", flags.name)
    if flags.name and ("/" in flags.name or flags.name.startswith(".")):
        raise UserError(
            f"--name={flags.name} cannot be a folder of predictions; give a --name without / and "
            "without a dot in front."
        )
    if flags.name is None and flags.output is None and not own:
        raise UserError(
            f"--checkpoint={source} is not of MODEL_DIR {str(directory)!r}, whose own results have "
            "the name 'tuned'; give it another --name, or its results another place with --output."
        )


if __name__ == "__main__":
    dispatch.run(main)
