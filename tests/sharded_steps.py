"""Trains, saves, restores and decodes on meshes of simulated CPU devices; prints one JSON line per mesh.

Run as `sharded_steps.py DIRECTORY MESH_AS_JSON ...` in a process of its own by test_partitioning.py, because the number
of devices is fixed when JAX starts.
"""

import json
import sys

import jax
import numpy as np
import optax

from flan_jax.models import decoding, losses, stacking, t5
from flan_jax.training import checkpoints, optimizer, partitioning

CONFIG = t5.T5Config(256, 128, 4, 32, 256, 2, 2, dropout_rate=0.0, dtype="float32")


def make_batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    segments = np.repeat([[1] * 10 + [2] * 4 + [0] * 2], 8, axis=0).astype(np.int32)
    tokens = {name: rng.integers(2, 256, (8, 16)).astype(np.int32) for name in ("encoder_input_tokens", "targets")}
    return {
        "encoder_input_tokens": tokens["encoder_input_tokens"],
        "encoder_segment_ids": segments,
        "decoder_input_tokens": np.roll(tokens["targets"], 1, axis=1),
        "decoder_target_tokens": tokens["targets"],
        "decoder_segment_ids": segments,
    }


def take_steps(shape: dict, directory: str) -> dict:
    """Gives what a run on a mesh of `shape` computes; the first saves its end state and every one reads it back."""
    mesh = partitioning.make_mesh(shape, jax.devices()[: 1 if shape == {"data": 1} else 8])
    model, adafactor, batch = t5.T5(CONFIG), optimizer.adafactor(learning_rate=1e-2), make_batch()

    def init():
        params = model.init(jax.random.key(0), batch)["params"]
        return {"params": params, "opt_state": adafactor.init(params)}

    def loss(params, batch):
        logits = model.apply({"params": params}, batch)
        return losses.token_loss(logits, batch["decoder_target_tokens"], batch["decoder_segment_ids"] > 0)[0]

    def step(state, batch):
        value, grads = jax.value_and_grad(loss)(state["params"], batch)
        updates, opt_state = adafactor.update(grads, state["opt_state"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "opt_state": opt_state}, value

    with partitioning.use_mesh(mesh):
        abstract = jax.eval_shape(init)
        shardings = partitioning.state_shardings(abstract, mesh)
        state = jax.jit(lambda: partitioning.unbox(init()), out_shardings=shardings)()
        train_step = jax.jit(step, out_shardings=(shardings, None), donate_argnums=0)
        sharded_batch = jax.device_put(batch, partitioning.batch_sharding(mesh))
        values = []
        for _ in range(2):
            state, value = train_step(state, sharded_batch)
            values.append(float(value))
        saved = checkpoints.Checkpoints(directory)
        if saved.latest_step() is None:
            saved.save(2, jax.jit(stacking.unstack)(state))
            saved.wait()
        restored = saved.restore(stacking.unstack(partitioning.with_shardings(abstract, shardings)))
        restored = jax.jit(stacking.stack, out_shardings=shardings)(restored)
        saved.close()
        restored_like_state = jax.tree.all(jax.tree.map(lambda a, b: a.sharding == b.sharding, restored, state))
        restored, value = train_step(restored, sharded_batch)
        source = sharded_batch["encoder_input_tokens"]
        kernel = state["params"]["decoder"]["layers"]["mlp"]["wo"]["kernel"]
        return {
            "losses": values,
            "loss_after_restore": float(value),
            "greedy": np.asarray(decoding.greedy(model, restored["params"], source, 5)).tolist(),
            "kernel_shards": len({str(shard.index) for shard in kernel.addressable_shards}),
            "restored_like_state": restored_like_state,
        }


if __name__ == "__main__":
    for shape in map(json.loads, sys.argv[2:]):
        print(json.dumps(take_steps(shape, sys.argv[1])), flush=True)
