"""Meshes: what they refuse, and that training on 8 devices gives the numbers of one."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AbstractMesh, PartitionSpec

from flan_jax.errors import UserError
from flan_jax.training import partitioning

TESTS = pathlib.Path(__file__).parent


def compare_meshes(directory, *meshes: dict) -> None:
    """Trains on the first mesh and on the others, in a process with 8 devices; all must give the same numbers."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu",
                   "NPROC": "64"}  # threads enough for collectives that wait for each other
    command = [sys.executable, str(TESTS / "sharded_steps.py"), str(directory), *map(json.dumps, meshes)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    one, *sharded = map(json.loads, result.stdout.splitlines())
    for mesh, run in zip(meshes[1:], sharded, strict=True):
        assert run["kernel_shards"] == mesh.get("fsdp", 1) * mesh.get("model", 1)
        np.testing.assert_allclose(run["losses"], one["losses"], rtol=1e-5)
        np.testing.assert_allclose(run["loss_after_restore"], one["loss_after_restore"], rtol=1e-5)
        assert run["greedy"] == one["greedy"]
        assert run["restored_like_state"]
    assert one["loss_after_restore"] < one["losses"][1] < one["losses"][0]
    assert "Involuntary full rematerialization" not in result.stderr


def test_eight_devices_train_restore_and_decode_like_one(tmp_path):
    compare_meshes(tmp_path, {"data": 1}, {"data": 4, "model": 2}, {"fsdp": 8})


@pytest.mark.slow
def test_all_three_axes_at_once_give_the_same_numbers(tmp_path):
    compare_meshes(tmp_path, {"data": 1}, {"data": 2, "fsdp": 2, "model": 2}, {"fsdp": 4, "model": 2})


def test_the_mesh_fits_the_devices():
    devices = jax.devices()[:1]
    assert dict(partitioning.make_mesh({"data": -1}, devices).shape) == {"data": 1, "fsdp": 1, "model": 1}
    for shape, hint in [
        ({"data": 3, "model": 2}, "'data': 1"),
        ({"model": 2, "data": -1}, "does not fit the 1 devices"),
        ({"rows": 1}, "data, fsdp, model"),
        ({"data": -1, "model": -1}, "at most one -1"),
        ({"data": 0}, "positive"),
    ]:
        with pytest.raises(UserError, match=hint):
            partitioning.make_mesh(shape, devices)


def boxed(shape: tuple, *names: str):
    return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)


def test_parameters_go_by_the_rules_and_tiny_ones_are_replicated():
    mesh = AbstractMesh((1, 2, 4), partitioning.MESH_AXES)
    tree = {
        "kernel": boxed((3, 16, 8), "layers", "embed", "mlp"),
        "scale": boxed((3, 16), "layers", "embed"),
        "relpos": boxed((4, 32), "heads", "relpos_buckets"),
        "count": jax.ShapeDtypeStruct((), jnp.int32),
    }
    specs = {name: sharding.spec for name, sharding in partitioning.state_shardings(tree, mesh).items()}
    assert specs["kernel"] == PartitionSpec(None, "fsdp", "model")
    assert specs["scale"] == specs["relpos"] == specs["count"] == PartitionSpec()


def test_what_does_not_divide_is_named():
    mesh = AbstractMesh((2, 2, 4), partitioning.MESH_AXES)
    with pytest.raises(UserError, match="decoder/wo has 6 mlp, .*model=4.* such as model=2"):
        partitioning.state_shardings({"decoder": {"wo": boxed((6, 16), "mlp", "embed")}}, mesh)
    partitioning.check_batch_size(8, mesh)
    with pytest.raises(UserError, match="BATCH_SIZE=12"):
        partitioning.check_batch_size(13, mesh)
