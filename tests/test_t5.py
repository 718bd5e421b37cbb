"""The T5 model, its losses and its greedy decoding against stock T5X's numbers.

Scanned and unscanned.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from flan_jax.errors import UserError
from flan_jax.models import layers, losses, positions, stacking, t5
from flan_jax.models.decoding import greedy
from support import golden

SMALL = t5.T5Config(128, 16, 2, 8, 32, 3, 2, dropout_rate=0.1, dtype="float32")


def model_and_params(scan_layers: bool):
    _, params = golden.read_t5x(golden.T5_V512 / "legacy/checkpoint_3")
    return t5.T5(golden.config(scan_layers=scan_layers)), stacking.stack(
        params
    ) if scan_layers else params


def small_batch(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tokens = lambda: rng.integers(2, 128, (4, 12)).astype(np.int32)  # noqa: E731
    segments = np.repeat([[1] * 5 + [2] * 5 + [0] * 2], 4, axis=0).astype(np.int32)
    return {
        "encoder_input_tokens": tokens(),
        "encoder_segment_ids": segments,
        "decoder_input_tokens": tokens(),
        "decoder_target_tokens": tokens(),
        "decoder_segment_ids": segments,
        "decoder_loss_weights": (segments > 0).astype(np.float32),
    }


@golden.needs_golden
@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("kind", ["train", "score"])
def test_logits_and_loss_equal_t5x(kind, scan_layers):
    numbers = np.load(golden.T5_V512 / "golden.npz")
    batch = golden.batch(numbers, kind)
    model, params = model_and_params(scan_layers)
    logits = jax.jit(model.apply)({"params": params}, batch)
    np.testing.assert_allclose(logits, numbers[f"{kind}/logits"], atol=1e-5)
    loss, z_loss, weight, correct = losses.token_loss(
        logits, batch["decoder_target_tokens"], batch["decoder_loss_weights"]
    )
    np.testing.assert_allclose(loss, numbers[f"{kind}/loss"], rtol=1e-6)
    np.testing.assert_allclose(z_loss, numbers[f"{kind}/z_loss"], rtol=1e-5)
    assert (correct, weight) == (numbers[f"{kind}/accuracy_num"], numbers[f"{kind}/accuracy_den"])


@golden.needs_golden
def test_label_smoothing_equals_t5x():
    numbers = np.load(golden.T5_V512 / "golden.npz")
    batch = golden.batch(numbers, "train")
    loss, *_ = losses.token_loss(
        numbers["train/logits"],
        batch["decoder_target_tokens"],
        batch["decoder_loss_weights"],
        label_smoothing=0.1,
    )
    np.testing.assert_allclose(loss, numbers["train/loss_label_smoothing_0.1"], rtol=1e-6)


@golden.needs_golden
@pytest.mark.parametrize("scan_layers", [True, False])
def test_gradients_equal_t5x(scan_layers):
    numbers = np.load(golden.T5_V512 / "golden.npz")
    batch = golden.batch(numbers, "train")
    model, params = model_and_params(scan_layers)
    golden.assert_gradients(model, params, batch, numbers)


@golden.needs_golden
@pytest.mark.parametrize("scan_layers", [True, False])
def test_greedy_tokens_equal_t5x(scan_layers):
    numbers = np.load(golden.T5_V512 / "golden.npz")
    model, params = model_and_params(scan_layers)
    expected = numbers["greedy/tokens"]
    tokens = greedy.greedy(
        model, params, numbers["greedy_batch/encoder_input_tokens"], expected.shape[1]
    )
    np.testing.assert_array_equal(tokens, expected)


@golden.needs_golden
def test_a_bfloat16_checkpoint_gives_t5x_scores():
    numbers = np.load(golden.T5_BF16 / "golden.npz")
    step, params = golden.read_t5x(golden.T5_BF16 / "legacy_bf16/checkpoint_100")
    assert step == 100 and params["token_embedder"]["embedding"].dtype == jnp.bfloat16
    params = stacking.stack(jax.tree.map(lambda x: x.astype(np.float32), params))
    batch = golden.batch(numbers, "score")
    logits = jax.jit(t5.T5(golden.config(vocab_size=32128)).apply)({"params": params}, batch)
    np.testing.assert_allclose(logits[..., :64], numbers["logits_first64"], atol=1e-5)
    np.testing.assert_allclose(jax.nn.logsumexp(logits, axis=-1), numbers["logsumexp"], atol=1e-5)
    np.testing.assert_array_equal(jnp.argmax(logits, axis=-1), numbers["argmax"])
    loss, *_ = losses.token_loss(
        logits, batch["decoder_target_tokens"], batch["decoder_loss_weights"]
    )
    np.testing.assert_allclose(loss, numbers["loss"], rtol=1e-6)


@golden.needs_golden
def test_bfloat16_compute_stays_near_t5x():
    numbers = np.load(golden.T5_V512 / "golden.npz")
    model, params = model_and_params(scan_layers=True)
    model = t5.T5(dataclasses.replace(model.config, dtype="bfloat16"))
    logits = jax.jit(model.apply)({"params": params}, golden.batch(numbers, "score"))
    assert logits.dtype == jnp.float32
    ours = np.abs(logits - numbers["score/logits"]).mean()
    theirs = np.abs(numbers["score/logits_bfloat16"] - numbers["score/logits"]).mean()
    assert ours < 1.5 * theirs


def initial_params(config: t5.T5Config = SMALL) -> dict:
    """Returns {'params': ...} without the boxes of logical axes."""
    return nn.unbox(jax.jit(t5.T5(config).init)(jax.random.key(0), small_batch()))


def test_parameters_have_t5x_names_and_axes():
    boxed = jax.eval_shape(t5.T5(SMALL).init, jax.random.key(0), small_batch())["params"]
    kernel = boxed["encoder"]["layers"]["attention"]["query"]["kernel"]
    assert kernel.names == ("layers", "embed", "joined_kv") and kernel.value.shape == (3, 16, 16)
    unscanned = jax.eval_shape(
        t5.T5(dataclasses.replace(SMALL, scan_layers=False)).init, jax.random.key(0), small_batch()
    )
    shapes = lambda tree: {name: x.shape for name, x in golden.named(tree).items()}  # noqa: E731
    assert shapes(stacking.unstack(nn.unbox(boxed))) == shapes(nn.unbox(unscanned["params"]))


def test_packing_does_not_leak_between_segments():
    model = t5.T5(SMALL)
    batch = small_batch()
    params = initial_params()
    apply = jax.jit(model.apply)
    before = apply(params, batch)
    changed = {name: array.copy() for name, array in batch.items()}
    changed["encoder_input_tokens"][:, :5] = 7
    changed["decoder_input_tokens"][:, :5] = 7
    after = apply(params, changed)
    np.testing.assert_array_equal(before[:, 5:10], after[:, 5:10])
    assert np.abs(before[:, :5] - after[:, :5]).max() > 0.01


def test_options_of_one_row_score_as_each_alone():
    model = t5.T5(SMALL)
    batch = small_batch()
    params = initial_params()
    source, ones = batch["encoder_input_tokens"][:1], np.ones((1, 12), np.int32)
    encoded = jax.jit(functools.partial(model.apply, method="encode"))(params, source, ones)
    options = batch["decoder_input_tokens"][:1, :10]

    @jax.jit
    def decode(tokens, segments, cross):
        x = model.apply(params, encoded, ones, tokens, segments, cross, method="decode_hidden")
        return model.apply(params, x, method="logits")

    together = decode(options, np.array([[1] * 4 + [2] * 6]), np.ones((1, 10), np.int32))
    second = decode(options[:, 4:], np.ones((1, 6), np.int32), np.ones((1, 6), np.int32))
    np.testing.assert_allclose(together[:, 4:], second, atol=1e-5)


def test_dropout_needs_training_and_remat_changes_nothing():
    batch = small_batch()
    params = initial_params()

    def loss(params, remat, deterministic):
        model = t5.T5(dataclasses.replace(SMALL, remat=remat))
        logits = model.apply(params, batch, deterministic, rngs={"dropout": jax.random.key(1)})
        return losses.token_loss(
            logits, batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        )[0]

    gradient = jax.jit(jax.value_and_grad(loss), static_argnums=(1, 2))
    plain, plain_grads = gradient(params, "none", False)
    remat, remat_grads = gradient(params, "full", False)
    np.testing.assert_allclose(plain, remat, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        plain_grads,
        remat_grads,
    )
    assert abs(plain - jax.jit(loss, static_argnums=(1, 2))(params, "none", True)) > 1e-3


def test_greedy_pads_after_the_end_and_for_rows_without_input():
    model = t5.T5(SMALL)
    params = initial_params()["params"]
    source = np.array([[5, 6, 7, 0], [0, 0, 0, 0]], np.int32)
    free = np.asarray(greedy.greedy(model, params, source, 6))
    assert (free[0] > 0).all() and (free[1] == 0).all()
    ended = np.asarray(greedy.greedy(model, params, source, 6, eos_id=int(free[0, 0])))
    np.testing.assert_array_equal(ended[0], [free[0, 0], 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"dtype": "float16"}, "T5 gives NaN in float16; type --gin.T5Config.dtype=bfloat16."),
        ({"dtype": "int8"}, "T5Config.dtype must be one of auto, bfloat16, float32, not 'int8'."),
        ({"remat": "some"}, "T5Config.remat must be one of none, full, dots, auto, not 'some'."),
        (
            {"mlp_activations": ("gelo",)},
            "mlp_activations must be one of gelu, linear, relu, silu, not 'gelo'; did you",
        ),
        (
            {"mlp_activations": ()},
            "mlp_activations is (), but must be a list of one or more of gelu, linear, relu, silu.",
        ),
        ({"mlp_activations": "gelu"}, "mlp_activations is 'gelu', but must be a list"),
        (
            {"relpos_buckets": 3},
            "T5Config.relpos_buckets must be a whole number of at least 4 and below 65,536, not 3.",
        ),
        (
            {"relpos_max_distance": 16},
            "relpos_max_distance is 16, but must be more than half of relpos_buckets, which",
        ),
    ],
)
def test_values_that_cannot_work_are_refused(changes, says):
    with pytest.raises(UserError, match=re.escape(says)):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize(
    "both_ways, buckets, furthest", [(True, 4, 3), (False, 2, 2), (False, 32, 17), (True, 32, 17)]
)
def test_the_fewest_buckets_and_the_nearest_end_that_are_allowed_work(both_ways, buckets, furthest):
    found = positions.relative_buckets(-np.arange(300), both_ways, buckets, furthest)
    assert (
        found[0] == 0
        and (np.diff(found) >= 0).all()
        and found[-1] == (buckets // 2 if both_ways else buckets) - 1
    )


def test_the_gradient_of_a_frequent_token_is_not_lost_in_bfloat16():
    tokens = jnp.asarray(np.minimum(np.random.default_rng(0).zipf(1.3, (8, 512)), 50) - 1)

    def gradient(dtype):
        table = layers.Embedding(50, 16, dtype)
        params = {"embedding": jnp.ones((50, 16))}
        weights = jnp.asarray(np.random.default_rng(1).uniform(0.5, 1.5, (8, 512, 16)), jnp.float32)
        return jax.grad(lambda p: (table.apply({"params": p}, tokens) * weights).sum())(params)[
            "embedding"
        ]

    exact = gradient("float32")
    assert np.abs(gradient("bfloat16") - exact).max() < 0.005 * np.abs(exact).max()


@pytest.mark.parametrize("with_lora", [False, True])
def test_the_backward_pass_keeps_the_gates_and_not_the_hidden_activations(with_lora):
    block = layers.FeedForward(40, ("gelu", "linear"), "float32")
    x = jnp.ones((2, 5, 16))
    params = nn.unbox(block.init(jax.random.key(0), x)["params"])
    if with_lora:
        params["wo"] |= {"lora_a": jnp.ones((40, 3)), "lora_b": jnp.ones((3, 16))}
    _, backward = jax.vjp(lambda params, x: block.apply({"params": params}, x), params, x)
    kept = [leaf.shape for leaf in jax.tree.leaves(backward)]
    assert kept.count((2, 5, 40)) == 2
