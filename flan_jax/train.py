"""`flan-jax train`: prepare if needed, train, checkpoint, evaluate the held-out cluster, report.
The whole run.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from flan_jax import signals
from flan_jax.cli import dispatch
from flan_jax.cli.console import print_sides, print_trained
from flan_jax.cli.setup import alone, make_directory, open_run, prepared
from flan_jax.config import gin_files as gin_config
from flan_jax.config.flags import ArgumentParser
from flan_jax.parallel import processes
from flan_jax.report.write import conclude

if TYPE_CHECKING:
    from flan_jax.training import loop


@processes.end_together
def main(argv: list[str] | None = None) -> int:
    """The verb: `--gin_file=F --gin.NAME=value ...`. The same command resumes where the last one
    ended.
    """
    started = time.perf_counter()
    argv = sys.argv[1:] if argv is None else argv
    flags = gin_config.parse_command_line(argv, gin_config.CONFIGURED, make_parser())

    # 1. The model on its mesh: mistakes are found before the data are prepared.
    run = open_run(flags.profile, flags)
    make_directory(run.config.model_dir)
    with alone(run.directory, ".train.lock", "flan-jax train"):
        return _train(run, flags.gin_arguments, started)


def make_parser() -> ArgumentParser:
    """Returns the parser of the verb's own flags."""
    parser = ArgumentParser(prog="flan-jax train", description=__doc__)
    parser.add_argument(
        "--profile",
        type=int,
        default=0,
        metavar="STEPS",
        help="trace so many steps for a profiler, into MODEL_DIR/profile",
    )
    processes.add_flags(parser)
    return parser


def _train(run: loop.Run, gin_arguments: list[str], started: float) -> int:
    """The run in its directory, which no other process works in; returns the exit status."""
    from flan_jax.checkpoints import manager
    from flan_jax.evaluation import results
    from flan_jax.training import metrics_log, run_record

    # 2. Whether it may go on here.
    results.check_files(run.directory)
    metrics_log.read_steps(run.directory / metrics_log.FILE)
    config_before = run.config_before()
    saved = manager.Checkpoints(run.directory / "checkpoints", run.config.keep)
    settings = run_record.settings_of(run.data.config, run.config.initial_checkpoint_path)
    fresh = saved.latest_step() is None
    if not fresh:
        run_record.check_same(run.directory, settings)
    run.check_start(saved)

    # 3. Data: who trains, who is held out; tokens from the cache, or made now.
    data = run.data = prepared(run.data, gin_arguments)
    print_sides(data)
    initial = run.config.initial_checkpoint_path
    before = (
        run_record.trained_before(initial)
        if fresh
        else run_record.began_with(run.directory, initial)
    )
    print_trained(data, before)
    record = {**settings, **run_record.record_of(data), "trained_before": before}
    run_record.keep(run.directory, record, fresh)

    # 4. State: the latest checkpoint, else the initial one, else random.
    run.start(saved)
    run.describe(gin_config.config_text(), config_before)
    print(f"ready to train after {time.perf_counter() - started:.1f} s", flush=True)

    with run.preemption.handled():
        # 5. Steps.
        finished = run.train(saved)
        saved.close()
        if not finished:
            return signals.SAVED

        # 6. The held-out cluster, tuned and untuned, and the report.
        if not data.eval.names:
            print("no cluster is held out, so there is nothing to evaluate zero-shot", flush=True)
            return 0
        finished = run.evaluate("tuned", run.state["params"], run.step)
        run.state = None  # frees the device memory for the other parameters
        finished = finished and run.evaluate(
            "untuned", run.initial_state()["params"], 0, protocol=data.eval.untuned_protocol
        )
    return conclude(run.directory, finished, run.preemption.cause)


if __name__ == "__main__":
    dispatch.run(main)
