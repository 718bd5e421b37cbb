"""`flan-jax eval`: a checkpoint against the held-out cluster, every template, zero-shot; table and picture."""

from __future__ import annotations

import pathlib
import re
import sys

from flan_jax import cli
from flan_jax import config as gin_config
from flan_jax.data.assemble import Data, DataConfig
from flan_jax.errors import UserError
from flan_jax.evaluation.results import MAJORITY, UNTUNED
from flan_jax.prepare import CONFIGURED, print_left_out
from flan_jax.train import make_model_dir, open_devices, open_run, prepared, report_once, say_unfinished
from flan_jax.training import processes


@processes.end_together
def main(argv: list[str] | None = None) -> int:
    """The verb. Takes the gin arguments of the run: `--gin_file=RUN/config.gin`, or those it was trained with.

    What is in the output's `results.csv` already is not evaluated again.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = cli.ArgumentParser(prog="flan-jax eval", description=__doc__)
    parser.add_argument("--checkpoint", metavar="PATH", help="a run, one of its steps, or a checkpoint of "
                                                             "another program (default: the last in MODEL_DIR)")
    parser.add_argument("--step", type=int, help="the checkpoint of this step")
    parser.add_argument("--output", metavar="DIR", help="where results go (default: MODEL_DIR)")
    parser.add_argument("--name", help="column `model` of the results (default: tuned)")
    processes.add_flags(parser)
    flags = gin_config.parse_command_line(argv, CONFIGURED, parser)

    from flan_jax.training import loop

    directory = pathlib.Path(loop.TrainConfig().model_dir).expanduser()
    source = flags.checkpoint or str(directory)
    checkpoint = pathlib.Path(source).expanduser().resolve()
    own = checkpoint.is_relative_to(directory.resolve())
    if flags.name == MAJORITY:
        raise UserError(f"--name={MAJORITY} is what results call the most frequent class; give another --name.")
    if flags.name is None and flags.output is None and not own:
        raise UserError(f"--checkpoint={source} is not of MODEL_DIR {str(directory)!r}, whose own results have the "
                        "name 'tuned'; give it another --name, or its results another place with --output.")
    output = make_model_dir(flags.output, "--output") if flags.output else make_model_dir(str(directory))

    open_devices(DataConfig().cache_directory(), flags)
    data = prepared(DataConfig(), gin_config.gin_arguments(argv), only="eval")
    if not data.evaluated:
        raise UserError("HELD_OUT=none leaves nothing to evaluate; name datasets: --gin.EVAL_DATASETS=copa+arc_easy.")
    print_left_out(data)
    print_trained(data)
    run = open_run(data)
    step, params = run.read_params(source, flags.step)
    # Whoever calls a checkpoint untuned means the model that this run began with.
    whose = None if own or flags.name == UNTUNED else _run_of(checkpoint)
    with run.heeding_sigterm():
        finished = run.evaluate(flags.name or "tuned", params, step, output, whose=whose)
    return report_once(output) if finished else say_unfinished()


def print_trained(data: Data) -> None:
    """Which of what is evaluated this configuration trains on: numbers of these are not zero-shot."""
    trained = sorted(set(data.evaluated) & set(data.candidates()))
    if trained:
        print(f"not held out: {', '.join(trained)} (a run of this configuration trains on it)", flush=True)


def _run_of(checkpoint: pathlib.Path) -> pathlib.Path:
    """The directory of the run that has a checkpoint, or what else is named after its model."""
    while checkpoint.name == "checkpoints" or re.fullmatch(r"(checkpoint[_-]|step[_-])?\d+", checkpoint.name):
        checkpoint = checkpoint.parent
    return checkpoint


if __name__ == "__main__":
    cli.run(main)
