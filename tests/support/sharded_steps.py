"""Trains, saves, restores and decodes on meshes of simulated CPU devices.

Prints one JSON line per variant.

Run as `sharded_steps.py DIRECTORY VARIANT_AS_JSON ...` in a process of its own by
test_partitioning.py, because the number of devices is fixed when JAX starts; as several processes
when JAX_NUM_PROCESSES says so. A variant has `mesh`, and where they differ from the defaults below
`devices`, fields of the model and arguments of the step.
"""

import dataclasses
import json
import os
import sys

import jax
import numpy as np

from flan_jax.checkpoints import manager
from flan_jax.models import t5
from flan_jax.models.decoding import greedy
from flan_jax.optim import adafactor as optimizer
from flan_jax.parallel import partitioning
from flan_jax.training.state import ShardedState, unstack
from flan_jax.training.step import make_train_step

CONFIG = t5.T5Config(256, 128, 4, 32, 256, 2, 2, dropout_rate=0.0, dtype="float32")
ROWS, STEPS = 16, 20


def make_batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    segments = np.repeat([[1] * 10 + [2] * 4 + [0] * 2], ROWS, axis=0).astype(np.int32)
    tokens = {
        name: rng.integers(2, 256, (ROWS, 16)).astype(np.int32)
        for name in ("encoder_input_tokens", "targets")
    }
    return {
        "encoder_input_tokens": tokens["encoder_input_tokens"],
        "encoder_segment_ids": segments,
        "decoder_input_tokens": np.roll(tokens["targets"], 1, axis=1),
        "decoder_target_tokens": tokens["targets"],
        "decoder_segment_ids": segments,
        # Rows have different numbers of targets, so that microbatches weigh differently.
        "decoder_loss_weights": (np.arange(16) < 4 + np.arange(ROWS)[:, None] % 8).astype(np.int32)
        * (segments > 0),
    }


def take_steps(
    directory: str,
    mesh: dict,
    devices: int | None = None,
    microbatches: int = 1,
    loss_chunks: int = 1,
    **model_fields,
) -> dict:
    """Gives what a run on a mesh computes.

    The first saves its end state and every one with its tree reads it back.
    """
    mesh = partitioning.make_mesh(mesh, jax.devices()[:devices])
    model, adafactor = (
        t5.T5(dataclasses.replace(CONFIG, **model_fields)),
        optimizer.adafactor(learning_rate=1e-3),
    )
    numpy_batch = make_batch()
    shapes = {name: (1, 16) for name in numpy_batch}
    sharded = ShardedState(model, adafactor, mesh, shapes, seed=0)
    step = make_train_step(
        model, adafactor, 0, 0.0, 1e-4, 0.0, microbatches, loss_chunks, sharded.shardings["params"]
    )
    sharding = partitioning.batch_sharding(mesh)
    batch = {
        name: jax.make_array_from_callback(
            array.shape, sharding, lambda index, array=array: array[index]
        )
        for name, array in numpy_batch.items()
    }
    state = sharded.fresh()
    with partitioning.use_mesh(mesh):
        train_step = jax.jit(step, out_shardings=(sharded.shardings, None), donate_argnums=0)
        values = []
        for _ in range(STEPS):
            state, metrics = train_step(state, {}, batch)
            values.append(float(metrics["loss"]))
        kernel = max(jax.tree.leaves(state["params"]["decoder"]), key=lambda x: x.size)
        result = {
            "losses": values,
            "kernel_shards": len({str(shard.index) for shard in kernel.global_shards}),
        }
        saved = manager.Checkpoints(directory)
        if saved.latest_step() is None:
            saved.save(STEPS, unstack(state))
            saved.wait()
        restored = sharded.stack(saved.restore(sharded.on_disk()))
        saved.close()
        result["restored_like_state"] = jax.tree.all(
            jax.tree.map(lambda a, b: a.sharding == b.sharding, restored, state)
        )
        _, metrics = train_step(restored, {}, batch)
        result["loss_after_restore"] = float(metrics["loss"])
        if jax.process_count() == 1:
            result["greedy"] = np.asarray(
                greedy.greedy(model, state["params"], batch["encoder_input_tokens"], 5)
            ).tolist()
    return result


if __name__ == "__main__":
    if "JAX_NUM_PROCESSES" in os.environ:
        jax.distributed.initialize(
            os.environ["JAX_COORDINATOR_ADDRESS"],
            int(os.environ["JAX_NUM_PROCESSES"]),
            int(os.environ["JAX_PROCESS_ID"]),
        )
    for variant in map(json.loads, sys.argv[2:]):
        print(json.dumps(take_steps(sys.argv[1], **variant)), flush=True)
