"""Checkpoints of a run: Orbax's CheckpointManager behind one small class.

Trees are given unstacked (`models/stacking.py`) and named by their paths, so that what is on disk does not depend on
how the run keeps its state in memory, nor on the mesh: a restore takes the shapes and shardings that the caller asks
for. A step's directory has two items, `params` and `state` (everything else), so that evaluation reads the parameters
alone.
"""

import math
import os
import uuid

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from flan_jax.errors import UserError

_ITEMS = ("params", "state")


class Checkpoints:
    """Saves and restores the trees of one run below `directory`, in the background.

    A tree is a dict with the key `params` and any others. The last `keep` checkpoints stay, and with `best_metric`
    also the one whose metrics have the best value of that name (`best_mode` 'max' or 'min'). Raises UserError when the
    directory cannot be written.
    """

    def __init__(self, directory, keep: int = 3, best_metric: str | None = None, best_mode: str = "max"):
        self.directory = _writable(directory)
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
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=_ITEMS)

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
            # Orbax warns at every save without metrics, so that one ranks last instead.
            metrics = {self._best_metric: -math.inf if self._best_mode == "max" else math.inf, **(metrics or {})}
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

        Raises UserError when there is no such checkpoint, or when it holds other names or shapes.
        """
        step = self.latest_step() if step is None else step
        if step is None or step not in self._manager.all_steps():
            raise UserError(f"There is no checkpoint {'' if step is None else f'of step {step} '}in {self.directory}.")
        params = restore_params(self.directory / str(step), abstract_tree["params"])
        rest = {name: child for name, child in abstract_tree.items() if name != "params"}
        return {**_restore_item(self.directory / str(step) / "state", rest), "params": params}

    def wait(self) -> None:
        """Returns when everything is on disk; raises what went wrong while saving."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then releases the manager's threads."""
        self._manager.close()


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
    stored = {
        jax.tree_util.keystr(key, simple=True, separator="/"): tuple(leaf.shape)
        for key, leaf in jax.tree_util.tree_leaves_with_path(handler.metadata(path).tree)
    }
    check_same_shapes(stored, {name: tuple(leaf.shape) for name, leaf in _named(abstract_tree).items()}, path)
    restored = _named(handler.restore(path, args=ocp.args.StandardRestore(_nested(abstract_tree))))
    return jax.tree.unflatten(jax.tree.structure(abstract_tree), [restored[name] for name in _named(abstract_tree)])


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
