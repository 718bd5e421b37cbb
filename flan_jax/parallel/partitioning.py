"""Meshes and shardings: three mesh axes, and one table from logical array axes to them.

`data` splits the batch; `fsdp` splits the batch and the parameters' model width (each device
gathers what it needs); `model` splits heads, feed-forward width and vocabulary. Rajbhandari et al.,
ZeRO, 2020; Shazeer et al., Mesh-TensorFlow, 2018.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flan_jax.config.checks import quoted
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest
from flan_jax.models.stacking import path_name
from flan_jax.parallel.placement import placed

MESH_AXES = ("data", "fsdp", "model")

LOGICAL_RULES = (
    # parameters
    ("embed", "fsdp"),
    ("vocab", "model"),
    ("mlp", "model"),
    ("heads", "model"),
    ("joined_kv", "model"),
    ("relpos_buckets", None),
    ("lora_rank", None),
    ("prompt", None),
    ("layers", None),
    # activations
    ("activation_batch", ("data", "fsdp")),
    ("activation_length", None),
    ("activation_embed", None),
    ("activation_heads", "model"),
    ("activation_mlp", "model"),
    ("activation_vocab", "model"),
)


def make_mesh(
    shape: dict[str, int],
    devices: Sequence[jax.Device] | None = None,
    traffic: Mapping[str, float] | None = None,
) -> Mesh:
    """Returns the mesh with axes data, fsdp and model of a shape.

    The devices of a TPU slice are placed so that those that exchange much are neighbors, see
    `placement`; elsewhere JAX orders them.

    Args:
      shape: sizes by axis; absent axes are 1, and one axis may be -1: the devices that are left.
      devices: all of the machine's if None.
      traffic: the bytes that a device exchanges along each axis; None: those of a usual step.

    Raises:
      UserError: if the shape has another axis, is not made of whole positive sizes, or does not use
        exactly these devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(shape, len(devices))
    sides, types = tuple(sizes.values()), (AxisType.Auto,) * len(MESH_AXES)
    arranged = placed(sizes, devices, traffic)
    if arranged is not None:
        return Mesh(arranged, MESH_AXES, axis_types=types)
    return jax.make_mesh(sides, MESH_AXES, types, devices=devices)


def mesh_sizes(shape: dict[str, int], device_count: int) -> dict[str, int]:
    """Returns the size of every mesh axis, with -1 resolved.

    Raises:
      UserError: see `make_mesh`.
    """
    if not isinstance(shape, dict):
        raise UserError(f"MESH must look like {{'data': 2, 'fsdp': 4}}, not {quoted(shape)}.")
    unknown = [axis for axis in shape if axis not in MESH_AXES]
    if unknown:
        raise UserError(
            f"The mesh has an axis {quoted(unknown[0])}, but its axes are {', '.join(MESH_AXES)}"
            f"{did_you_mean(nearest(unknown[0], MESH_AXES))}"
        )
    sizes = {axis: shape.get(axis, 1) for axis in MESH_AXES}
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    is_whole = all(type(size) is int for size in sizes.values())
    if (
        not is_whole
        or len(open_axes) > 1
        or any(size < 1 and size != -1 for size in sizes.values())
    ):
        raise UserError(
            f"The mesh {quoted(shape)} must have whole positive sizes, and at most one -1 for what "
            "is left."
        )
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if open_axes and device_count % fixed == 0:
        sizes[open_axes[0]] = device_count // fixed
    if math.prod(sizes.values()) != device_count:
        model = math.gcd(sizes["model"], device_count) if sizes["model"] > 0 else 1
        fitting = {"data": device_count // model, "model": model}
        raise UserError(
            f"The mesh {quoted(shape)} does not fit the {device_count} devices here; {fitting} "
            f"would."
        )
    return sizes


@contextlib.contextmanager
def use_mesh(mesh: Mesh) -> Iterator[Mesh]:
    """Applies the model's logical constraints: trace and run every sharded function inside."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(LOGICAL_RULES):
        yield mesh


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch array [B, ...]: B over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def check_batch_size(batch_size: int, mesh: Mesh, microbatches: int = 1) -> None:
    """Checks that a global batch divides over the mesh and into microbatches.

    Raises:
      UserError: if it does not; suggests the nearest size that does.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"] * microbatches
    if batch_size % parts:
        fitting = max(1, round(batch_size / parts)) * parts
        each = f", in {microbatches} microbatches each" if microbatches > 1 else ""
        raise UserError(
            f"A batch of {batch_size} rows does not divide over data x fsdp = {mesh.shape['data']} "
            f"x {mesh.shape['fsdp']} devices{each}; type --gin.BATCH_SIZE={fitting}."
        )


def state_shardings(abstract_boxed_tree: Any, mesh: Mesh) -> Any:
    """Returns a NamedSharding for every leaf of a tree of shapes, e.g. of `jax.eval_shape`.

    Leaves boxed with logical axes follow LOGICAL_RULES; others are replicated. Norm scales and
    position tables are tiny and replicated too.

    Raises:
      UserError: if a dimension does not divide over its mesh axis; names the parameter.
    """

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        if not is_box(leaf):
            return NamedSharding(mesh, PartitionSpec())
        spec = nn.logical_to_mesh_axes(leaf.names, LOGICAL_RULES)
        _check_divides(path_name(path), leaf.value.shape, leaf.names, spec, mesh)
        return NamedSharding(mesh, PartitionSpec() if _is_small(leaf) else spec)

    return jax.tree_util.tree_map_with_path(sharding, abstract_boxed_tree, is_leaf=is_box)


def bytes_by_mesh_axes(abstract_boxed_tree: Any) -> dict[tuple[str, ...], int]:
    """Returns the bytes of the leaves that `state_shardings` splits over the same mesh axes.

    On a mesh a device holds the sum of these, each divided by the sizes of its axes.
    """
    sums: dict[tuple[str, ...], int] = {}
    for leaf in jax.tree.leaves(abstract_boxed_tree, is_leaf=is_box):
        spec = nn.logical_to_mesh_axes(leaf.names, LOGICAL_RULES) if is_box(leaf) else ()
        value = leaf.value if is_box(leaf) else leaf
        axes = () if is_box(leaf) and _is_small(leaf) else tuple(filter(None, spec))
        sums[axes] = sums.get(axes, 0) + math.prod(value.shape) * value.dtype.itemsize
    return sums


def with_shardings(abstract_tree: Any, shardings: Any) -> Any:
    """Returns a tree of ShapeDtypeStructs with shardings, as `Checkpoints.restore` needs it.

    Args:
      abstract_tree: shapes and dtypes, boxed or not; the result is not boxed.
      shardings: a tree of the same structure.
    """
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        unbox(abstract_tree),
        shardings,
    )


def unbox(tree: Any) -> Any:
    """Returns the tree without boxes of logical axes.

    Unlike Flax's `unbox`, it adds no sharding constraints.
    """
    return jax.tree.map(
        lambda x: x.unbox(apply_constraint=False) if is_box(x) else x, tree, is_leaf=is_box
    )


def is_box(leaf: Any) -> bool:
    """Returns whether a node of a tree is an array boxed with its logical axes."""
    return isinstance(leaf, nn.LogicallyPartitioned)


def _is_small(box: nn.LogicallyPartitioned) -> bool:
    return len(set(box.names) - {"layers"}) < 2 or "relpos_buckets" in box.names


def _check_divides(
    name: str,
    shape: Sequence[int],
    logical_axes: Sequence[str],
    spec: PartitionSpec,
    mesh: Mesh,
) -> None:
    for size, logical, axis in zip(shape, logical_axes, spec):
        if axis is not None and size % mesh.shape[axis]:
            raise UserError(
                f"The parameter {name} has {size} {logical}, which does not divide over "
                f"{axis}={mesh.shape[axis]}; give the mesh an axis {axis} that divides {size}, "
                f"such as {axis}={math.gcd(size, mesh.shape[axis])}."
            )
