"""The decoder-only model against stock T5X's numbers.

Packed against unpacked, and cached against plain.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from flan_jax.errors import UserError
from flan_jax.models import decoder, losses, stacking
from flan_jax.models.decoding import greedy
from flan_jax.parallel import partitioning
from support import golden

GOLDEN = golden.ROOT / "decoder_only_tiny_v512"
RELATIVE = decoder.DecoderConfig(128, 16, 4, 8, 32, 3, dtype="float32")
ROTARY = dataclasses.replace(
    RELATIVE, num_kv_heads=2, positions="rotary", mlp_activations=("silu", "linear"),
    scale_queries=True, scale_tied_logits=False, norm_epsilon=1e-5, qkv_bias=True,
    rope_scaling={"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 8},
)  # fmt: skip
UNTIED = dataclasses.replace(ROTARY, num_kv_heads=1, logits_via_embedding=False, scan_layers=False)
BOTH_WAYS = [dataclasses.replace(config, prefix="bidirectional") for config in (RELATIVE, ROTARY)]
CONFIGS = {
    "relative": RELATIVE, "rotary": ROTARY, "untied": UNTIED,
    "relative, bidirectional": BOTH_WAYS[0], "rotary, bidirectional": BOTH_WAYS[1],
}  # fmt: skip


def golden_model(scan_layers: bool = True, prefix: str = "causal"):
    _, params = golden.read_t5x(GOLDEN / "legacy/checkpoint_3")
    config = decoder.DecoderConfig(
        512, 16, 4, 8, 32, 2, dtype="float32", scan_layers=scan_layers, prefix=prefix
    )
    return decoder.DecoderLM(config), stacking.stack(params) if scan_layers else params


def golden_batch(numbers, kind: str) -> dict[str, np.ndarray]:
    """Returns `<kind>_batch/*`; an unpacked batch gets segment ids that are 1 on tokens."""
    batch = {
        name.split("/")[1]: numbers[name]
        for name in numbers.files
        if name.startswith(f"{kind}_batch/")
    }
    batch.setdefault("decoder_segment_ids", (batch["decoder_target_tokens"] > 0).astype(np.int32))
    return batch


@golden.needs_golden
@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("kind", ["train", "score"])
def test_logits_and_loss_equal_t5x(kind, scan_layers):
    numbers = np.load(GOLDEN / "golden.npz")
    batch = golden_batch(numbers, kind)
    model, params = golden_model(scan_layers)
    logits = jax.jit(model.apply)({"params": params}, batch)
    np.testing.assert_allclose(logits, numbers[f"{kind}/logits"], atol=1e-5)
    targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
    loss, z_loss, weight, correct = losses.token_loss(logits, targets, weights)
    np.testing.assert_allclose(loss, numbers[f"{kind}/loss"], rtol=1e-6)
    np.testing.assert_allclose(z_loss, numbers[f"{kind}/z_loss"], rtol=1e-5)
    assert (correct, weight) == (numbers[f"{kind}/accuracy_num"], numbers[f"{kind}/accuracy_den"])
    if kind == "train":
        smoothed, *_ = losses.token_loss(logits, targets, weights, label_smoothing=0.1)
        np.testing.assert_allclose(smoothed, numbers["train/loss_label_smoothing_0.1"], rtol=1e-6)


@golden.needs_golden
@pytest.mark.parametrize("scan_layers", [True, False])
def test_gradients_equal_t5x(scan_layers):
    numbers = np.load(GOLDEN / "golden.npz")
    batch = golden_batch(numbers, "train")
    model, params = golden_model(scan_layers)
    golden.assert_gradients(model, params, batch, numbers)


@golden.needs_golden
def test_a_bidirectional_prefix_and_bfloat16_stay_with_t5x():
    numbers = np.load(GOLDEN / "golden.npz")
    batch = golden_batch(numbers, "score")
    model, params = golden_model(prefix="bidirectional")
    logits = jax.jit(model.apply)({"params": params}, batch)
    np.testing.assert_allclose(logits, numbers["prefix_lm_greedy/score_logits"], atol=1e-5)
    assert np.abs(numbers["prefix_lm_greedy/score_logits"] - numbers["score/logits"]).max() > 0.1
    half = decoder.DecoderLM(dataclasses.replace(model.config, prefix="causal", dtype="bfloat16"))
    logits = jax.jit(half.apply)({"params": params}, batch)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, numbers["score/logits_bfloat16"], atol=0.2)


@golden.needs_golden
@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("prefix", ["causal", "bidirectional"])
def test_greedy_tokens_equal_t5x(prefix, scan_layers):
    numbers = np.load(GOLDEN / "golden.npz")
    expected = numbers["greedy/tokens" if prefix == "causal" else "prefix_lm_greedy/tokens"]
    model, params = golden_model(scan_layers, prefix)
    # T5X's prompts are the inputs and what stands before them; its answers end where the row of 32
    # does.
    lengths = numbers["greedy_batch/decoder_causal_attention"].sum(axis=1)
    tokens = np.asarray(
        greedy.greedy(
            model,
            params,
            numbers["greedy_batch/decoder_input_tokens"],
            expected.shape[1],
            lengths=lengths,
        )
    )
    for row, of, length in zip(tokens, expected, lengths):
        np.testing.assert_array_equal(row[: 33 - length], of[: 33 - length])


@functools.cache
def initial_params(config, seed: int = 0):
    """Returns parameters, in memory, with norms and biases that are not ones and zeros."""
    model = decoder.DecoderLM(config)
    params = nn.unbox(jax.jit(model.init)(jax.random.key(seed), packed_batch()))["params"]
    keys = iter(jax.random.split(jax.random.key(seed + 1), 100))
    return jax.tree.map(lambda x: x + 0.2 * jax.random.normal(next(keys), x.shape), params)


def examples(seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Returns unpacked examples of 2 to 9 tokens, each of at least one input and one target.

    0 is a token like others.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for length in (5, 9, 2, 6, 3, 7, 4):
        inputs = rng.integers(1, length)
        targets = rng.integers(0, 128, length)
        places = np.arange(length)
        rows.append(
            {
                "decoder_target_tokens": targets,
                "decoder_input_tokens": np.concatenate([[0], targets[:-1]]),
                "decoder_segment_ids": np.ones(length, int),
                "decoder_positions": places,
                "decoder_causal_attention": places <= inputs,
                "decoder_loss_weights": places >= inputs,
            }
        )
    return rows


def packed_batch() -> dict[str, np.ndarray]:
    """Returns all examples in two ragged rows of 20."""
    batch = {name: np.zeros((2, 20), np.int32) for name in examples()[0]}
    for row, members in enumerate([(0, 1, 2), (3, 4, 5, 6)]):
        start = 0
        for segment, member in enumerate(members, 1):
            example = examples()[member]
            end = start + len(example["decoder_positions"])
            for name, of in example.items():
                batch[name][row, start:end] = of
            batch["decoder_segment_ids"][row, start:end] = segment
            start = end
    return batch


@functools.cache
def logits_and_gradient(config):
    """Returns the function of (params, batch) for logits and the gradient of the summed loss."""

    def loss(params, batch):
        logits = decoder.DecoderLM(config).apply({"params": params}, batch)
        return losses.token_loss(
            logits, batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        )[0], logits

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    return lambda params, batch: gradient(params, batch)[::-1]


@functools.cache
def logits_and_gradient_of_examples(config):
    """Returns logits [tokens, V] and the summed gradients of examples, each alone in a batch."""
    logits, gradients = [], []
    for example in examples():
        # Padded at the end, for the sake of one program.
        length = len(example["decoder_positions"])
        batch = {
            name: np.pad(np.int32(array), (0, 9 - length))[None] for name, array in example.items()
        }
        one, gradient = logits_and_gradient(config)(initial_params(config), batch)
        logits.append(one[0, :length])
        gradients.append(gradient)
    return np.concatenate(logits), jax.tree.map(lambda *xs: sum(xs), *gradients)


def packed_error(config, batch) -> tuple[float, float]:
    """Returns how far logits and gradients of a packed batch are from those of its examples.

    Each example is alone in a batch.
    """
    logits, gradient = logits_and_gradient(config)(initial_params(config), batch)
    alone, summed = logits_and_gradient_of_examples(config)
    # Relative to the largest entry of each array: a sum over some 20 tokens rounds with its size.
    gradient_errors = jax.tree.map(
        lambda a, b: np.abs(a - b).max() / np.abs(b).max(), gradient, summed
    )
    is_token = packed_batch()["decoder_segment_ids"] > 0
    return np.abs(logits[is_token] - alone).max(), max(jax.tree.leaves(gradient_errors))


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_equals_unpacked(name):
    assert max(packed_error(CONFIGS[name], packed_batch())) < 1e-5


@pytest.mark.parametrize("name", ["relative", "rotary, bidirectional"])
def test_that_comparison_sees_a_segment_that_leaks(name):
    batch = packed_batch()
    batch["decoder_segment_ids"][batch["decoder_segment_ids"] == 2] = 1
    assert min(packed_error(CONFIGS[name], batch)) > 1e-3


def test_a_bidirectional_prefix_reads_ahead_in_the_inputs_and_nowhere_else():
    batch = packed_batch()
    batch["decoder_causal_attention"][0, 5:14] = np.arange(9) < 5
    inputs = 5
    for name, changes in [("rotary", False), ("rotary, bidirectional", True)]:
        model = decoder.DecoderLM(CONFIGS[name])
        params, apply = {"params": initial_params(model.config)}, jitted(model)
        before = apply(params, batch)
        for place, early_changes in [(5 + inputs - 1, changes), (5 + inputs, False)]:
            tokens = batch["decoder_input_tokens"].copy()
            tokens[0, place] += 1
            difference = np.abs(
                apply(params, {**batch, "decoder_input_tokens": tokens}) - before
            ).max(axis=(0, 2))
            assert (difference[5:place] > 1e-4).all() == early_changes
            assert difference[place:14].min() > 1e-4
            assert early_changes or difference[5:place].max() == 0
            assert difference[:5].max() == 0 and difference[14:16].max() == 0


def plain_logits(model, params, prompt, continuation) -> np.ndarray:
    """Returns the logits [len(continuation), V] of its tokens, by a plain forward pass."""
    tokens = [*prompt, *continuation][:-1]
    places = np.arange(24)
    batch = {
        "decoder_input_tokens": np.array([*tokens, *[55] * (24 - len(tokens))]),
        "decoder_segment_ids": places < len(tokens),
        "decoder_positions": places,
        "decoder_causal_attention": places < len(prompt),
    }
    batch = {name: np.int32(array)[None] for name, array in batch.items()}
    return np.asarray(jitted(model)({"params": params}, batch)[0, len(prompt) - 1 : len(tokens)])


@functools.cache
def jitted(model):
    return jax.jit(model.apply)


PROMPTS = [[0, 5, 0, 9, 7, 11, 3], [0, 8], [17, 4, 4, 90], [0, 6, 21, 9, 5]]


def padded(prompts, width) -> tuple[np.ndarray, np.ndarray]:
    # Padded with a token that means something, so that a model that reads it is found out.
    return np.array([[*p, *[33] * (width - len(p))] for p in prompts], np.int32), np.array(
        [*map(len, prompts)]
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_steps_equal_plain_passes(name):
    model = decoder.DecoderLM(CONFIGS[name])
    params = initial_params(model.config)
    tokens, lengths = padded(PROMPTS, 9)
    steps = np.array([[1, 0, 77, 5], [90, 2, 2, 0], [33, 4, 5, 6], [7, 0, 0, 1]], np.int32)
    prefill = jax.jit(lambda *args: model.apply({"params": params}, *args, 4, method="prefill"))
    decode_step = jax.jit(
        lambda *args: model.apply({"params": params}, *args, method="decode_step")
    )
    logits, cache = prefill(tokens, lengths)
    keys = cache["keys_values"][0]
    shape = keys.shape if model.config.scan_layers else (len(keys), *keys[0].shape)
    assert shape == (3, 4, model.config.kv_heads, 13, 8)
    found = [logits]
    for index in range(3):
        logits, cache = decode_step(steps[:, index], index, cache)
        found.append(logits)
    for row, prompt in enumerate(PROMPTS):
        expected = plain_logits(model, params, prompt, steps[row])
        np.testing.assert_allclose(np.stack(found)[:, row], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_branches_equal_plain_passes(name):
    model = decoder.DecoderLM(CONFIGS[name])
    params = initial_params(model.config)
    prompt, branches = PROMPTS[0], [[4, 0, 9], [70, 71, 72, 73], [4]]
    # A second segment and padding stand around the prefix and its branches.
    columns = [
        (99, 0, 0, 0),
        (99, 0, 2, 0),
        *((token, place, 1, 0) for place, token in enumerate(prompt)),
    ]
    columns += [
        (token, len(prompt) + i, 1, number)
        for number, branch in enumerate(branches, 1)
        for i, token in enumerate(branch)
    ]
    columns.append((98, 1, 2, 0))

    @jax.jit
    def branch_logits(*args):
        x = model.apply({"params": params}, *args, method="branch_hidden")
        return model.apply({"params": params}, x, method="logits")

    arrays = np.array(columns, np.int32).T[:, None]
    logits = branch_logits(*arrays)[0]
    place = 2 + len(prompt)
    for branch in branches:
        expected = plain_logits(model, params, prompt, [*branch, 0])
        np.testing.assert_allclose(
            logits[place - 1 if place == 9 else 8], expected[0], atol=1e-5, rtol=1e-5
        )
        np.testing.assert_allclose(
            logits[place : place + len(branch)], expected[1:], atol=1e-5, rtol=1e-5
        )
        place += len(branch)
    at = np.array([[12, 3, 3]], np.int32)
    np.testing.assert_allclose(branch_logits(*arrays, at)[0], logits[at[0]], atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_answers_depend_on_neither_batch_nor_padding(name):
    model = decoder.DecoderLM(CONFIGS[name])
    params = initial_params(model.config)
    tokens, lengths = padded([*PROMPTS, []], 7)
    together = np.asarray(greedy.greedy(model, params, tokens, 6, eos_id=-1, lengths=lengths))
    assert (together[-1] == 0).all()
    for row, prompt in zip(together, PROMPTS):
        written = []
        for _ in range(6):
            written.append(int(plain_logits(model, params, [*prompt], [*written, 0])[-1].argmax()))
        assert row.tolist() == written
        one, of = padded([prompt], 24)
        alone = greedy.greedy(model, params, one, 6, eos_id=-1, lengths=of)
        assert np.asarray(alone)[0].tolist() == written
    eos_id = int(together[0, 2])
    ended = np.asarray(greedy.greedy(model, params, tokens, 6, eos_id=eos_id, lengths=lengths))
    for row, free in zip(ended[:-1], together):
        places = np.flatnonzero(free == eos_id)
        end = places[0] + 1 if len(places) else 6
        assert row.tolist() == [*free[:end], *[0] * (6 - end)]


def test_remat_and_dropout_work_as_in_t5():
    batch, params = packed_batch(), initial_params(ROTARY)

    def loss(params, remat, deterministic):
        model = decoder.DecoderLM(dataclasses.replace(ROTARY, remat=remat, dropout_rate=0.1))
        logits = model.apply(
            {"params": params}, batch, deterministic, rngs={"dropout": jax.random.key(1)}
        )
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


def test_scanned_layers_have_the_tree_of_t5x_on_disk():
    def tree(scan_layers):
        model = decoder.DecoderLM(dataclasses.replace(UNTIED, scan_layers=scan_layers))
        boxed = jax.eval_shape(model.init, jax.random.key(0), packed_batch())["params"]
        return boxed, {
            name: x.shape for name, x in golden.named(stacking.unstack(nn.unbox(boxed))).items()
        }

    boxed, shapes = tree(True)
    assert shapes == tree(False)[1]
    assert shapes["decoder/layers_2/self_attention/key/kernel"] == (16, 8)
    assert shapes["decoder/layers_2/self_attention/query/bias"] == (32,)
    assert shapes["decoder/logits_dense/kernel"] == (16, 128)
    assert boxed["decoder"]["layers"]["self_attention"]["key"]["kernel"].names == (
        "layers",
        "embed",
        "joined_kv",
    )


@pytest.mark.parametrize("changes, hint", [
    ({"dtype": "int8"}, "DecoderConfig.dtype must be one of auto, bfloat16, float32, not 'int8'."),
    ({"relpos_buckets": 1}, "relpos_buckets must be a whole number of at least 2"),
    ({"relpos_max_distance": 16},
     "relpos_max_distance is 16, but must be more than half of relpos_buckets"),
    ({"mlp_activations": ()}, "a list of one or more"),
    ({"positions": "rotory"}, "rotary"),
    ({"prefix": "both"}, "bidirectional"),
    ({"mlp_activations": ("swish",)}, "silu"),
    ({"num_kv_heads": 3}, "divide num_heads, which is 4"),
    ({"head_dim": 7}, "even"),
    ({"rope_scaling": {"factor": 8.0}}, "low_freq_factor"),
])  # fmt: skip
def test_values_that_cannot_work_are_refused(changes, hint):
    with pytest.raises(UserError, match=hint):
        dataclasses.replace(ROTARY, **changes)


def test_greedy_wants_the_lengths_of_a_decoders_prompts():
    with pytest.raises(ValueError, match="lengths"):
        greedy.greedy(decoder.DecoderLM(RELATIVE), {}, np.zeros((1, 2), np.int32), 3)


@pytest.mark.devices
@pytest.mark.parametrize("shape", [{"data": -1}, {"fsdp": 4, "model": 2}])
def test_gradients_on_a_mesh_are_those_of_one_device(shape):
    model, params = decoder.DecoderLM(ROTARY), initial_params(ROTARY)
    batch = {name: np.tile(array, (4, 1)) for name, array in packed_batch().items()}
    logits, gradient = logits_and_gradient(ROTARY)(params, batch)
    mesh = partitioning.make_mesh(shape)
    with partitioning.use_mesh(mesh):
        abstract = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
        split = jax.device_put(params, partitioning.state_shardings(abstract, mesh))
        sharded = {
            name: jax.device_put(x, partitioning.batch_sharding(mesh)) for name, x in batch.items()
        }
        mesh_logits, mesh_gradient = logits_and_gradient.__wrapped__(ROTARY)(split, sharded)
    np.testing.assert_allclose(mesh_logits, logits, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), mesh_gradient, gradient
    )


@pytest.mark.devices
def test_heads_that_do_not_divide_on_a_mesh_are_refused():
    with partitioning.use_mesh(partitioning.make_mesh({"data": 2, "model": 4})):
        with pytest.raises(UserError, match="2 heads of keys and values.* model that divides 2"):
            jax.eval_shape(decoder.DecoderLM(ROTARY).init, jax.random.key(0), packed_batch())
        jax.eval_shape(decoder.DecoderLM(RELATIVE).init, jax.random.key(0), packed_batch())
