"""`flan-jax prepare`: builds the token cache of a configuration, without what is in it already."""

from __future__ import annotations

import argparse
import concurrent.futures
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator

from flan_jax import log
from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.cli.dispatch import run
from flan_jax.config import gin_files
from flan_jax.config.checks import check_number
from flan_jax.config.flags import ArgumentParser
from flan_jax.data.config import DataConfig
from flan_jax.data.packing import MissingEpochs, Plan
from flan_jax.data.packs import PackWriter, Shard, check_writable
from flan_jax.data.prune import prune
from flan_jax.data.run_data import Job, RunData, open_data, train_jobs
from flan_jax.errors import UserError
from flan_jax.progress import progress
from flan_jax.runs.data_log import log_eval_counts, log_left_out, log_plan
from flan_jax.storage.locks import claimed

_MOST_WORKERS = 16
_ALONE_SECONDS = 3.0  # about what it takes to start them

# The data of the run in a process that renders.
_WORKER: RunData | None = None

_log = logging.getLogger(__name__)


def prepare(config: DataConfig, workers: int | None = None, only: str | None = None) -> RunData:
    """Builds what the cache lacks for a run.

    Held-out rows first, then first epochs, then the epochs that the plan needs.

    Args:
      config: the data of the run.
      workers: processes that render and encode; None for one a core.
      only: 'eval' for the held-out rows alone.

    Returns:
      The data; nothing of it is missing (`RunData.missing(only)`).

    Raises:
      UserError: for settings that cannot work, rows that cannot be read, a cache that cannot be
        written.
    """
    if workers is not None:
        check_number("--workers", workers, whole=True, least=1)
    start = time.time()
    data = open_data(config.for_evaluation() if only == "eval" else config)
    _download(data)
    with _Builders(data, workers) as builders:
        protocols = [data.eval.eval_protocol] if only == "eval" else None
        builders.build(data.missing_eval(protocols), "held-out rows")
        log_eval_counts(data)
        for split in () if only == "eval" else ("train", "validation"):
            plan = _plan(data, split, builders)
            if plan is not None and split == "train":
                log_plan(data, plan)
    data.cache.push()
    _log.info("token cache ready in %.1f s: %s", time.time() - start, data.directory)
    return data


def _download(data: RunData) -> None:
    for name in dict.fromkeys([*data.train.candidates(), *data.eval.names]):
        reason = data.source.download(CATALOGUE[name])
        if reason:
            _log.info("not available: %s (%s)", name, reason)


def _plan(data: RunData, split: str, builders: _Builders) -> Plan | None:
    """Builds the epochs that the plan of a split needs; returns the plan, None without rows."""
    while True:  # the first epochs decide which others are needed
        try:
            return data.train.plan(split)
        except MissingEpochs as error:
            builders.build(train_jobs(split, error), f"{split} rows")


class _Builders:
    """Builds shards, many at once in processes of their own, which start when they are worth it.

    Args:
      data: of the run.
      workers: processes; None for one a core.
    """

    def __init__(self, data: RunData, workers: int | None) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.data, self.workers = data, min(workers or cores, _MOST_WORKERS)
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> _Builders:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._pool is None:
            return
        if kind is not None:  # what is being rendered is not needed any more
            for worker in multiprocessing.active_children():
                worker.terminate()
        self._pool.shutdown(cancel_futures=True)

    def build(self, jobs: list[Job], title: str) -> None:
        """Renders what the cache lacks of these jobs; waits for what another process renders.

        Args:
          jobs: shards to render.
          title: what they are, for the log and the progress bar.
        """
        wanted = {job.key(self.data): job for job in jobs}
        lock = self.data.cache.packs.directory / "lock"
        while wanted := self._lacking(wanted):
            check_writable(lock.parent)
            with claimed(
                lock, list(wanted), "flan-jax prepare", lambda who: _log_waiting(title, who)
            ) as held:
                # another process may have built some before this one held them
                self._render(self._lacking({key: wanted[key] for key in held}), title)

    def _lacking(self, jobs: dict[str, Job]) -> dict[str, Job]:
        are_whole = self.data.cache.packs.are_whole(jobs)
        if not all(are_whole) and self.data.cache.fetch(jobs):
            are_whole = self.data.cache.packs.are_whole(jobs)
        return {key: job for (key, job), is_whole in zip(jobs.items(), are_whole) if not is_whole}

    def _render(self, jobs: dict[str, Job], title: str) -> None:
        if not jobs:
            return
        start, rows = time.perf_counter(), 0
        with (
            progress(len(jobs), title, "shard") as update,
            PackWriter(self.data.cache.packs.directory) as writer,
        ):
            for shard in self._shards(jobs.values()):
                writer.add(shard)
                rows += len(shard.arrays.get("inputs_ends", ())) or shard.meta["counts"]["rows"]
                update()
        seconds = time.perf_counter() - start
        _log.info(
            "%s: %s examples in %.1f s, %s a second",
            title,
            f"{rows:,}",
            seconds,
            f"{rows / seconds:,.0f}",
        )

    def _shards(self, jobs: Collection[Job]) -> Iterator[Shard]:
        """The shards of the jobs: rendered here while that is quicker, then in processes."""
        start, jobs = time.perf_counter(), list(jobs)
        # What SeqIO has registered is in this process alone.
        is_alone = self.workers == 1 or self.data.train.trained.seqio_tasks
        while jobs and self._pool is None:
            if not is_alone and time.perf_counter() - start >= _ALONE_SECONDS:
                self._pool = self._start_pool()
                break
            yield jobs.pop(0).render(self.data)
        if jobs:
            yield from self._shards_of_pool(jobs)

    def _start_pool(self) -> concurrent.futures.ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        level = logging.getLevelName(_log.getEffectiveLevel()).lower()
        return concurrent.futures.ProcessPoolExecutor(
            self.workers, context, _start_worker, (self.data.config, level)
        )

    def _shards_of_pool(self, jobs: Collection[Job]) -> Iterator[Shard]:
        # The processes that start here inherit that Ctrl-C is blocked; it would end them in the
        # middle of imports.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            futures = [self._pool.submit(_work, job) for job in jobs]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a process that renders rows was killed, perhaps for lack of memory; the same "
                "command continues with what is in the cache; --workers=1 needs less memory."
            ) from error


def _log_waiting(title: str, holder: str) -> None:
    _log.info("%s: waiting for %s, which renders the same rows", title, holder)


def _start_worker(config: DataConfig, log_level: str) -> None:
    global _WORKER
    log.configure(log_level)
    # Ctrl-C reaches all of a terminal's processes; the first one ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _when_gone(multiprocessing.parent_process().join, lambda: os._exit(1))
    _WORKER = open_data(config)


def _when_gone(wait: Callable[[], object], then: Callable[[], object]) -> None:
    """Calls `then` when `wait` returns: when the parent process is gone, even if it was killed."""

    def watch() -> None:
        wait()
        then()

    threading.Thread(target=watch, daemon=True, name="parent").start()


def _work(job: Job) -> Shard:
    return job.render(_WORKER)


def main(argv: list[str] | None = None) -> int:
    """Runs the verb; it takes the same gin arguments as `train`."""
    flags = gin_files.parse_command_line(
        sys.argv[1:] if argv is None else argv, gin_files.CONFIGURED, make_parser()
    )
    if flags.for_a_run:
        _when_gone(lambda: os.read(0, 1), lambda: os.kill(os.getpid(), signal.SIGTERM))
    if flags.prune:
        return _prune(flags.older_than, flags.dry_run)
    if flags.dry_run:
        raise UserError("--dry_run has no effect without --prune; leave it out.")
    data = prepare(DataConfig(), flags.workers, flags.only)
    if not flags.for_a_run:
        log_left_out(data)
    return 0


def make_parser() -> ArgumentParser:
    """Returns the parser of the verb's own flags."""
    parser = ArgumentParser(prog="flan-jax prepare", description=__doc__)
    parser.add_argument("--only", choices=["eval"], help="build the held-out rows alone")
    parser.add_argument(
        "--workers", type=int, help="processes that render and encode (default: one a core)"
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="prepare nothing; remove from the cache what no run can use any more, and what these "
        "settings do not use and none has used for --older_than days; print what was freed",
    )
    parser.add_argument(
        "--older_than", type=float, default=30, metavar="DAYS", help="see --prune (default: 30)"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="with --prune, only print what it would free"
    )
    # For `prepare` as a child of a run: the run logs what is left out, and when it ends, standard
    # input is closed and this process ends, too.
    parser.add_argument("--for_a_run", action="store_true", help=argparse.SUPPRESS)
    return parser


def _prune(older_than: float, dry_run: bool) -> int:
    check_number("--older_than", older_than, least=0)
    config = DataConfig()
    if bucket := config.cache_bucket():
        raise UserError(
            f"--prune cleans caches on the disk; delete the objects of {bucket}/tokens that are no "
            "longer read with a lifecycle rule of the bucket, or all of them: the next start "
            "renders what it needs."
        )
    data = open_data(config)
    try:
        freed = prune(data, older_than, dry_run)
    except PermissionError as error:
        raise UserError(
            f"cannot prune {data.directory} ({error.strerror}: {error.filename}); run this as "
            "the user whose cache it is, or set CACHE_DIR to your own."
        ) from error
    print(f"{data.directory}\n{freed.text(dry_run)}")
    return 0


if __name__ == "__main__":
    run(main)
