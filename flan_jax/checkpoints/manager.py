"""Checkpoints of a run: Orbax's CheckpointManager behind one small class.

Trees are given unstacked (`models/stacking.py`) and named by their paths, so that what is on disk
does not depend on how the run keeps its state in memory, nor on the mesh: a restore takes the
shapes and shardings that the caller asks for. A step's directory has two items, `params` and
`state` (everything else), so that evaluation reads the parameters alone.
"""

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
import time
import uuid
import zlib

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from flan_jax.errors import UserError
from flan_jax.models.stacking import named
from flan_jax.parallel.processes import any_of_all
from flan_jax.storage.files import NO_ROOM, read_json

# In place of a step's number.
BEST = "best"

_ITEMS = ("params", "state")
_LOSS = "validation_loss"
# What TensorStore says of files that may be whole: they cannot be read now, or not by us.
_OUT_OF_REACH = re.compile(
    "PERMISSION_DENIED|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|UNAUTHENTICATED|ABORTED"
)
# What a host waits for a file that another one has written.
_PATIENCE_S = 10


# Orbax logs the traceback of what goes wrong in each of its threads, and raises it too; once is
# enough.
logging.getLogger("absl").addFilter(
    lambda record: record.levelno < logging.ERROR or "orbax" not in record.pathname
)
logging.getLogger("asyncio").addFilter(lambda record: "orbax" not in record.getMessage())


_OF_CLOSED_LOOPS = ("Event loop is closed", "sys.meta_path is None, Python is likely shutting down")


def _without_closed_loops(unraisable, otherwise=sys.unraisablehook) -> None:
    """What TensorStore and Orbax have left to do in an event loop when an error has ended it is not
    printed.
    """
    if str(unraisable.exc_value) not in _OF_CLOSED_LOOPS:
        otherwise(unraisable)


sys.unraisablehook = _without_closed_loops


class Damaged(UserError):
    """A checkpoint is there, but it cannot be read."""


class Checkpoints:
    """Saves and restores the trees of one run below `directory`, in the background.

    A tree is a dict with the key `params` and any others. The last `keep` checkpoints stay, and the
    one with the lowest validation loss. Raises UserError when the directory cannot be written, or
    the hosts of a run do not see the same in it.
    """

    def __init__(self, directory, keep: int = 3):
        self.directory = _writable(directory)
        _check_shared(self.directory)
        _remove_cut_metrics(self.directory)
        loss = operator.itemgetter(_LOSS)
        lowest = BestN(
            get_metric_fn=loss, reverse=True, n=1, keep_checkpoints_without_metrics=False
        )
        # Orbax writes metrics only where there is a `best_fn`; what stays is the policy's decision.
        options = ocp.CheckpointManagerOptions(
            best_fn=loss,
            preservation_policy=AnyPreservationPolicy([LatestN(n=keep), lowest]),
            cleanup_tmp_directories=True,
        )
        self._manager = _Manager(self.directory, options=options, item_names=_ITEMS)
        _check_same_steps(self.directory, sorted(self._manager.all_steps()))

    def save(self, step: int, tree: dict, metrics: dict[str, float] | None = None) -> None:
        """Starts to save `tree` as `step`; the arrays may be changed or donated as soon as this
        returns.

        A step that is there already is left as it is. One without the metric `validation_loss` is
        never the best.
        """
        if step in self._manager.all_steps():
            return
        rest = {name: child for name, child in tree.items() if name != "params"}
        args = {
            "params": ocp.args.StandardSave(_nested(tree["params"])),
            "state": ocp.args.StandardSave(_nested(rest)),
        }
        # Orbax warns at every save without metrics, and takes NaN for the best: both rank last
        # instead.
        loss = (metrics or {}).get(_LOSS, math.inf)
        metrics = {**(metrics or {}), _LOSS: math.inf if math.isnan(loss) else loss}
        with self._saving():
            self._manager.save(step, args=ocp.args.Composite(**args), metrics=metrics)

    def latest_step(self) -> int | None:
        """Gives the last step that is saved, or None."""
        return self._manager.latest_step()

    def restore(self, abstract_tree: dict) -> dict:
        """Gives the tree of the latest step in the shapes, dtypes and shardings of `abstract_tree`.

        When it cannot be read, e.g. because a file of it is cut short, a line says so, the
        checkpoint is renamed to `damaged-<step>` (`damaged-<step>.1` where that is there), and the
        one before it is taken. If none can be read, none is renamed.

        Raises UserError when there is no checkpoint, or none that can be read, or when it holds
        other names or shapes, or parameters alone.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise UserError(f"There is no checkpoint in {self.directory}.")
        problems: dict[int, Damaged | None] = {}
        for step in steps:
            tree, problem = None, None
            try:
                tree = self._restore(abstract_tree, step)
            except Damaged as error:
                problem = error
            if not any_of_all(problem is not None):
                for damaged, why in problems.items():
                    self._set_aside(damaged, why)
                return tree
            problems[step] = problem
        last = problems[steps[0]] or f"another process cannot read step {steps[0]}"
        raise UserError(
            f"None of the checkpoints in {self.directory} can be read: {last}; repair them, or "
            "give another MODEL_DIR."
        )

    def wait(self) -> None:
        """Returns when everything is on disk; raises what went wrong while saving (UserError: no
        room for it).
        """
        with self._saving():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then releases the manager's threads."""
        with self._saving():
            self._manager.close()

    def _restore(self, abstract_tree: dict, step: int) -> dict:
        directory = self.directory / str(step)
        if (directory / "params").is_dir() and not (directory / "state").exists():
            raise UserError(
                f"{directory} holds parameters alone, as converted checkpoints do, and no run that "
                "goes on; give it as INITIAL_CHECKPOINT_PATH, and another MODEL_DIR."
            )
        params = _restore_item(directory / "params", abstract_tree["params"])
        rest = {name: child for name, child in abstract_tree.items() if name != "params"}
        return {**_restore_item(directory / "state", rest), "params": params}

    def _set_aside(self, step: int, problem: Damaged | None) -> None:
        """Renames a step that cannot be read to a name that is free, so that it can be saved
        again.
        """
        if jax.process_index() == 0:
            names = itertools.chain(
                [f"damaged-{step}"], (f"damaged-{step}.{i}" for i in itertools.count(1))
            )
            name = next(name for name in names if not (self.directory / name).exists())
            print(
                f"{problem or f'another process cannot read step {step}'}; it is called {name} "
                "now, and the checkpoint before it is taken",
                flush=True,
            )
            (self.directory / str(step)).rename(self.directory / name)
        any_of_all(False)  # the others go on when it is renamed
        self._manager.reload()

    @contextlib.contextmanager
    def _saving(self):
        """What TensorStore, Orbax and the file system raise where nothing can be written becomes a
        UserError.
        """
        try:
            yield
        except Exception as error:
            found = NO_ROOM.search(str(error))
            if not found:
                raise
            last = self.latest_step()
            resumes = "begins anew" if last is None else f"resumes from step {last}, which is whole"
            raise UserError(
                f"the checkpoint cannot be written to {self.directory} ({found.group()}): make "
                f"room there; then the same command {resumes}."
            ) from error


class _Manager(ocp.CheckpointManager):
    """Orbax's manager without its own check for preemption."""

    def reached_preemption(self, step: int) -> bool:
        """Not checked here: JAX counts the calls, and `preemption.Preemption` counts them in
        another way.
        """
        return False


def checkpoint_path(path, step: int | str | None = None):
    """Gives the directory of one checkpoint: `path` itself when it is one, else that of `step`
    below it.

    `path` may be a run's directory, its `checkpoints` directory or a step's; `step` None is the
    latest, BEST the one with the lowest validation loss, the later of equals. Raises UserError when
    there is none.
    """
    path = epath.Path(path)
    if (path / "params").is_dir() and step in (
        None,
        int(path.name) if path.name.isdecimal() else None,
    ):
        return path
    for parent in (path, path / "checkpoints"):
        children = parent.iterdir() if parent.is_dir() else ()
        steps = sorted(int(child.name) for child in children if child.name.isdecimal())
        if step == BEST:
            losses = {found: _validation_loss(parent / str(found)) for found in reversed(steps)}
            steps = (
                [min(losses, key=losses.get)]
                if min(losses.values(), default=math.inf) < math.inf
                else []
            )
        elif step is not None:
            steps = [found for found in steps if found == step]
        if steps:
            return parent / str(steps[-1])
    wanted = {None: "checkpoint", BEST: "checkpoint with a validation loss"}.get(
        step, f"checkpoint of step {step}"
    )
    raise UserError(
        f"There is no {wanted} in {path}: give a run's directory, or the directory of one of its "
        "steps."
    )


def _validation_loss(directory) -> float:
    """Gives the validation loss that was saved with a checkpoint, infinity where there is none."""
    try:
        loss = read_json(directory / "metrics" / "metrics").get(_LOSS)
    except (OSError, UserError):
        return math.inf
    return loss if isinstance(loss, (int, float)) and not math.isnan(loss) else math.inf


def _restore_item(path, abstract_tree):
    from flan_jax.checkpoints.formats import (  # not above: they import this module
        orbax_files,
        zarr_chunks,
    )
    from flan_jax.checkpoints.reader import check_tensors

    handler, wanted = ocp.StandardCheckpointHandler(), named(abstract_tree)
    with _reading(path):
        stored = named(handler.metadata(path).tree)
        if "://" not in str(path):
            zarr_chunks.check_tree(
                pathlib.Path(path), orbax_files.tree_metadata(pathlib.Path(path))
            )
    check_tensors(
        {name: leaf.shape for name, leaf in stored.items()},
        {name: leaf.shape for name, leaf in wanted.items()},
        path,
        "give the gin files (model and optimizer) it was trained with, or another MODEL_DIR.",
    )
    with _reading(path):
        restored = named(
            handler.restore(path, args=ocp.args.StandardRestore(_nested(abstract_tree)))
        )
    return jax.tree.unflatten(
        jax.tree.structure(abstract_tree), [restored[name] for name in wanted]
    )


@contextlib.contextmanager
def _reading(path):
    """What Orbax and TensorStore raise for files that are cut short or missing becomes `Damaged`.

    Raises UserError for files that may be whole, but are out of reach.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError):
        raise  # of the devices or of the machine, not of the files
    except UserError as error:
        raise Damaged(str(error)) from error
    except Exception as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, 90, placeholder=" ...")
        is_missing = isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError))
        if (isinstance(error, OSError) and not is_missing) or _OUT_OF_REACH.search(str(error)):
            raise UserError(
                f"the checkpoint {path} cannot be read now ({reason}); see to it that it can be, "
                "then run the same command again."
            ) from error
        raise Damaged(f"the checkpoint {path} cannot be read ({reason})") from error


def _check_shared(directory) -> None:
    """Makes sure that all hosts see what the first one writes; a host of its own would wait for the
    others forever.
    """
    if jax.process_count() == 1:
        return
    name = f".shared.{multihost_utils.broadcast_one_to_all(np.uint32(uuid.uuid4().int >> 96)):08x}"
    if jax.process_index() == 0:
        (directory / name).write_text("")
    any_of_all(False)  # it is written
    deadline = time.monotonic() + _PATIENCE_S
    while not (seen := (directory / name).exists()) and time.monotonic() < deadline:
        time.sleep(0.2)
    blind = any_of_all(not seen)
    if jax.process_index() == 0:
        (directory / name).unlink()
    if blind:
        raise UserError(
            f"not all hosts see in {directory} what process 0 writes there; give a MODEL_DIR on "
            "storage that all hosts see, by its full path."
        )


def _check_same_steps(directory, steps: list[int]) -> None:
    """Makes sure that all hosts list the same checkpoints: others would go on from different
    steps.
    """
    listed = np.uint32(zlib.crc32(str(steps).encode()))
    if jax.process_count() > 1 and len(set(multihost_utils.process_allgather(listed).tolist())) > 1:
        raise UserError(
            f"process {jax.process_index()} sees the checkpoints of steps "
            f"{', '.join(map(str, steps)) or '-'} in {directory}, another process sees others; is "
            "it on storage that all hosts see? Then run the same command again."
        )


def _remove_cut_metrics(directory) -> None:
    """Removes files of metrics that are cut short; Orbax would not open the directory with them."""
    if jax.process_index() == 0:
        for file in directory.glob("*/metrics/metrics"):
            try:
                loss = read_json(file)[_LOSS]
                is_whole = isinstance(loss, (int, float)) and not isinstance(loss, bool)
            except (UserError, KeyError):
                is_whole = False
            if not is_whole:
                file.unlink()
                print(
                    f"{file} was cut short: its step no longer counts when the best is looked for",
                    flush=True,
                )
    any_of_all(False)  # the others open the directory after that


def _nested(tree) -> dict:
    """Gives the leaves of any tree as nested dicts by their path: named tuples and empty states
    leave no trace.
    """
    result = {}
    for name, leaf in named(tree).items():
        *parents, last = name.split("/")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return result


def _writable(directory):
    path = epath.Path(os.path.abspath(directory) if "://" not in str(directory) else directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable.{uuid.uuid4().hex[:8]}"  # several hosts try at once
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"Checkpoints cannot be written to {path} ({reason}): give another MODEL_DIR."
        ) from None
    return path
