"""Reads checkpoints in T5X's own format: a msgpack index `checkpoint` beside one zarr directory per large array.

The index is a nested dict; a leaf is either the array itself (Flax's msgpack extension) or the tensorstore spec of the
array's directory, with a path relative to the checkpoint. Trees are T5X's, unstacked (`layers_0`, ...).
"""

import pathlib

import jax
import numpy as np
import tensorstore
from flax import serialization

from flan_jax.errors import UserError


def is_t5x(path) -> bool:
    """Tells whether `path` is a checkpoint directory (`checkpoint_<step>`) in T5X's own format."""
    return (pathlib.Path(path) / "checkpoint").is_file()


def read_t5x(path) -> tuple[int, dict]:
    """Gives (step, params): nested dicts of numpy arrays in the dtypes that are stored.

    Raises UserError when `path` is no such checkpoint.
    """
    state = _read_index(path)
    return int(state["state"]["step"]), _read_arrays(state["target"], path)


def read_t5x_slots(path) -> dict:
    """Gives T5X's Adafactor slots: for every parameter a dict of `v`, `v_row`, `v_col` and `m` in place of its array.

    Raises UserError when the checkpoint holds parameters only.
    """
    state = _read_index(path)["state"]
    if "param_states" not in state:
        raise UserError(f"{path} holds parameters but no optimizer state, so start a new optimizer from it.")
    return _read_arrays(state["param_states"], path)


def _read_index(path) -> dict:
    if not is_t5x(path):
        raise UserError(
            f"{path} is no T5X checkpoint (no file `checkpoint` in it): give a directory `checkpoint_<step>`."
        )
    index = serialization.msgpack_restore((pathlib.Path(path) / "checkpoint").read_bytes())
    return index["optimizer"]


def _read_arrays(tree: dict, path) -> dict:
    """Gives `tree` with every tensorstore spec replaced by its array; all reads are under way at once."""

    def is_spec(node):
        return isinstance(node, dict) and "driver" in node

    reads = jax.tree.map(lambda leaf: _start_read(leaf, path) if is_spec(leaf) else leaf, tree, is_leaf=is_spec)
    return jax.tree.map(lambda leaf: np.asarray(leaf.result() if hasattr(leaf, "result") else leaf), reads)


def _start_read(spec: dict, path):
    directory = pathlib.Path(path).absolute() / spec["kvstore"]["path"]
    kvstore = {"driver": "file", "path": str(directory)}
    return tensorstore.open({"driver": spec["driver"], "kvstore": kvstore}, open=True).result().read()
