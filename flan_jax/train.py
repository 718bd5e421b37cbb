"""`flan-jax train`: prepare if needed, train, checkpoint, evaluate the held-out cluster, report. The whole run."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from flan_jax import cli
from flan_jax import config as gin_config
from flan_jax.data.assemble import Data, DataConfig
from flan_jax.data.clusters import CLUSTERS
from flan_jax.data.mixture import UNSEEN, format_card
from flan_jax.errors import UserError
from flan_jax.prepare import CONFIGURED, print_counts, print_left_out
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
    flags = gin_config.parse_command_line(argv, CONFIGURED, parser)
    from flan_jax.training import checkpoints, loop

    train_config = loop.TrainConfig()
    directory = make_model_dir(train_config.model_dir)

    # 1. Data: who trains, who is held out; tokens from the cache, or made now.
    open_devices(DataConfig().cache_directory(), flags)
    saved = checkpoints.Checkpoints(directory / "checkpoints", train_config.keep, "validation_loss", "min")
    settings = settings_of(DataConfig(), train_config.initial_checkpoint_path)
    fresh = saved.latest_step() is None
    if not fresh:
        loop.check_same_mixture(directory, settings)
    data = prepared(DataConfig(), gin_config.gin_arguments(argv))
    print_sides(data)

    # 2. Model on its mesh.
    run = open_run(data, flags.profile)
    loop.keep_mixture(directory, {**settings, **record_of(data)}, fresh)
    run.describe(gin_config.config_text())

    # 3. State: the latest checkpoint, else the initial one, else random.
    run.start(saved)
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
    return report_once(directory) if finished else say_unfinished()


def say_unfinished() -> int:
    """Says that SIGTERM ended an evaluation; gives the exit status."""
    print("SIGTERM: the evaluation is not finished; the same command does the rest.", flush=True)
    return 0


def report_once(directory: pathlib.Path) -> int:
    """Table and picture of a run, made by the first of several hosts."""
    import jax

    from flan_jax import report

    return report.main([str(directory)]) if jax.process_index() == 0 else 0


def open_devices(directory: pathlib.Path, flags: argparse.Namespace | None = None) -> None:
    """Joins the other processes, if any, and prints the first line of the log: which process this is, devices, mesh.

    Args:
      directory: of the token cache; compiled programs are kept there.
      flags: with those of `processes.add_flags`.
    """
    import jax

    from flan_jax.training import devices, loop, partitioning

    devices.set_up(directory / "compiled", flags)
    shape = loop.TrainConfig().mesh or {"fsdp": -1}
    mesh = shape if shape == "auto" else dict(partitioning.make_mesh(shape).shape)
    print(f"process {jax.process_index()} of {jax.process_count()}, {jax.device_count()} {jax.default_backend()} "
          f"devices, mesh {mesh}", flush=True)


def prepared(config: DataConfig, argv: list[str], only: str | None = None) -> Data:
    """The data of a configuration; `flan-jax prepare` runs first, in a process of its own, if the cache lacks some.

    Of several hosts the first one prepares and the others wait for it.

    Raises:
      SystemExit: if the preparation failed, with its status; it has said why.
    """
    import jax
    from jax.experimental import multihost_utils

    data = Data(config)
    first, status = jax.process_index() == 0, 0
    prepares = first and bool(data.undownloaded() or not _is_ready(data, only))
    if prepares:
        command = [sys.executable, "-m", "flan_jax.prepare", *([f"--only={only}"] if only else []), *argv]
        status = subprocess.run(command, check=False).returncode
    if jax.process_count() > 1:
        processes.wait_for_all("the token cache")
        status = int(multihost_utils.broadcast_one_to_all(np.int32(status)))
    if status:
        raise SystemExit(status)
    data = Data(config)
    if not _is_ready(data, only):
        raise UserError(f"the token cache in {data.directory} lacks what was just prepared: is it on storage that all "
                        "hosts see, and are the data left alone? Then run the same command again.")
    if first and not prepares:  # The preparation has said so, too.
        print_counts(data, only)
    return data


def _is_ready(data: Data, only: str | None) -> bool:
    return data.eval_ready() if only == "eval" else data.ready()


def open_run(data: Data, profile_steps: int = 0):
    """The `loop.Run` that gin configures, on the devices that `open_devices` opened."""
    from flan_jax.training import loop

    return loop.Run(loop.TrainConfig(profile_steps=profile_steps), data)


def make_model_dir(name: str, setting: str = "MODEL_DIR") -> pathlib.Path:
    """The directory of a run or of results, made and found writable; `setting` is what it was given as.

    Raises:
      UserError: if it cannot be written.
    """
    if "://" in name:
        raise UserError(f"{name!r} is no path of a file system; mount the bucket and give the path where it is "
                        "mounted.")
    directory = pathlib.Path(name).expanduser()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise UserError(f"{setting} {name!r} cannot be written ({error.strerror}); give another directory.") from error
    return directory


def print_sides(data: Data) -> None:
    """Who trains (the mixture card), who is held out, who is dropped with it, and who is missing."""
    held_out = data.config.held_out
    print(f"held out: {CLUSTERS.get(held_out, held_out)}: {', '.join(data.split.eval) or '-'}")
    print(f"evaluated: {', '.join(data.eval_datasets()) or '-'}")
    if data.evaluated:
        trained = [name for name in data.evaluated if name not in data.split.eval]
        promise = f"no promise, {', '.join(trained)} is not held out" if trained else UNSEEN[data.split.unseen]
        print(f"evaluated as unseen: {promise}")
    for why in dict.fromkeys(data.split.why.values()):
        print(f"dropped ({why}): {', '.join(n for n in data.split.dropped if data.split.why[n] == why)}")
    members = data.members()
    print_left_out(data)
    if data.split.eval and data.unchecked():
        print(f"not checked for overlap with what is held out: SeqIO task {', '.join(data.unchecked())}")
    print(format_card(data.card(members)))
    validation = {m.name for m in data.members("validation")}
    without = [m.name for m in members if m.name not in validation]
    if without:
        print(f"without validation rows: {', '.join(without)}")
    print(f"packing fills {data.plan().filled_text()}", flush=True)


def settings_of(config: DataConfig, initial_checkpoint_path: str | None) -> dict[str, Any]:
    """What must be set as it was when a run is resumed."""
    return {
        "held_out": config.held_out, "seed": config.seed, "pack": config.pack, "options_style": config.options_style,
        "instructions": config.instructions, "shots": config.shots, "decontaminate": config.decontaminate,
        "architecture": config.architecture, "batch_size": config.batch_size,
        "task_feature_lengths": list(config.lengths()), "initial_checkpoint_path": initial_checkpoint_path,
    }


def record_of(data: Data) -> dict[str, Any]:
    """What these settings make of the data, the card included; must be the same when a run is resumed, too."""
    return {
        "eval": data.evaluated, "dropped": data.split.dropped, "left_out": data.left_out,
        "card": [dataclasses.asdict(row) for row in data.card(data.members())],
        "shards": {m.name: data.shard_path(m.name, 0).name for m in data.members()},
        "vocabulary": data.vocabulary.fingerprint,
    }


if __name__ == "__main__":
    cli.run(main)
