"""Checkpoints of a run: Orbax's CheckpointManager behind one small class.

Trees are given unstacked (`models/stacking.py`) and named by their paths, so that what is on disk
does not depend on how the run keeps its state in memory, nor on the mesh: a restore takes the
shapes and shardings of its argument. A step's directory has two items, `params` and `state`
(everything else), so that evaluation reads the parameters alone.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import operator
import os
import pathlib
import re
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath

from flan_jax.checkpoints import bucket_clients
from flan_jax.checkpoints.bucket_clients import bucket_error, list_again
from flan_jax.checkpoints.bucket_saving import BucketSaving
from flan_jax.checkpoints.check import check_tensors
from flan_jax.checkpoints.formats import orbax_files, zarr_chunks
from flan_jax.checkpoints.shared_storage import check_same_steps, check_shared
from flan_jax.checkpoints.steps import VALIDATION_LOSS
from flan_jax.errors import UserError
from flan_jax.log import root_handlers_kept
from flan_jax.models.stacking import named
from flan_jax.parallel.processes import any_of_all
from flan_jax.storage.files import NO_ROOM, read_json
from flan_jax.storage.places import place
from flan_jax.storage.remote import Remote

with root_handlers_kept():
    import orbax.checkpoint as ocp
    from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

_ITEMS = ("params", "state")
# What TensorStore reports of files that may be whole: they cannot be read now, or not by this user.
_OUT_OF_REACH = re.compile(
    "PERMISSION_DENIED|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|UNAUTHENTICATED|ABORTED"
)

_log = logging.getLogger(__name__)

# Orbax logs the traceback of what goes wrong in each of its threads, and raises it too; once is
# enough.
logging.getLogger("absl").addFilter(
    lambda record: record.levelno < logging.ERROR or "orbax" not in record.pathname
)
logging.getLogger("asyncio").addFilter(lambda record: "orbax" not in record.getMessage())


_OF_CLOSED_LOOPS = ("Event loop is closed", "sys.meta_path is None, Python is likely shutting down")


def _without_closed_loops(unraisable: Any, otherwise: Any = sys.unraisablehook) -> None:
    """Omits what TensorStore and Orbax raise in an event loop that an error has ended."""
    if str(unraisable.exc_value) not in _OF_CLOSED_LOOPS:
        otherwise(unraisable)


sys.unraisablehook = _without_closed_loops


class Damaged(UserError):
    """A checkpoint that exists and cannot be read."""


class Checkpoints:
    """Saves and restores the trees of one run below `directory`, in the background.

    A tree is a dict with the key `params` and any others. The last `keep` checkpoints stay, and the
    one with the lowest validation loss.

    Raises:
      UserError: when the directory cannot be written, or the hosts of a run do not see the same in
        it.
    """

    def __init__(
        self,
        directory: str | os.PathLike | Remote,
        keep: int = 3,
        may_save: Callable[[], bool] = lambda: True,
    ):
        """Opens the directory.

        Args:
          directory: of the checkpoints.
          keep: how many of the last ones stay.
          may_save: see `BucketSaving`; for a bucket only.
        """
        self._keep = keep
        self._remote = directory if isinstance(directory, Remote) else None
        if self._remote is None:
            self.directory, self._saves = _writable(directory), None
            check_shared(self.directory)
            _remove_truncated_metrics(self.directory)
        else:  # all hosts see it, and objects are whole
            self.directory = epath.Path(str(directory))
            self._saves = BucketSaving(directory, may_save, self._reopen)
        with self._reaching("read"):
            self._manager = self._open()
        check_same_steps(self.directory, sorted(self._manager.all_steps()))

    def _open(self) -> _Manager:
        if self._remote is not None:
            list_again(self._remote)
        loss = operator.itemgetter(VALIDATION_LOSS)
        lowest = BestN(
            get_metric_fn=loss, reverse=True, n=1, keep_checkpoints_without_metrics=False
        )
        # Orbax writes metrics only where there is a `best_fn`; the policy decides what stays.
        options = ocp.CheckpointManagerOptions(
            best_fn=loss,
            preservation_policy=AnyPreservationPolicy([LatestN(n=self._keep), lowest]),
            cleanup_tmp_directories=True,
        )
        if self._remote is None:
            return _Manager(self.directory, options=options, item_names=_ITEMS)
        handlers = {name: bucket_clients.handler() for name in _ITEMS}
        return _Manager(self.directory, options=options, item_handlers=handlers)

    def _reopen(self) -> None:
        """Opens the directory again after a failure, without what a failed checkpoint left."""
        with contextlib.suppress(Exception):  # of the checkpoint that failed
            self._manager.close()
        self._manager = self._open()

    def save(
        self,
        step: int,
        tree: dict[str, Any],
        metrics: dict[str, float] | None = None,
        surely: bool = False,
    ) -> None:
        """Starts to save `tree`; its arrays may be changed or donated as soon as this returns.

        A step that exists is left as it is.

        Args:
          step: its number.
          tree: `params` and any other keys.
          metrics: by name; a step without `validation_loss` is never the best.
          surely: to a bucket, whether to return only when it is saved; otherwise a bucket that
            cannot be reached is a warning, and the next checkpoint follows in its time.

        Raises:
          UserError: when there is no room for it, or the bucket does not answer for long.
        """
        rest = {name: child for name, child in tree.items() if name != "params"}
        args = {
            "params": ocp.args.StandardSave(_nested(tree["params"])),
            "state": ocp.args.StandardSave(_nested(rest)),
        }
        # Orbax warns at every save without metrics, and takes NaN for the best: both rank last
        # instead.
        loss = (metrics or {}).get(VALIDATION_LOSS, math.inf)
        metrics = {**(metrics or {}), VALIDATION_LOSS: math.inf if math.isnan(loss) else loss}

        def start() -> None:
            if step not in self._manager.all_steps():
                with self._saving():
                    self._manager.save(step, args=ocp.args.Composite(**args), metrics=metrics)

        if self._saves is None:
            start()
        else:
            self._saves.save(start, lambda: self._manager.wait_until_finished(), surely)

    def latest_step(self) -> int | None:
        """Returns the last step that is saved, or None."""
        return self._manager.latest_step()

    def state_names(self) -> list[str]:
        """Returns the names of the latest step's arrays that are no parameters.

        The list is empty without a step, or if the step cannot be read: `restore` says so.
        """
        step = self.latest_step()
        try:
            directory = (self._remote or pathlib.Path(self.directory)) / str(step) / "state"
            return [] if step is None else orbax_files.tree_names(directory)
        except UserError:
            return []

    def restore(self, abstract_tree: dict[str, Any]) -> dict[str, Any]:
        """Returns the tree of the latest step, with shapes and shardings of `abstract_tree`.

        When it cannot be read, e.g. because a file of it is truncated, a warning is logged, the
        checkpoint is renamed to `damaged-<step>` (`damaged-<step>.1` where that exists), and the
        one before it is restored. If none can be read, none is renamed.

        Raises:
          UserError: when there is no checkpoint, or none that can be read; when it has other names
            or shapes, or parameters only.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise UserError(f"no checkpoint found in {self.directory}.")
        problems: dict[int, Damaged | None] = {}
        for step in steps:
            tree, problem = None, None
            try:
                with self._reaching("read"):
                    tree = self._restore(abstract_tree, step)
            except Damaged as error:
                problem = error
            if not any_of_all(problem is not None):
                for damaged, reason in problems.items():
                    self._set_aside(damaged, reason)
                return tree
            problems[step] = problem
        last = problems[steps[0]] or f"another process cannot read step {steps[0]}"
        raise UserError(
            f"none of the checkpoints in {self.directory} can be read: {last}; repair them, or "
            "give another MODEL_DIR."
        )

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
          UserError: when there was no room for it; other errors of saving as they are.
        """
        with self._reaching("written"), self._saving():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then releases the manager's threads."""
        with self._reaching("written"), self._saving():
            self._manager.close()

    @contextlib.contextmanager
    def _reaching(self, action: str) -> Iterator[None]:
        """Raises a UserError where a bucket cannot be 'read' or 'written'."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            problem = self._remote and bucket_error(error, self._remote, action)
            if not problem:
                raise
            raise problem from None

    def _restore(self, abstract_tree: dict[str, Any], step: int) -> dict[str, Any]:
        directory = self.directory / str(step)
        if (directory / "params").is_dir() and not (directory / "state").exists():
            raise UserError(
                f"{directory} contains parameters only (a converted checkpoint) and cannot be "
                "resumed; give it as INITIAL_CHECKPOINT_PATH, and another MODEL_DIR."
            )
        params = _restore_item(directory / "params", abstract_tree["params"])
        rest = {name: child for name, child in abstract_tree.items() if name != "params"}
        return {**_restore_item(directory / "state", rest), "params": params}

    def _set_aside(self, step: int, problem: Damaged | None) -> None:
        """Renames a step that cannot be read to a free name, so that it can be saved again."""
        if jax.process_index() == 0:
            names = itertools.chain(
                [f"damaged-{step}"], (f"damaged-{step}.{i}" for i in itertools.count(1))
            )
            name = next(name for name in names if not (self.directory / name).exists())
            _log.warning(
                "%s; renamed to %s; the checkpoint before it is restored",
                problem or f"another process cannot read step {step}",
                name,
            )
            if self._remote is None:
                (self.directory / str(step)).rename(self.directory / name)
            else:
                _move(self._remote / str(step), self._remote / name)
        any_of_all(False)  # returns when it is renamed
        if self._remote is None:
            self._manager.reload()
        else:
            self._reopen()

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Raises a UserError where TensorStore, Orbax or the file system report a full disk."""
        try:
            yield
        except Exception as error:
            no_room = NO_ROOM.search(str(error))
            if not no_room:
                raise
            last = self.latest_step()
            resumes = "begins anew" if last is None else f"resumes from step {last}, which is whole"
            raise UserError(
                f"the checkpoint cannot be written to {self.directory} ({no_room.group()}): make "
                f"room there; then the same command {resumes}."
            ) from error


class _Manager(ocp.CheckpointManager):
    """Orbax's manager without its own check for preemption."""

    def reached_preemption(self, step: int) -> bool:
        """Returns False: JAX counts the calls, and `preemption.Preemption` counts differently."""
        return False


def _move(place: Remote, other: Remote) -> None:
    """Moves the objects below a name; buckets have no directories to rename."""
    names = place.names()
    for name in names:
        (other / name).write_bytes((place / name).read_bytes())
    for name in names:
        (place / name).delete()


def _restore_item(path: Any, abstract_tree: Any) -> Any:
    handler, leaves = ocp.StandardCheckpointHandler(), named(abstract_tree)
    with _reading(path):
        stored = named(handler.metadata(path).tree)
        if "://" not in str(path):
            directory = pathlib.Path(path)
            zarr_chunks.check_tree(directory, orbax_files.tree_metadata(directory))
    check_tensors(
        {name: leaf.shape for name, leaf in stored.items()},
        {name: leaf.shape for name, leaf in leaves.items()},
        path,
        "give the gin files (model and optimizer) it was trained with, or another MODEL_DIR.",
    )
    with _reading(path):
        args = ocp.args.StandardRestore(_nested(abstract_tree))
        restored = named(handler.restore(path, args=args))
    return jax.tree.unflatten(
        jax.tree.structure(abstract_tree), [restored[name] for name in leaves]
    )


@contextlib.contextmanager
def _reading(path: Any) -> Iterator[None]:
    """Raises `Damaged` where Orbax and TensorStore report files that are truncated or missing.

    Raises:
      UserError: for files that may be whole, but are out of reach.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError):
        raise  # of the devices or of the machine, not of the files
    except UserError as error:
        raise Damaged(str(error)) from error
    except Exception as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, 90, placeholder=" ...")
        if "://" in str(path) and not isinstance(error, FileNotFoundError):
            problem = bucket_error(error, place(str(path), "MODEL_DIR"), "read")
            if problem is not None:
                raise problem from None
        is_missing = isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError))
        if (isinstance(error, OSError) and not is_missing) or _OUT_OF_REACH.search(str(error)):
            raise UserError(
                f"the checkpoint {path} cannot be read now ({reason}); make it readable, then run "
                "the same command again."
            ) from error
        raise Damaged(f"the checkpoint {path} cannot be read ({reason})") from error


def _remove_truncated_metrics(directory: Any) -> None:
    """Removes truncated files of metrics; Orbax would not open the directory with them."""
    if jax.process_index() == 0:
        for file in directory.glob("*/metrics/metrics"):
            if not _has_loss(file):
                file.unlink()
                _log.warning("%s was truncated: its step is not compared for the best", file)
    any_of_all(False)  # the others open the directory after that


def _has_loss(file: Any) -> bool:
    try:
        loss = read_json(file)[VALIDATION_LOSS]
    except (UserError, KeyError):
        return False
    return isinstance(loss, (int, float)) and not isinstance(loss, bool)


def _nested(tree: Any) -> dict[str, Any]:
    """The leaves of any tree as nested dicts by path, without named tuples and empty states."""
    result: dict[str, Any] = {}
    for name, leaf in named(tree).items():
        *parents, last = name.split("/")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return result


def _writable(directory: str | os.PathLike) -> Any:
    path = epath.Path(os.path.abspath(directory))
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable.{uuid.uuid4().hex[:8]}"  # several hosts try at once
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"checkpoints cannot be written to {path} ({error.strerror or error}): give another "
            "MODEL_DIR."
        ) from None
    return path
