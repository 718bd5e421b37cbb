"""Training steps that save memory compute the same losses; profiles; finite parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax import log
from flan_jax.errors import UserError
from flan_jax.models import hidden_loss, losses
from flan_jax.models.t5 import T5, T5Config
from flan_jax.optim.adafactor import adafactor
from flan_jax.optim.stochastic_rounding import round_stochastically
from flan_jax.parallel import partitioning
from flan_jax.training import loop
from flan_jax.training.profile import Profile
from flan_jax.training.state import ShardedState
from flan_jax.training.step import make_eval_step, make_train_step
from support.compiling import OLD_FUSIONS, UNOPTIMIZED_CODE

CONFIG = T5Config(256, 128, 2, 16, 128, 1, 1, dropout_rate=0.0, dtype="float32")


@pytest.mark.optimized
def test_stochastic_rounding_keeps_the_mean_and_yields_a_neighbor():
    # a quarter of the way from 1 to the next bfloat16, 1 + 2^-7
    x = jnp.full(40000, 1.0 + 2.0**-9 / 2)
    x = x.at[:4].set(jnp.array([0.0, -2.5, 3.0e38, -1e-30]))
    rounded = round_stochastically(x, jax.random.key(0))
    assert rounded.dtype == jnp.bfloat16 and set(np.unique(np.float32(rounded[4:]))) == {
        1.0,
        1.0 + 2.0**-7,
    }
    assert abs(float(jnp.mean(rounded[4:].astype(jnp.float32))) - float(x[5])) < 1e-4
    np.testing.assert_allclose(np.float32(rounded[:2]), [0.0, -2.5])
    np.testing.assert_allclose(np.float32(rounded[2:4]), x[2:4], rtol=2**-7)


def test_all_finite_finds_nan_and_infinity():
    params = {"a": jnp.ones(3), "b": {"c": jnp.zeros((2, 2))}}
    assert loop.all_finite(params)
    for value in (jnp.nan, jnp.inf):
        assert not loop.all_finite({**params, "d": jnp.array([1.0, value])})


def steps(param_dtype: str, learning_rate: float, count: int = 20) -> list[float]:
    model, optimizer = T5(CONFIG), adafactor(learning_rate)
    rng = np.random.default_rng(0)
    names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    batch = {name: rng.integers(2, 256, (4, 16)).astype(np.int32) for name in names}
    batch |= dict.fromkeys(
        ("encoder_segment_ids", "decoder_segment_ids", "decoder_loss_weights"),
        np.ones((4, 16), np.int32),
    )
    mesh = partitioning.make_mesh({"data": 1}, jax.devices()[:1])
    sharded = ShardedState(
        model, optimizer, mesh, {name: (1, 16) for name in batch}, 0, param_dtype
    )
    state = sharded.fresh()
    assert {x.dtype.name for x in jax.tree.leaves(state["params"])} == {param_dtype}
    step = jax.jit(make_train_step(model, optimizer, 0, 0.0, 0.0, 0.0))
    found = []
    for _ in range(count):
        state, metrics = step(state, {}, batch)
        found.append(float(metrics["loss"]))
    return found


def test_bfloat16_parameters_learn_from_updates_smaller_than_their_spacing():
    exact, low = steps("float32", 3e-4), steps("bfloat16", 3e-4)
    assert exact[-1] < exact[0] - 0.05
    # Rounded to the nearest, not one update of 3e-4 would change a parameter.
    assert abs(low[-1] - exact[-1]) < 0.3 * (exact[0] - exact[-1])


def test_equal_logits_are_no_right_answers():
    targets = jnp.zeros([1, 2], jnp.int32)
    logits = jnp.stack([jnp.zeros(8), jnp.arange(8.0)[::-1]])[None]
    assert losses.token_loss(logits, targets, jnp.ones([1, 2]))[3] == 1


def test_chunked_loss_equals_the_loss_and_refuses_uneven_chunks():
    rng = np.random.default_rng(0)
    hidden, table = jnp.float32(rng.normal(size=(2, 12, 8))), jnp.float32(rng.normal(size=(8, 50)))
    targets, weights = rng.integers(0, 50, (2, 12)), rng.integers(0, 2, (2, 12))

    def loss(table, chunks):
        sums = hidden_loss.hidden_token_loss(
            lambda x: x @ table, hidden, targets, weights, chunks, 1e-2, 0.1
        )
        return sums[0], sums

    gradients = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (_, whole), gradient = gradients(table, 1)
    (_, chunked), same = gradients(table, 4)
    np.testing.assert_allclose(chunked, whole, rtol=1e-6)
    np.testing.assert_allclose(same, gradient, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="LOSS_CHUNKS=5 does not divide the 12 tokens"):
        loss(table, 5)


def test_a_large_vocabulary_has_its_logits_in_parts_by_default():
    assert losses.resolved_chunks(None, 256, 32_128) == 1
    assert [losses.resolved_chunks(None, length, 262_208) for length in (256, 1_288, 77)] == [
        16,
        8,
        1,
    ]
    assert losses.resolved_chunks(4, 256, 262_208) == 4


def temporaries(microbatches: int = 1, loss_chunks: int = 1, remat: str = "none") -> int:
    """Bytes that XLA sets aside for a step of 8 x 64/32 tokens.

    Of 8,192 words the logits are a good part of them.
    """
    config = T5Config(8192, 64, 4, 16, 128, 4, 4, dropout_rate=0.0, dtype="float32", remat=remat)
    model, optimizer = T5(config), adafactor(1e-3)
    shapes = {
        "encoder_input_tokens": (8, 64),
        "encoder_segment_ids": (8, 64),
        "decoder_input_tokens": (8, 32),
        "decoder_segment_ids": (8, 32),
        "decoder_target_tokens": (8, 32),
        "decoder_loss_weights": (8, 32),
    }
    mesh = partitioning.make_mesh({"data": 1}, jax.devices()[:1])
    sharded = ShardedState(model, optimizer, mesh, shapes, 0)
    step = make_train_step(model, optimizer, 0, 0.0, 0.0, 0.0, microbatches, loss_chunks)
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}
    state = partitioning.with_shardings(sharded.abstract, sharded.shardings)
    return (
        jax.jit(step, donate_argnums=0)
        .lower(state, {}, batch)
        .compile(UNOPTIMIZED_CODE | OLD_FUSIONS)
        .memory_analysis()
        .temp_size_in_bytes
    )


@pytest.mark.optimized
def test_each_way_of_saving_memory_saves_some():
    plain = temporaries()
    assert temporaries(microbatches=4) < 0.6 * plain
    assert temporaries(loss_chunks=4) < 0.8 * plain
    full = temporaries(remat="full")
    assert full < 0.9 * plain
    assert full < temporaries(remat="dots") < plain
    assert temporaries(remat="full", loss_chunks=4) < 0.7 * full


def test_chunked_validation_has_the_same_metrics():
    model = T5(CONFIG)
    batch = dict.fromkeys(
        (
            "encoder_input_tokens",
            "encoder_segment_ids",
            "decoder_input_tokens",
            "decoder_segment_ids",
            "decoder_target_tokens",
            "decoder_loss_weights",
        ),
        jnp.ones((2, 16), jnp.int32),
    )
    params = partitioning.unbox(jax.jit(model.init)(jax.random.key(0), batch)["params"])
    whole, chunked = (
        jax.jit(step)(params, batch) for step in (make_eval_step(model), make_eval_step(model, 4))
    )
    assert whole.keys() == {"loss", "z_loss", "accuracy", "targets"}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, chunked)


def test_a_profile_of_two_steps_is_in_its_directory(tmp_path, capsys):
    log.configure()
    profile = Profile(tmp_path, begin=5, end=20, steps=2)
    for step in range(6, 11):
        profile.before(step)
        profile.after(step, jnp.ones(3) + step)
    assert list(tmp_path.rglob("*.xplane.pb"))
    assert " profile of steps 8 to 9 in" in capsys.readouterr().out
    Profile(tmp_path / "none", begin=5, end=20, steps=0).before(8)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("end, first, last", [(8, 8, 8), (9, 8, 9), (6, 6, 6)])
def test_a_profile_longer_than_the_run_ends_with_it(tmp_path, end, first, last):
    profile = Profile(tmp_path, begin=5, end=end, steps=10)
    assert (profile.first, profile.last) == (first, last)


def test_a_profile_of_a_preempted_run_is_kept(tmp_path, capsys):
    log.configure()
    profile = Profile(tmp_path, begin=0, end=20, steps=10)
    for step in range(1, 5):
        profile.before(step)
        profile.after(step, jnp.ones(3), ended=step == 4)
    assert "profile of steps 3 to 4" in capsys.readouterr().out and list(
        tmp_path.rglob("*.xplane.pb")
    )


def test_the_gradient_norm_of_bfloat16_parameters_is_a_float32():
    batch = dict.fromkeys(
        (
            "encoder_input_tokens",
            "encoder_segment_ids",
            "decoder_input_tokens",
            "decoder_segment_ids",
            "decoder_target_tokens",
            "decoder_loss_weights",
        ),
        jnp.ones((2, 16), jnp.int32),
    )
    mesh = partitioning.make_mesh({"data": 1}, jax.devices()[:1])
    model, optimizer = T5(CONFIG), adafactor(1e-3)
    sharded = ShardedState(
        model, optimizer, mesh, {name: x.shape for name, x in batch.items()}, 0, "bfloat16"
    )
    state = partitioning.unbox(sharded.abstract)
    _, metrics = jax.eval_shape(
        make_train_step(model, optimizer, 0, 0.0, 0.0, 0.0), state, {}, batch
    )
    assert metrics["grad_norm"].dtype == jnp.float32
