"""Stacked and unstacked trees are two views of one state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flan_jax.models import stacking


class State(NamedTuple):
    count: int
    v: dict


def tree() -> dict:
    layers = {"mlp": {"kernel": np.arange(12 * 6.0).reshape(12, 2, 3)}}
    return {
        "encoder": {"layers": layers, "norm": np.ones(3)},
        "opt": (State(3, {"layers": {"w": np.ones((2, 4))}}), ()),
    }


def test_unstack_names_layers_and_stack_takes_it_back():
    unstacked = stacking.unstack(tree())
    names = [f"layers_{i}" for i in range(12)]
    assert list(unstacked["encoder"]) == [*names, "norm"]
    np.testing.assert_array_equal(
        unstacked["encoder"]["layers_10"]["mlp"]["kernel"],
        tree()["encoder"]["layers"]["mlp"]["kernel"][10],
    )
    assert isinstance(unstacked["opt"][0], State) and set(unstacked["opt"][0].v) == {
        "layers_0",
        "layers_1",
    }
    jax.tree.map(np.testing.assert_array_equal, stacking.stack(unstacked), tree())
    jax.tree.map(np.testing.assert_array_equal, jax.jit(stacking.stack)(unstacked), tree())


def test_shapes_keep_their_shardings():
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "model"))
    sharding = NamedSharding(mesh, PartitionSpec(None, "fsdp", "model"))
    struct = {"layers": {"w": jax.ShapeDtypeStruct((2, 4, 6), jnp.float32, sharding=sharding)}}
    unstacked = stacking.unstack(struct)
    assert unstacked["layers_1"]["w"].shape == (4, 6)
    assert unstacked["layers_1"]["w"].sharding.spec == PartitionSpec("fsdp", "model")
    assert stacking.stack(unstacked) == struct
