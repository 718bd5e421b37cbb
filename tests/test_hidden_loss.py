"""The loss of hidden states equals that of all logits, whatever share of a row has a loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.models.decoder import DecoderConfig, DecoderLM
from flan_jax.models.hidden_loss import hidden_token_loss
from flan_jax.models.losses import token_loss
from flan_jax.optim.adafactor import adafactor
from flan_jax.parallel.partitioning import batch_sharding, make_mesh, use_mesh
from flan_jax.training.compile import lower_train_step
from flan_jax.training.config import TrainConfig
from flan_jax.training.state import ShardedState

ROWS, LENGTH, WIDTH, WORDS = 3, 32, 8, 50
# Of the row with the most; the others have fewer, one of them none.
COUNTS = (0, 1, 4, 5, 12, 17, 32)


def drawn(most: int) -> tuple:
    """Hidden states, a table, targets and weights, at most `most` of a row with a loss."""
    rng = np.random.default_rng(most)
    hidden = jnp.float32(rng.normal(size=(ROWS, LENGTH, WIDTH)))
    table = jnp.float32(rng.normal(size=(WORDS, WIDTH)))
    weights = np.zeros((ROWS, LENGTH), np.int32)
    for row, count in enumerate((most, most // 2, 0)):
        weights[row, rng.permutation(LENGTH)[:count]] = 1
    return hidden, table, rng.integers(0, WORDS, (ROWS, LENGTH)), weights


def whole(hidden, table, targets, weights):
    """The loss of all logits, to compare with."""
    sums = token_loss(hidden @ table.T, targets, weights, 1e-2, 0.1)
    return 3.0 * sums[0], sums


def in_parts(hidden, table, targets, weights, chunks=1, skips=True):
    """The same of `hidden_token_loss`."""

    def logits_of(x):
        return x.astype(jnp.float32) @ table.T.astype(jnp.float32)

    sums = hidden_token_loss(logits_of, hidden, targets, weights, chunks, 1e-2, 0.1, skips)
    return 3.0 * sums[0], sums


@pytest.mark.parametrize("most", COUNTS)
@pytest.mark.parametrize("chunks", [1, 2, 4, 16])
def test_sums_and_gradients_are_those_of_all_logits(most, chunks):
    arrays = drawn(most)
    expected = jax.value_and_grad(whole, (0, 1), has_aux=True)(*arrays)
    found = functools.partial(in_parts, chunks=chunks)
    both = jax.jit(jax.value_and_grad(found, (0, 1), has_aux=True))(*arrays)
    for ours, theirs in zip(jax.tree.leaves(both), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(jax.jit(found)(*arrays)[1], expected[0][1], rtol=1e-5)


def test_positions_without_a_loss_have_no_logits():
    """Their numbers take no part: a loss on hidden states that are not numbers is a number."""
    hidden, table, targets, weights = drawn(4)
    filled = np.zeros_like(weights)
    filled[:, :4] = 1
    rows = jnp.where(filled[..., None] != 0, 0.5 * jnp.ones_like(hidden), jnp.nan)
    assert np.isfinite(in_parts(rows, table, targets, filled)[0])
    assert np.isnan(in_parts(rows, table, targets, filled, skips=False)[0])


def test_a_frozen_map_has_no_gradient_computed():
    hidden, table, targets, weights = drawn(12)

    def products(arguments):
        gradients = jax.jit(jax.grad(lambda *arrays: in_parts(*arrays)[0], arguments))
        text = gradients.lower(hidden, table, targets, weights).compile().as_text()
        return text.count(f"f32[{WORDS},{WIDTH}]{{1,0}} dot(") + text.count(
            f"f32[{WIDTH},{WORDS}]{{1,0}} dot("
        )

    assert products((0, 1)) > products((0,)) == 0


def test_low_precision_keeps_its_types():
    hidden, table, targets, weights = drawn(12)
    low = [x.astype(jnp.bfloat16) for x in (hidden, table)]
    for chunks in (1, 4):
        gradients = jax.grad(functools.partial(in_parts, chunks=chunks), (0, 1), has_aux=True)
        (of_hidden, of_table), _ = gradients(*low, targets, weights)
        assert of_hidden.dtype == of_table.dtype == jnp.bfloat16
        exact = jax.grad(lambda *x: whole(*x)[0], (0, 1))(
            *(x.astype(jnp.float32) for x in low), targets, weights
        )
        for ours, theirs in zip((of_hidden, of_table), exact, strict=True):
            np.testing.assert_allclose(np.float32(ours), theirs, rtol=2e-2, atol=2e-2)


@pytest.mark.devices
@pytest.mark.parametrize("most", [3, 14, 16])
def test_a_decoder_on_a_mesh_takes_the_steps_of_one_device(most):
    config = DecoderConfig(8192, 32, 2, 16, 64, 2, dtype="float32", dropout_rate=0.0)
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, 8192, (8, 16)).astype(np.int32)
    batch = {
        "decoder_input_tokens": np.roll(tokens, 1, axis=1),
        "decoder_target_tokens": tokens,
        "decoder_segment_ids": np.ones_like(tokens),
        "decoder_positions": np.tile(np.arange(16, dtype=np.int32), (8, 1)),
        "decoder_causal_attention": np.zeros_like(tokens),
        "decoder_loss_weights": np.zeros_like(tokens),
    }
    for row, count in enumerate((most, 0, 1, 2, 3, 1, most // 2, most)):
        batch["decoder_loss_weights"][row, 16 - count :] = 1

    def losses(axes, devices, **settings):
        mesh, model = make_mesh(axes, jax.devices()[:devices]), DecoderLM(config)
        optimizer, shapes = adafactor(1e-2), {name: rows.shape for name, rows in batch.items()}
        sharded = ShardedState(model, optimizer, mesh, shapes, 0)
        step = lower_train_step(model, optimizer, sharded, TrainConfig(**settings), shapes)
        step, state, values = step.compile(), sharded.fresh(), []
        rows = jax.device_put(batch, batch_sharding(mesh))
        with use_mesh(mesh):
            for _ in range(3):
                state, metrics = step(state, {}, rows)
                values.append([float(metrics["loss"]), float(metrics["grad_norm"])])
        return values

    alone = losses({"data": 1}, 1)
    axes = {"data": 2, "fsdp": 2, "model": 2}
    for settings in ({}, {"microbatches": 2}, {"loss_chunks": 4}):
        np.testing.assert_allclose(losses(axes, 8, **settings), alone, rtol=1e-4)
