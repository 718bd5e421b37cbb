"""Checkpoints of a run: Orbax's CheckpointManager behind one small class.

Trees are given unstacked (`models/stacking.py`) and named by their paths, so that what is on disk does not depend on
how the run keeps its state in memory, nor on the mesh: a restore takes the shapes and shardings that the caller asks
for. A step's directory has two items, `params` and `state` (everything else), so that evaluation reads the parameters
alone.
"""

import contextlib
import json
import logging
import math
import os
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

_ITEMS = ("params", "state")
# What file systems and TensorStore say when nothing more can be written.
_NO_ROOM = re.compile("No space left|Read-only file system|quota exceeded|File too large", re.IGNORECASE)
# What TensorStore says of files that may be whole: they cannot be read now, or not by us.
_OUT_OF_REACH = re.compile("PERMISSION_DENIED|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|UNAUTHENTICATED|ABORTED")
# What a host waits for a file that another one has written.
_PATIENCE_S = 10


# Orbax logs the traceback of what goes wrong in each of its threads, and raises it too; once is enough.
logging.getLogger("absl").addFilter(lambda record: record.levelno < logging.ERROR or "orbax" not in record.pathname)
logging.getLogger("asyncio").addFilter(lambda record: "orbax" not in record.getMessage())


def _without_closed_loops(unraisable, otherwise=sys.unraisablehook) -> None:
    """What TensorStore has left to tell an event loop that an error has closed already is not printed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        otherwise(unraisable)


sys.unraisablehook = _without_closed_loops


class Damaged(UserError):
    """A checkpoint is there, but it cannot be read."""


class Checkpoints:
    """Saves and restores the trees of one run below `directory`, in the background.

    A tree is a dict with the key `params` and any others. The last `keep` checkpoints stay, and with `best_metric`
    also the one whose metrics have the best value of that name (`best_mode` 'max' or 'min'). Raises UserError when the
    directory cannot be written, or the hosts of a run do not see the same in it.
    """

    def __init__(self, directory, keep: int = 3, best_metric: str | None = None, best_mode: str = "max"):
        self.directory = _writable(directory)
        _check_shared(self.directory)
        _remove_cut_metrics(self.directory)
        self._best_metric, self._best_mode = best_metric, best_mode
        keep_last = LatestN(n=keep)
        options = ocp.CheckpointManagerOptions(preservation_policy=keep_last, cleanup_tmp_directories=True)
        if best_metric:
            # Orbax writes metrics only where there is a `best_fn`; what stays is the policy's decision.
            options.best_fn = lambda metrics: metrics[best_metric]
            keep_best = BestN(
                get_metric_fn=options.best_fn, reverse=best_mode == "min", n=1, keep_checkpoints_without_metrics=False
            )
            options.preservation_policy = AnyPreservationPolicy([keep_last, keep_best])
        self._manager = _Manager(self.directory, options=options, item_names=_ITEMS)
        _check_same_steps(self.directory, sorted(self._manager.all_steps()))

    def save(self, step: int, tree: dict, metrics: dict[str, float] | None = None) -> None:
        """Starts to save `tree` as `step`; the arrays may be changed or donated as soon as this returns.

        A step that is there already is left as it is.
        """
        if step in self._manager.all_steps():
            return
        rest = {name: child for name, child in tree.items() if name != "params"}
        args = {
            "params": ocp.args.StandardSave(_nested(tree["params"])),
            "state": ocp.args.StandardSave(_nested(rest)),
        }
        if self._best_metric:
            # Orbax warns at every save without metrics, and takes NaN for the best: both rank last instead.
            worst = -math.inf if self._best_mode == "max" else math.inf
            found = (metrics or {}).get(self._best_metric, worst)
            metrics = {**(metrics or {}), self._best_metric: worst if math.isnan(found) else found}
        with self._saving():
            self._manager.save(step, args=ocp.args.Composite(**args), metrics=metrics)

    def latest_step(self) -> int | None:
        """Gives the last step that is saved, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Gives the step with the best value of `best_metric`, the later of equals, or None when no step has it."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        scores = {step: (self._manager.metrics(step) or {}).get(self._best_metric) for step in steps}
        scores = {step: score for step, score in scores.items() if score is not None and math.isfinite(score)}
        choose = max if self._best_mode == "max" else min
        return choose(scores, key=scores.get) if scores else None

    def restore(self, abstract_tree: dict, step: int | None = None) -> dict:
        """Gives the tree of `step` (the latest by default) in the shapes, dtypes and shardings of `abstract_tree`.

        By default, when the latest cannot be read, e.g. because a file of it is cut short, a line says so, the
        checkpoint is renamed to `damaged-<step>`, and the one before it is taken. If none can be read, none is renamed.

        Raises UserError when there is no such checkpoint, or none that can be read, or when it holds other names or
        shapes, or parameters alone.
        """
        if step is not None:
            if step not in self._manager.all_steps():
                raise UserError(f"There is no checkpoint of step {step} in {self.directory}.")
            return self._restore(abstract_tree, step)
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
            if not _on_any_process(problem is not None):
                for damaged, why in problems.items():
                    self._set_aside(damaged, why)
                return tree
            problems[step] = problem
        last = problems[steps[0]] or f"another process cannot read step {steps[0]}"
        raise UserError(f"None of the checkpoints in {self.directory} can be read: {last}; repair them, or give "
                        "another MODEL_DIR.")

    def wait(self) -> None:
        """Returns when everything is on disk; raises what went wrong while saving (UserError: no room for it)."""
        with self._saving():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then releases the manager's threads."""
        with self._saving():
            self._manager.close()

    def _restore(self, abstract_tree: dict, step: int) -> dict:
        directory = self.directory / str(step)
        if (directory / "params").is_dir() and not (directory / "state").exists():
            raise UserError(f"{directory} holds parameters alone, as converted checkpoints do, and no run that goes "
                            "on; give it as INITIAL_CHECKPOINT_PATH, and another MODEL_DIR.")
        params = _restore_item(directory / "params", abstract_tree["params"])
        rest = {name: child for name, child in abstract_tree.items() if name != "params"}
        return {**_restore_item(directory / "state", rest), "params": params}

    def _set_aside(self, step: int, problem: Damaged | None) -> None:
        """Renames a step that cannot be read, so that it can be saved again."""
        if jax.process_index() == 0:
            print(f"{problem or f'another process cannot read step {step}'}; it is called damaged-{step} now, and the "
                  "checkpoint before it is taken", flush=True)
            (self.directory / str(step)).rename(self.directory / f"damaged-{step}")
        _on_any_process(False)  # the others go on when it is renamed
        self._manager.reload()

    @contextlib.contextmanager
    def _saving(self):
        """What TensorStore, Orbax and the file system raise where nothing can be written becomes a UserError."""
        try:
            yield
        except Exception as error:
            found = _NO_ROOM.search(str(error))
            if not found:
                raise
            last = self.latest_step()
            resumes = "begins anew" if last is None else f"resumes from step {last}, which is whole"
            raise UserError(f"the checkpoint cannot be written to {self.directory} ({found.group()}): make room there; "
                            f"then the same command {resumes}.") from error


class _Manager(ocp.CheckpointManager):

    def reached_preemption(self, step: int) -> bool:
        """Not asked here: JAX counts the askings, and `Run.told_to_end` counts them in another way."""
        return False


def checkpoint_path(path, step: int | None = None):
    """Gives the directory of one checkpoint: `path` itself when it is one, else that of `step` (the latest) below it.

    `path` may be a run's directory, its `checkpoints` directory or a step's. Raises UserError when there is none.
    """
    path = epath.Path(path)
    if (path / "params").is_dir():
        return path
    for parent in (path, path / "checkpoints"):
        steps = sorted(int(child.name) for child in parent.iterdir() if child.name.isdigit()) if parent.is_dir() else []
        steps = [found for found in steps if step in (None, found)]
        if steps:
            return parent / str(steps[-1])
    wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
    raise UserError(f"There is no {wanted} in {path}: give a run's directory, or the directory of one of its steps.")


def restore_params(path, abstract_params, step: int | None = None):
    """Gives only the parameters of a checkpoint, in the shapes, dtypes and shardings of `abstract_params` (unstacked).

    `path` as in `checkpoint_path`. Raises UserError when there is none, or when it holds other names or shapes.
    """
    return _restore_item(checkpoint_path(path, step) / "params", abstract_params)


def check_same_shapes(found: dict[str, tuple], wanted: dict[str, tuple], where) -> None:
    """Raises UserError listing the first parameters whose name or shape differs between a checkpoint and the model."""
    names = sorted(found.keys() | wanted.keys())
    different = [name for name in names if found.get(name) != wanted.get(name)]
    if different:
        listed = "; ".join(f"{name}: {_say(found, name)} there, {_say(wanted, name)} here" for name in different[:3])
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise UserError(
            f"The checkpoint {where} is of another model or optimizer ({listed}{more}); "
            "give the gin files it was trained with, or another MODEL_DIR."
        )


def _say(shapes: dict[str, tuple], name: str) -> str:
    return str(shapes[name]) if name in shapes else "absent"


def _restore_item(path, abstract_tree):
    handler = ocp.StandardCheckpointHandler()
    with _reading(path):
        metadata = handler.metadata(path).tree
    stored = {
        jax.tree_util.keystr(key, simple=True, separator="/"): tuple(leaf.shape)
        for key, leaf in jax.tree_util.tree_leaves_with_path(metadata)
    }
    check_same_shapes(stored, {name: tuple(leaf.shape) for name, leaf in _named(abstract_tree).items()}, path)
    with _reading(path):
        restored = _named(handler.restore(path, args=ocp.args.StandardRestore(_nested(abstract_tree))))
    return jax.tree.unflatten(jax.tree.structure(abstract_tree), [restored[name] for name in _named(abstract_tree)])


@contextlib.contextmanager
def _reading(path):
    """What Orbax and TensorStore raise for files that are cut short or missing becomes `Damaged`.

    Raises UserError for files that may be whole, but are out of reach.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError):
        raise  # of the devices or of the machine, not of the files
    except Exception as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, 90, placeholder=" ...")
        is_missing = isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError))
        if (isinstance(error, OSError) and not is_missing) or _OUT_OF_REACH.search(str(error)):
            raise UserError(f"the checkpoint {path} cannot be read now ({reason}); see to it that it can be, then run "
                            "the same command again.") from error
        raise Damaged(f"the checkpoint {path} cannot be read ({reason})") from error


def _check_shared(directory) -> None:
    """Makes sure that all hosts see what the first one writes; a host of its own would wait for the others forever."""
    if jax.process_count() == 1:
        return
    name = f".shared.{multihost_utils.broadcast_one_to_all(np.uint32(uuid.uuid4().int >> 96)):08x}"
    if jax.process_index() == 0:
        (directory / name).write_text("")
    _on_any_process(False)  # it is written
    deadline = time.monotonic() + _PATIENCE_S
    while not (seen := (directory / name).exists()) and time.monotonic() < deadline:
        time.sleep(0.2)
    blind = _on_any_process(not seen)
    if jax.process_index() == 0:
        (directory / name).unlink()
    if blind:
        raise UserError(f"not all hosts see in {directory} what process 0 writes there; give a MODEL_DIR on storage "
                        "that all hosts see, by its full path.")


def _check_same_steps(directory, steps: list[int]) -> None:
    """Makes sure that all hosts list the same checkpoints: others would go on from different steps."""
    listed = np.uint32(zlib.crc32(str(steps).encode()))
    if jax.process_count() > 1 and len(set(multihost_utils.process_allgather(listed).tolist())) > 1:
        raise UserError(f"process {jax.process_index()} sees the checkpoints of steps "
                        f"{', '.join(map(str, steps)) or '-'} in {directory}, another process sees others; is it on "
                        "storage that all hosts see? Then run the same command again.")


def _remove_cut_metrics(directory) -> None:
    """Removes files of metrics that are cut short; Orbax would not open the directory with them."""
    if jax.process_index() == 0:
        for file in directory.glob("*/metrics/metrics"):
            try:
                json.loads(file.read_text())
            except ValueError:
                file.unlink()
                print(f"{file} was cut short: its step no longer counts when the best is looked for", flush=True)
    _on_any_process(False)  # the others open the directory after that


def _on_any_process(value: bool) -> bool:
    """Whether `value` is true on any of a run's processes."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.asarray(value)).any())


def _named(tree) -> dict:
    """Gives the leaves of any tree by their path, `opt_state/v_row/encoder/...`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _nested(tree) -> dict:
    """Gives the leaves of any tree as nested dicts by their path: named tuples and empty states leave no trace."""
    result = {}
    for name, leaf in _named(tree).items():
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
        raise UserError(f"Checkpoints cannot be written to {path} ({reason}): give another MODEL_DIR.") from None
    return path
