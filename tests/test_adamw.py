"""AdamW and Lion: updates by hand and by optax, what decays, dtypes, sharding, resumed runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from flan_jax.checkpoints.manager import Checkpoints
from flan_jax.errors import UserError
from flan_jax.models import decoder, stacking, t5
from flan_jax.optim.adamw import adamw
from flan_jax.optim.lion import lion
from flan_jax.optim.make import OPTIMIZERS
from flan_jax.optim.weight_decay import decayed
from flan_jax.parallel import partitioning
from flan_jax.training import resume
from flan_jax.training.state import ShardedState, init_params, unstack
from flan_jax.training.step import make_train_step

T5 = t5.T5Config(256, 32, 2, 16, 64, 2, 2, dropout_rate=0.0, dtype="float32")
TIED = dataclasses.replace(T5, logits_via_embedding=True, mlp_activations=("relu",))
RELATIVE = decoder.DecoderConfig(256, 32, 2, 16, 64, 2, dtype="float32")
LLAMA = dataclasses.replace(
    RELATIVE,
    positions="rotary",
    num_kv_heads=1,
    mlp_activations=("silu", "linear"),
    logits_via_embedding=False,
    qkv_bias=True,
)
MODELS = {"t5": T5, "t5_tied": TIED, "relative": RELATIVE, "llama": LLAMA}


def make_model(config) -> nn.Module:
    return (t5.T5 if isinstance(config, t5.T5Config) else decoder.DecoderLM)(config)


def make_batch(config, rows: int = 8, length: int = 16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    stacks = ("encoder", "decoder") if isinstance(config, t5.T5Config) else ("decoder",)
    names = [f"{stack}_input_tokens" for stack in stacks] + ["decoder_target_tokens"]
    batch = {name: rng.integers(2, 256, (rows, length)).astype(np.int32) for name in names}
    ones = [f"{stack}_segment_ids" for stack in stacks] + ["decoder_loss_weights"]
    if stacks == ("decoder",):
        batch["decoder_positions"] = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    return {**batch, **{name: np.ones((rows, length), np.int32) for name in ones}}


def abstract_params(config):
    """Returns the boxed shapes of a model's parameters."""
    shapes = {name: (1, 16) for name in make_batch(config)}
    return jax.eval_shape(lambda: init_params(make_model(config), shapes, 0))


def random_like(tree, seed: int, dtype="float32"):
    """Returns random arrays of the shapes of a tree, boxed or not."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), dtype), nn.unbox(tree))


# --- Updates


def test_three_updates_of_adamw_are_those_of_the_formula():
    params = {"kernel": np.float64([[1.0, -2.0], [0.5, 3.0]]), "scale": np.float64([1.0, 2.0])}
    grads = [jax.tree.map(lambda x, i=i: np.cos(x * (i + 1)), params) for i in range(3)]
    rates, b1, b2, eps, decay = (1 / 2, 1, 1), 0.8, 0.95, 1e-6, 0.1
    optimizer = adamw(0.01, warmup_steps=2, b1=b1, b2=b2, eps=eps, weight_decay=decay)
    ours = jax.tree.map(jnp.float32, params)
    state = optimizer.init(ours)
    m, v = ({name: 0.0 for name in params} for _ in range(2))
    for t, (grad, share) in enumerate(zip(grads, rates), start=1):
        updates, state = jax.jit(optimizer.update)(jax.tree.map(jnp.float32, grad), state, ours)
        ours = optax.apply_updates(ours, updates)
        for name, g in grad.items():
            m[name] = b1 * m[name] + (1 - b1) * g
            v[name] = b2 * v[name] + (1 - b2) * g**2
            direction = (m[name] / (1 - b1**t)) / (np.sqrt(v[name] / (1 - b2**t)) + eps)
            decayed = decay * params[name] if name == "kernel" else 0.0
            params[name] = params[name] - 0.01 * share * (direction + decayed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), ours, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), state.nu, v)


def test_three_updates_of_lion_are_those_of_the_formula():
    params = {"kernel": np.float64([[1.0, -2.0], [0.5, 3.0]]), "bias": np.float64([1.0, 2.0])}
    grads = [jax.tree.map(lambda x, i=i: np.cos(x * (i + 1)), params) for i in range(3)]
    optimizer = lion(0.01, weight_decay=0.1)
    ours = jax.tree.map(jnp.float32, params)
    state, m = optimizer.init(ours), {name: 0.0 for name in params}
    for grad in grads:
        updates, state = jax.jit(optimizer.update)(jax.tree.map(jnp.float32, grad), state, ours)
        ours = optax.apply_updates(ours, updates)
        for name, g in grad.items():
            decayed = 0.1 * params[name] if name == "kernel" else 0.0
            params[name] = params[name] - 0.01 * (np.sign(0.9 * m[name] + 0.1 * g) + decayed)
            m[name] = 0.99 * m[name] + 0.01 * g
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), ours, params)


@pytest.mark.parametrize("make, plain", [(adamw, optax.adamw), (lion, optax.lion)])
def test_updates_are_those_of_optax_used_plainly(make, plain):
    params = random_like(abstract_params(LLAMA), 0)
    clipped = make(3e-3, weight_decay=0.2, clip_norm=2.0)
    plain = optax.chain(optax.clip_by_global_norm(2.0), plain(3e-3, weight_decay=0.2, mask=decayed))
    state, plain_state = clipped.init(params), plain.init(params)
    for seed in range(1, 5):
        grads = random_like(params, seed)
        updates, state = jax.jit(clipped.update)(grads, state, params)
        expected, plain_state = jax.jit(plain.update)(grads, plain_state, params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8), updates, expected
        )


# --- What decays


@pytest.mark.parametrize("name", MODELS)
def test_what_decays_follows_from_the_logical_axes(name):
    # a matrix has two axes besides that of stacked layers; a table of distances is none
    boxed = stacking.named(abstract_params(MODELS[name]), is_leaf=lambda x: hasattr(x, "names"))
    expected = {
        path: len(set(box.names) - {"layers"}) == 2 and "relpos_buckets" not in box.names
        for path, box in boxed.items()
    }
    found = stacking.named(decayed(nn.unbox(abstract_params(MODELS[name]))))
    assert found == expected
    assert {path.split("/")[-1] for path in found if not found[path]} == {
        "t5": {"scale", "rel_embedding"},
        "t5_tied": {"scale", "rel_embedding"},
        "relative": {"scale", "rel_embedding"},
        "llama": {"scale", "bias"},
    }[name]
    unstacked = stacking.named(
        decayed(stacking.unstack(random_like(abstract_params(MODELS[name]), 0)))
    )
    assert {path.split("/")[-1]: decays for path, decays in unstacked.items()} == {
        path.split("/")[-1]: decays for path, decays in found.items()
    }


def test_adapters_and_prompts_decay():
    tree = {
        "layers": {"query": {"lora_a": jnp.ones((2, 4, 2)), "lora_b": jnp.ones((2, 2, 4))}},
        "prompt": {"prompt": jnp.ones((3, 4))},
        "norm": {"scale": jnp.ones(4)},
    }
    assert stacking.named(decayed(tree)) == {
        "layers/query/lora_a": True,
        "layers/query/lora_b": True,
        "prompt/prompt": True,
        "norm/scale": False,
    }
    zeros = jax.tree.map(jnp.zeros_like, tree)
    for optimizer in (adamw(0.1, weight_decay=0.5), lion(0.1, weight_decay=0.5)):
        updates, _ = optimizer.update(zeros, optimizer.init(tree), tree)
        for name, update in stacking.named(updates).items():
            np.testing.assert_allclose(update, 0.0 if "scale" in name else -0.05, rtol=1e-6)


@pytest.mark.parametrize("name", ["t5", "llama"])
@pytest.mark.parametrize("make", [adamw, lion])
def test_stacked_and_unstacked_trees_have_the_same_updates(name, make):
    params = random_like(abstract_params(MODELS[name]), 0)
    optimizer = make(1e-2, weight_decay=0.1)
    stacked, state = params, optimizer.init(params)
    plain, plain_state = stacking.unstack(params), optimizer.init(stacking.unstack(params))
    for seed in (1, 2):
        grads = random_like(params, seed)
        updates, state = optimizer.update(grads, state, stacked)
        stacked = optax.apply_updates(stacked, updates)
        updates, plain_state = optimizer.update(stacking.unstack(grads), plain_state, plain)
        plain = optax.apply_updates(plain, updates)
    jax.tree.map(np.testing.assert_array_equal, stacking.unstack(stacked), plain)
    jax.tree.map(np.testing.assert_array_equal, stacking.unstack(state), plain_state)


# --- Dtypes


@pytest.mark.parametrize("make", [adamw, lion])
@pytest.mark.parametrize("moment_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_updates_and_second_moments_are_float32(make, moment_dtype, param_dtype):
    params = random_like(abstract_params(RELATIVE), 0, param_dtype)
    grads = random_like(params, 1, param_dtype)
    optimizer = make(1e-2, weight_decay=0.1, clip_norm=1.0, moment_dtype=moment_dtype)
    state = optimizer.init(params)
    updates, after = jax.jit(optimizer.update)(grads, state, params)
    for each in (state, after):
        assert {x.dtype.name for x in jax.tree.leaves(each.mu)} == {moment_dtype}
        assert not hasattr(each, "nu") or {x.dtype.name for x in jax.tree.leaves(each.nu)} == {
            "float32"
        }
    assert {x.dtype.name for x in jax.tree.leaves(updates)} == {"float32"}
    exact = make(1e-2, weight_decay=0.1, clip_norm=1.0)
    params, grads = (jax.tree.map(jnp.float32, tree) for tree in (params, grads))
    expected, _ = jax.jit(exact.update)(grads, exact.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)


# --- Runs


def run(config, optimizer, mesh=None, param_dtype: str = "float32"):
    """Returns (sharded state, its step on a batch that stays the same)."""
    model, batch = make_model(config), make_batch(config)
    mesh = mesh or partitioning.make_mesh({"data": 1}, jax.devices()[:1])
    shapes = {name: (1, x.shape[1]) for name, x in batch.items()}
    sharded = ShardedState(model, optimizer, mesh, shapes, 0, param_dtype)
    step = make_train_step(model, optimizer, 0, 0.0, 0.0, 0.0)
    jitted = jax.jit(step, out_shardings=(sharded.shardings, None), donate_argnums=0)
    batch = jax.device_put(batch, partitioning.batch_sharding(mesh))

    def take(state, steps: int):
        values = []
        with partitioning.use_mesh(mesh):
            for _ in range(steps):
                state, metrics = jitted(state, {}, batch)
                values.append(float(metrics["loss"]))
        return state, values

    return sharded, take


@pytest.mark.parametrize(
    "optimizer, param_dtype",
    [
        (adamw(1e-2, "cosine", 0.1, train_steps=40, weight_decay=0.1, clip_norm=1.0), "float32"),
        (adamw(1e-2, "cosine", 0.1, train_steps=40), "bfloat16"),
        (lion(1e-3, "wsd", 4, train_steps=40), "float32"),
    ],
    ids=["adamw", "adamw, bfloat16 parameters", "lion"],
)
def test_a_decoder_learns_one_batch(optimizer, param_dtype):
    sharded, take = run(LLAMA, optimizer, param_dtype=param_dtype)
    _, losses = take(sharded.fresh(), 40)
    assert losses[0] > 5 and losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    "optimizer",
    [
        adamw(1e-2, "cosine", 0.1, train_steps=40, clip_norm=1.0, moment_dtype="bfloat16"),
        lion(1e-3, "wsd", 5, train_steps=40, weight_decay=0.1),
    ],
    ids=["adamw", "lion"],
)
def test_a_resumed_run_is_the_same_to_the_bit(optimizer, tmp_path):
    sharded, take = run(LLAMA, optimizer)
    whole, losses = take(sharded.fresh(), 40)
    half, first = take(sharded.fresh(), 20)
    saved = Checkpoints(tmp_path)
    saved.save(20, unstack(half))
    saved.wait()
    state = sharded.stack(saved.restore(sharded.on_disk()))
    saved.close()
    resumed, last = take(state, 20)
    assert first + last == losses
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_a_run_resumes_with_its_own_optimizer_alone(tmp_path):
    made = {name: run(LLAMA, make(1e-3))[0] for name, make in OPTIMIZERS.items()}
    for name, sharded in made.items():
        saved = Checkpoints(tmp_path / name / "checkpoints")
        for other in made.values():
            resume.check_optimizer(saved, other)  # nothing is saved yet
        saved.save(1, unstack(sharded.fresh()))
        saved.wait()
        for other_name, other in made.items():
            if other_name == name:
                resume.check_optimizer(saved, other)
                continue
            says = f"OPTIMIZER='{name}', whose state '{other_name}' .*--gin.OPTIMIZER={name}, or"
            with pytest.raises(UserError, match=says):
                resume.check_optimizer(saved, other)
        saved.close()


def test_moments_may_have_another_dtype_after_a_restart(tmp_path):
    sharded, take = run(LLAMA, adamw(1e-2, moment_dtype="float32"))
    state, _ = take(sharded.fresh(), 2)
    saved = Checkpoints(tmp_path)
    saved.save(2, unstack(state))
    saved.wait()
    other, take = run(LLAMA, adamw(1e-2, moment_dtype="bfloat16", schedule="linear", clip_norm=1.0))
    restored = other.stack(saved.restore(other.on_disk()))
    saved.close()
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)),
        restored["opt_state"].mu,
        state["opt_state"].mu,
    )
    assert np.isfinite(take(restored, 2)[1]).all()


@pytest.mark.devices
@pytest.mark.parametrize("make", [adamw, lion])
def test_moments_are_split_like_their_parameters_and_restored_on_another_mesh(make, tmp_path):
    optimizer = make(1e-3, "linear", 2, train_steps=20, weight_decay=0.1, clip_norm=1.0)
    mesh = partitioning.make_mesh({"fsdp": 4, "model": 2})
    config = dataclasses.replace(LLAMA, num_kv_heads=2)
    sharded, take = run(config, optimizer, mesh)
    moments = sharded.shardings["opt_state"]
    for moment in (moments.mu, getattr(moments, "nu", moments.mu)):
        assert moment == sharded.shardings["params"]
    state, losses = take(sharded.fresh(), 6)
    kernel = state["opt_state"].mu["decoder"]["layers"]["mlp"]["wo"]["kernel"]
    assert len({str(shard.index) for shard in kernel.global_shards}) == 8
    one_sharded, one_take = run(config, optimizer)
    _, expected = one_take(one_sharded.fresh(), 6)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    saved = Checkpoints(tmp_path)
    saved.save(6, unstack(state))
    saved.wait()
    other_sharded, other_take = run(config, optimizer, partitioning.make_mesh({"data": 8}))
    other = other_sharded.stack(saved.restore(other_sharded.on_disk()))
    saved.close()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(other), jax.device_get(state))
    _, on_other = other_take(other, 3)
    _, on_first = take(state, 3)
    np.testing.assert_allclose(on_other, on_first, rtol=1e-4)
