"""`flan-jax prepare`: builds or checks the token cache of a configuration. Resumable: what is there is not redone."""

from __future__ import annotations

import collections
import concurrent.futures
import json
import multiprocessing
import os
import sys
import time

import tqdm

from flan_jax import config as gin_config
from flan_jax.cli import ArgumentParser, run
from flan_jax.data.assemble import Data, DataConfig
from flan_jax.data.cache import open_train_shard
from flan_jax.data.catalogue import CATALOGUE
from flan_jax.data.packing import MissingEpochs, Plan

# The modules whose parameters a run's gin files may set; training ones too, since the same files configure both.
CONFIGURED = ("flan_jax.data.assemble", "flan_jax.training.loop", "flan_jax.training.optimizer", "flan_jax.models.t5")

_MOST_WORKERS = 16
_WORKER: Data | None = None


def prepare(config: DataConfig, workers: int | None = None, only: str | None = None) -> Data:
    """Builds what the cache lacks for a run: held-out rows, first epochs, then the epochs that the plan asks for.

    Args:
      config: the data of the run.
      workers: processes that render and encode; None for one a core.
      only: 'eval' for the held-out rows alone.

    Returns:
      The data, with `ready()` true (`eval_ready()` if `only` is 'eval').
    """
    start = time.time()
    data = Data(config)
    if data.source.kind in ("tfds", "hf"):
        _download(data)
    _build(data, [("eval", d.name, t.id) for d, t in data.eval_missing()], "held-out rows", workers)
    print_eval_counts(data)
    for split in () if only == "eval" else ("train", "validation"):
        plan = _plan(data, split, workers)
        if plan is not None and split == "train":
            print_plan(data, plan)
    for name, reason in data.left_out.items():
        print(f"left out: {name} ({reason})", flush=True)
    print(f"token cache ready in {time.time() - start:.1f} s: {data.directory}", flush=True)
    return data


def print_plan(data: Data, plan: Plan) -> None:
    """How full the rows are, and what was shortened, cut or dropped on the way."""
    print(f"packing: {len(plan.member):,} examples in {len(plan):,} rows, {plan.filled_text()} filled", flush=True)
    for member in data.members():
        counts = open_train_shard(data.shard_path(member.name, 0)).meta["counts"]
        lost = {k: v for k, v in counts.items() if k not in ("rows", "rows read")}
        if lost:
            detail = ", ".join(f"{v:,} {k}" for k, v in lost.items())
            print(f"  {member.name}: {counts['rows read']:,} rows read, {counts['rows']:,} kept; {detail}", flush=True)


def print_eval_counts(data: Data) -> None:
    """What was dropped, shortened or cut of the held-out rows, summed over templates."""
    lost: dict[str, collections.Counter] = {}
    for dataset, template in data.eval_jobs():
        counts = json.loads((data.eval_path(dataset, template) / "meta.json").read_text(encoding="utf-8"))["counts"]
        lost.setdefault(dataset.name, collections.Counter()).update(
            {k: v for k, v in counts.items() if k not in ("rows", "rows read")})
    for name, counts in lost.items():
        if counts:
            print(f"  held out, over all templates: {name}: "
                  + ", ".join(f"{v:,} {k}" for k, v in counts.items()), flush=True)


def _download(data: Data) -> None:
    for name in dict.fromkeys([*data.candidates(), *data.split.eval]):
        reason = data.source.download(CATALOGUE[name])
        if reason:
            print(f"not available: {name} ({reason})", flush=True)


def _plan(data: Data, split: str, workers: int | None) -> Plan | None:
    while True:
        try:
            return data.plan(split)
        except MissingEpochs as error:
            _build(data, [(split, name, epoch) for name, epoch in sorted(error.wanted)], f"{split} rows", workers)


def _build(data: Data, jobs: list[tuple[str, str, object]], title: str, workers: int | None) -> None:
    if not jobs:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = min(workers or cores, _MOST_WORKERS, len(jobs))
    with tqdm.tqdm(total=len(jobs), desc=title, unit="shard", file=sys.stdout, mininterval=1) as progress:
        if workers == 1 or data.seqio_tasks or len(jobs) < 8:
            for job in jobs:
                _run_job(data, job)
                progress.update()
            return
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (data.config,)) as pool:
            for future in concurrent.futures.as_completed([pool.submit(_work, job) for job in jobs]):
                future.result()
                progress.update()


def _start_worker(config: DataConfig) -> None:
    global _WORKER
    _WORKER = Data(config)


def _work(job: tuple[str, str, object]) -> None:
    _run_job(_WORKER, job)


def _run_job(data: Data, job: tuple[str, str, object]) -> None:
    side, name, choice = job
    if side == "eval":
        data.build_eval(CATALOGUE[name], CATALOGUE[name].template(choice))
    else:
        data.build_shard(name, choice, side)


def main(argv: list[str] | None = None) -> int:
    """The verb. Takes the same gin arguments as `train`."""
    parser = ArgumentParser(prog="flan-jax prepare", description=__doc__)
    parser.add_argument("--only", choices=["eval"], help="build the held-out rows alone")
    parser.add_argument("--workers", type=int, help="processes that render and encode (default: one a core)")
    flags = gin_config.parse_command_line(sys.argv[1:] if argv is None else argv, CONFIGURED, parser)
    prepare(DataConfig(), flags.workers, flags.only)
    return 0


if __name__ == "__main__":
    run(main)
