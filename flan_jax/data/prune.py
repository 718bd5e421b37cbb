"""`flan-jax prepare --prune`: removes from the cache what no run uses any more."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import pathlib
import shutil
import time
from collections.abc import Iterator

from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.data.packs import Pack, PackWriter
from flan_jax.data.run_data import RunData

OTHER_CODE = "rendered by other code or templates"
UNUSED = "not used for {days} days"
UNFINISHED = "unfinished or damaged files that no process writes"
EARLIER = "of earlier versions of flan_jax"

_DAY = 24 * 3600.0


@dataclasses.dataclass
class Freed:
    """What was removed, or would be.

    Attributes:
      count, size: shards or files, and their bytes, by the reason.
      kept, kept_size: shards that stay, and the bytes of their files.
    """

    count: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    size: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    kept: int = 0
    kept_size: int = 0

    def add(self, reason: str, size: int) -> None:
        """Counts a shard or file."""
        self.count[reason] += 1
        self.size[reason] += size

    def text(self, dry_run: bool) -> str:
        """Returns what to print."""
        lines = [
            f"{reason}: {count:,}, {_megabytes(self.size[reason])}"
            for reason, count in self.count.items()
        ]
        total = _megabytes(sum(self.size.values()))
        return "\n".join(
            [
                *lines,
                f"{'would free' if dry_run else 'freed'} {total}; {self.kept:,} shards "
                f"({_megabytes(self.kept_size)}) stay",
            ]
        )


def prune(data: RunData, days: float, dry_run: bool = False) -> Freed:
    """Removes shards, plans and unfinished files from the cache of a run's data.

    What the settings of `data` use stays, whatever its age. Of the rest is removed what this
    version of flan_jax cannot look up, as its code or templates have changed, and what no run has
    opened for `days` days. A run in progress keeps what it has opened, and renders again what it
    lacks at its next start.

    Args:
      data: of the run.
      days: age from which unused shards are removed.
      dry_run: whether only to count.

    Raises:
      PermissionError: if a file cannot be removed.
    """
    freed, plans = Freed(), data.train.plans_in_use()
    used = data.eval.keys_in_use() | data.train.keys_in_use()
    before, unused = time.time() - days * _DAY, UNUSED.format(days=f"{days:g}")
    for pack in data.cache.packs.packs():
        with contextlib.suppress(FileNotFoundError):  # another process prunes, too
            _prune_pack(data, pack, used, before, unused, freed, dry_run)
    left = [(UNFINISHED, path) for path in data.cache.packs.unfinished()]
    left += [
        (unused, path)
        for path in (data.directory / "plans").glob("*.npz")
        if path not in plans and _is_older(path, before)
    ]
    left += [(EARLIER, path) for path in _earlier(data.directory)]
    for reason, path in left:
        freed.add(reason, _size(path))
        if not dry_run:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(
                missing_ok=True
            )
            # the directory of a dataset, if this was the last one in it
            with contextlib.suppress(OSError):
                path.parent.rmdir()
    return freed


def _prune_pack(
    data: RunData,
    pack: Pack,
    used: set[str],
    before: float,
    unused: str,
    freed: Freed,
    dry_run: bool,
) -> None:
    state = pack.path.stat()
    reasons = {}
    for key, entry in pack.index.items():
        dataset, code = entry["meta"].get("dataset"), entry["meta"].get("code")
        if key in used:
            continue
        if (
            code is not None
            and dataset in CATALOGUE
            and code != data.cache.code_digest(CATALOGUE[dataset])
        ):
            reasons[key] = OTHER_CODE
        elif state.st_mtime < before:
            reasons[key] = unused
    kept = [key for key in pack.index if key not in reasons]
    share = state.st_size / max(1, sum(map(pack.size_of, pack.index)))
    for key, reason in reasons.items():
        freed.add(reason, int(pack.size_of(key) * share))
    freed.kept += len(kept)
    freed.kept_size += int(sum(map(pack.size_of, kept)) * share)
    if dry_run or not reasons:
        return
    with PackWriter(pack.path.parent) as writer:
        for key in kept:
            with contextlib.suppress(ValueError):  # damaged
                writer.add(pack.read(key))
    for path in writer.written:
        os.utime(path, (state.st_atime, state.st_mtime))
    pack.path.unlink(missing_ok=True)


def _earlier(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """The shards that versions before packs wrote: a directory each, below that of a dataset."""
    for meta in directory.glob("*/*/meta.json"):
        if (meta.parent / "inputs_ends.npy").is_file() or (
            meta.parent / "tokens_ends.npy"
        ).is_file():
            yield meta.parent


def _is_older(path: pathlib.Path, moment: float) -> bool:
    with contextlib.suppress(FileNotFoundError):  # another process prunes, too
        return path.stat().st_mtime < moment
    return False


def _size(path: pathlib.Path) -> int:
    size = 0
    for file in path.rglob("*") if path.is_dir() else [path]:
        with contextlib.suppress(FileNotFoundError):
            size += file.stat().st_size if file.is_file() else 0
    return size


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
