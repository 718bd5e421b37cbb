"""Meshes and shardings: three mesh axes, and one table that says which array axis goes over which
of them.

`data` splits the batch; `fsdp` splits the batch and the parameters' model width (each device
gathers what it needs); `model` splits heads, feed-forward width and vocabulary. Rajbhandari et al.,
ZeRO, 2020; Shazeer et al., Mesh-TensorFlow, 2018.
"""

import contextlib
import math

import jax
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flan_jax.config.checks import quoted
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest
from flan_jax.models.stacking import path_name

MESH_AXES = ("data", "fsdp", "model")

LOGICAL_RULES = (
    # parameters
    ("embed", "fsdp"),
    ("vocab", "model"),
    ("mlp", "model"),
    ("heads", "model"),
    ("joined_kv", "model"),
    ("relpos_buckets", None),
    ("layers", None),
    # activations
    ("activation_batch", ("data", "fsdp")),
    ("activation_length", None),
    ("activation_embed", None),
    ("activation_heads", "model"),
    ("activation_mlp", "model"),
    ("activation_vocab", "model"),
)


def make_mesh(shape: dict[str, int], devices=None) -> Mesh:
    """Gives the mesh with axes data, fsdp, model of `shape` (absent axes are 1, one axis may be -1:
    what is left).

    `devices` are all of the machine's by default. Raises UserError when the shape does not use
    exactly these devices.
    """
    if not isinstance(shape, dict):
        raise UserError(f"MESH must look like {{'data': 2, 'fsdp': 4}}, not {quoted(shape)}.")
    devices = jax.devices() if devices is None else devices
    unknown = [axis for axis in shape if axis not in MESH_AXES]
    if unknown:
        raise UserError(
            f"The mesh has an axis {quoted(unknown[0])}, but its axes are {', '.join(MESH_AXES)}"
            f"{did_you_mean(nearest(unknown[0], MESH_AXES))}"
        )
    sizes = {axis: shape.get(axis, 1) for axis in MESH_AXES}
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    whole = all(type(size) is int for size in sizes.values())
    if not whole or len(open_axes) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(
            f"The mesh {quoted(shape)} must have whole positive sizes, and at most one -1 for what "
            "is left."
        )
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if open_axes and len(devices) % fixed == 0:
        sizes[open_axes[0]] = len(devices) // fixed
    if math.prod(sizes.values()) != len(devices):
        model = math.gcd(sizes["model"], len(devices)) if sizes["model"] > 0 else 1
        fitting = {"data": len(devices) // model, "model": model}
        raise UserError(
            f"The mesh {quoted(shape)} does not fit the {len(devices)} devices here; {fitting} "
            f"would."
        )
    sides, types = tuple(sizes.values()), (AxisType.Auto,) * 3
    try:
        return jax.make_mesh(sides, MESH_AXES, types, devices=devices)
    # On a cube of 4 x 4 x 4 chips an axis of 8 takes a part of a physical one.
    except NotImplementedError:
        placed = mesh_utils.create_device_mesh(
            sides, devices=devices, allow_split_physical_axes=True
        )
        return Mesh(placed, MESH_AXES, axis_types=types)


@contextlib.contextmanager
def use_mesh(mesh: Mesh):
    """Within it the model's logical constraints hold: trace and run every sharded function
    inside.
    """
    with jax.set_mesh(mesh), nn.logical_axis_rules(LOGICAL_RULES):
        yield mesh


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Gives the sharding of a batch array [B, ...]: B over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def check_batch_size(batch_size: int, mesh: Mesh, microbatches: int = 1) -> None:
    """Raises UserError when a global batch of this many rows does not divide over the mesh and into
    microbatches.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"] * microbatches
    if batch_size % parts:
        fitting = max(1, round(batch_size / parts)) * parts
        each = f", in {microbatches} microbatches each" if microbatches > 1 else ""
        raise UserError(
            f"A batch of {batch_size} rows does not divide over data x fsdp = {mesh.shape['data']} "
            f"x {mesh.shape['fsdp']} devices{each}; type --gin.BATCH_SIZE={fitting}."
        )


def state_shardings(abstract_boxed_tree, mesh: Mesh):
    """Gives a NamedSharding for every leaf of a tree of shapes, such as `jax.eval_shape` gives of
    an initialiser.

    Leaves boxed with logical axes go by LOGICAL_RULES; others are replicated. Norm scales and
    position tables are tiny and replicated too. Raises UserError when a dimension does not divide
    over its mesh axis, with the parameter's name.
    """

    def sharding(path, leaf):
        if not _is_box(leaf):
            return NamedSharding(mesh, PartitionSpec())
        names = leaf.names
        spec = nn.logical_to_mesh_axes(names, LOGICAL_RULES)
        _check_divides(path_name(path), leaf.value.shape, names, spec, mesh)
        small = len([name for name in names if name != "layers"]) < 2 or "relpos_buckets" in names
        return NamedSharding(mesh, PartitionSpec() if small else spec)

    return jax.tree_util.tree_map_with_path(sharding, abstract_boxed_tree, is_leaf=_is_box)


def with_shardings(abstract_tree, shardings):
    """Gives a tree of ShapeDtypeStructs with shardings, as `Checkpoints.restore` wants it, boxes
    taken off.
    """
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        unbox(abstract_tree),
        shardings,
    )


def unbox(tree):
    """Gives the tree with boxes of logical axes taken off, without the constraints that Flax's own
    adds.
    """
    return jax.tree.map(
        lambda x: x.unbox(apply_constraint=False) if _is_box(x) else x, tree, is_leaf=_is_box
    )


def _is_box(x) -> bool:
    return isinstance(x, nn.LogicallyPartitioned)


def _check_divides(name: str, shape, names, spec, mesh: Mesh) -> None:
    for size, logical, axis in zip(shape, names, spec):
        if axis is not None and size % mesh.shape[axis]:
            raise UserError(
                f"The parameter {name} has {size} {logical}, which does not divide over "
                f"{axis}={mesh.shape[axis]}; give the mesh an axis {axis} that divides {size}, "
                f"such as {axis}={math.gcd(size, mesh.shape[axis])}."
            )
