"""Meshes: what they refuse, and that training on 8 devices gives the numbers of one."""

import json
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AbstractMesh, PartitionSpec

from flan_jax.errors import UserError
from flan_jax.parallel import partitioning
from support.processes import simulating

TESTS = pathlib.Path(__file__).parent


ONE = {"mesh": {"data": 1}, "devices": 1}
THREE_AXES = {"data": 2, "fsdp": 2, "model": 2}


def start(directory, variants, devices: int, **environment: str) -> subprocess.Popen:
    environment = {
        **simulating(devices),
        "NPROC": "64",  # enough threads for collectives that wait
        **environment,
    }
    command = [
        sys.executable,
        str(TESTS / "support/sharded_steps.py"),
        str(directory),
        *map(json.dumps, variants),
    ]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def results(process: subprocess.Popen) -> list[dict]:
    printed, problems = process.communicate(timeout=550)
    assert process.returncode == 0, problems[-3000:]
    assert "Involuntary full rematerialization" not in problems
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


def assert_same(one: dict, run: dict, variant: dict, tolerance: float = 1e-5) -> None:
    mesh = variant["mesh"]
    assert run["kernel_shards"] == mesh.get("fsdp", 1) * mesh.get("model", 1)
    np.testing.assert_allclose(run["losses"], one["losses"], rtol=tolerance)
    np.testing.assert_allclose(run["loss_after_restore"], one["loss_after_restore"], rtol=1e-5)
    assert run["restored_like_state"]


def compare(directory, *variants: dict) -> None:
    """Takes 20 steps on one device and in the variants, in a process with 8.

    All must give the same losses.
    """
    one, *others = results(start(directory, [ONE, *variants], 8))
    for variant, run in zip(variants, others, strict=True):
        assert_same(one, run, variant)
        assert run["greedy"] == one["greedy"]
    assert one["loss_after_restore"] < one["losses"][10] < one["losses"][0]


def test_a_mesh_with_memory_savings_has_the_losses_of_one_device(tmp_path):
    savings = {"microbatches": 4, "loss_chunks": 4, "remat": "full"}
    compare(tmp_path, {"mesh": THREE_AXES, **savings})


@pytest.mark.slow
def test_meshes_with_memory_savings_have_the_losses_of_one_device(tmp_path):
    compare(
        tmp_path,
        {"mesh": {"fsdp": 8}, "microbatches": 2, "remat": "full"},
        {"mesh": THREE_AXES, "microbatches": 4, "loss_chunks": 4},
    )


@pytest.mark.slow
def test_each_mesh_and_memory_saving_has_the_losses_of_one_device(tmp_path):
    compare(
        tmp_path,
        *(
            {"mesh": mesh}
            for mesh in ({"data": 8}, {"fsdp": 8}, THREE_AXES, {"data": 4, "model": 2})
        ),
        *(
            {"mesh": {"data": 1}, "devices": 1, **option}
            for option in (
                {"microbatches": 2},
                {"microbatches": 4},
                {"loss_chunks": 4},
                {"remat": "full"},
                {"remat": "dots"},
            )
        ),
    )


@pytest.mark.slow
def test_unscanned_layers_give_the_same_losses(tmp_path):
    # Random parameters differ without a scan: both start from what the first has saved.
    one, unscanned = results(start(tmp_path, [ONE, {**ONE, "scan_layers": False}], 1))
    np.testing.assert_allclose(
        unscanned["loss_after_restore"], one["loss_after_restore"], rtol=1e-5
    )


@pytest.mark.slow
def test_bfloat16_has_the_same_losses_within_a_hundredth(tmp_path):
    low = {**ONE, "dtype": "bfloat16"}
    one, *others = results(
        start(
            tmp_path,
            [
                low,
                {**low, "mesh": {"fsdp": 8}, "devices": 8},
                {**low, "microbatches": 4, "loss_chunks": 4, "remat": "full"},
            ],
            8,
        )
    )
    (exact,) = results(start(tmp_path / "exact", [ONE], 8))
    for run in (*others, exact):
        np.testing.assert_allclose(run["losses"], one["losses"], rtol=1e-2)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_and_share_checkpoints_with_it(tmp_path):
    variant = {"mesh": THREE_AXES, "microbatches": 2}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    two = [
        start(
            tmp_path / "two",
            [variant],
            4,
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]
    (first,), (second,) = map(results, two)
    # The process alone finds the checkpoint of the two and goes on from it.
    (one,) = results(start(tmp_path / "two", [ONE], 1))
    assert first == second
    assert_same(one, first, variant)


def test_the_mesh_fits_the_devices():
    devices = jax.devices()[:1]
    assert dict(partitioning.make_mesh({"data": -1}, devices).shape) == {
        "data": 1,
        "fsdp": 1,
        "model": 1,
    }
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
    specs = {
        name: sharding.spec for name, sharding in partitioning.state_shardings(tree, mesh).items()
    }
    assert specs["kernel"] == PartitionSpec(None, "fsdp", "model")
    assert specs["scale"] == specs["relpos"] == specs["count"] == PartitionSpec()


def test_an_axis_that_does_not_divide_names_the_parameter():
    mesh = AbstractMesh((2, 2, 4), partitioning.MESH_AXES)
    with pytest.raises(UserError, match="decoder/wo has 6 mlp, .*model=4.* such as model=2"):
        partitioning.state_shardings({"decoder": {"wo": boxed((6, 16), "mlp", "embed")}}, mesh)
    partitioning.check_batch_size(8, mesh)
    with pytest.raises(UserError, match="BATCH_SIZE=12"):
        partitioning.check_batch_size(13, mesh)
