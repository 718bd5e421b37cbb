"""`flan-jax train`: prepare if needed, train, checkpoint, evaluate the held-out cluster, report. The whole run."""

from __future__ import annotations

import sys
import time

from flan_jax import cli, report
from flan_jax import config as gin_config
from flan_jax.opening import make_directory, open_run, prepared
from flan_jax.printing import print_sides
from flan_jax.training import processes


@processes.end_together
def main(argv: list[str] | None = None) -> int:
    """The verb: `--gin_file=F --gin.NAME=value ...`. The same command resumes where the last one ended."""
    started = time.perf_counter()
    argv = sys.argv[1:] if argv is None else argv
    parser = cli.ArgumentParser(prog="flan-jax train", description=__doc__)
    parser.add_argument("--profile", type=int, default=0, metavar="STEPS",
                        help="trace so many steps for a profiler, into MODEL_DIR/profile")
    processes.add_flags(parser)
    flags = gin_config.parse_command_line(argv, gin_config.CONFIGURED, parser)
    from flan_jax.evaluation import results
    from flan_jax.training import checkpoints, metrics_log, mixture_record

    # 1. The model on its mesh, and whether it may go on here: mistakes are found before the data are prepared.
    run = open_run(flags.profile, flags)
    results.check_files(make_directory(run.config.model_dir))
    metrics_log.read_steps(run.directory / metrics_log.FILE)
    saved = checkpoints.Checkpoints(run.directory / "checkpoints", run.config.keep)
    settings = mixture_record.settings_of(run.data.config, run.config.initial_checkpoint_path)
    fresh = saved.latest_step() is None
    if not fresh:
        mixture_record.check_same(run.directory, settings)
    run.check_start(saved)

    # 2. Data: who trains, who is held out; tokens from the cache, or made now.
    data = run.data = prepared(run.data, gin_config.gin_arguments(argv))
    print_sides(data)
    mixture_record.keep(run.directory, {**settings, **mixture_record.record_of(data)}, fresh)

    # 3. State: the latest checkpoint, else the initial one, else random.
    run.start(saved)
    run.describe(gin_config.config_text())
    print(f"ready to train after {time.perf_counter() - started:.1f} s", flush=True)

    with run.heeding_sigterm():
        # 4. Steps.
        finished = run.train(saved)
        saved.close()
        if not finished:
            return 0

        # 5. The held-out cluster, tuned and untuned, and the report.
        if not data.evaluated:
            print("no cluster is held out, so there is nothing to evaluate zero-shot", flush=True)
            return 0
        finished = run.evaluate("tuned", run.state["params"], run.step)
        run.state = None  # frees the device memory for the other parameters
        finished = finished and run.evaluate("untuned", run.initial_state()["params"], 0, asked=data.asked_untuned)
    return report.conclude(run.directory, finished)


if __name__ == "__main__":
    cli.run(main)
