"""Fused attention against 'xla', which holds all scores: the TPU's kernel, interpreted on the CPU.

Rows of 640 tokens are five blocks of the kernel.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.errors import UserError
from flan_jax.models import fused_attention
from flan_jax.models.decoder import DecoderLM
from flan_jax.models.decoder_config import DecoderConfig
from flan_jax.models.losses import token_loss
from flan_jax.models.t5 import T5Config
from flan_jax.parallel.partitioning import make_mesh, use_mesh
from flan_jax.planning.hlo_costs import read_costs

LENGTH = 640
LLAMA = DecoderConfig(
    64,
    32,
    4,
    16,
    48,
    2,
    num_kv_heads=2,
    positions="rotary",
    scale_queries=True,
    mlp_activations=("silu", "linear"),
    dtype="float32",
)
GEMMA = dataclasses.replace(
    LLAMA,
    layer_pattern=("local", "global"),
    window=70,
    local_rope_theta=1000.0,
    attention_softcap=3.0,
    qk_norm="head",
    norms="around",
)
MODELS = {
    "llama": LLAMA,
    "llama_rematerialized": dataclasses.replace(LLAMA, remat="full"),
    "gemma": GEMMA,
    "gemma_unscanned": dataclasses.replace(GEMMA, scan_layers=False),
}


def packed_rows() -> dict[str, np.ndarray]:
    """Two rows of three and two examples, the second one with padding behind them."""
    rng = np.random.default_rng(0)
    parts = [[200, 300, 140], [340, 211]]
    segments = [[i + 1 for i, size in enumerate(row) for _ in range(size)] for row in parts]
    positions = [[i for size in row for i in range(size)] for row in parts]
    padded = [(0, LENGTH - len(row)) for row in segments]
    tokens = rng.integers(1, 64, (2, LENGTH))
    return {
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": rng.integers(1, 64, (2, LENGTH)),
        "decoder_segment_ids": np.array([np.pad(*row) for row in zip(segments, padded)]),
        "decoder_positions": np.array([np.pad(*row) for row in zip(positions, padded)]),
    }


def loss_and_gradients(config: DecoderConfig, params, batch):
    weights = (batch["decoder_segment_ids"] > 0).astype(np.float32)

    def loss(params):
        logits = DecoderLM(config).apply({"params": params}, batch)
        return token_loss(logits, batch["decoder_target_tokens"], weights)[0] / weights.sum()

    return jax.jit(jax.value_and_grad(loss))(params)


# (dtype, attention) of two gradients, and of the one that both are to be near.
BFLOAT16_AND_TRUTH = (("bfloat16", "xla"), ("bfloat16", "fused"), ("float32", "xla"))


@functools.cache
def parameters(config: DecoderConfig):
    batch = {name: rows[:, :8] for name, rows in packed_rows().items()}
    variables = jax.jit(DecoderLM(config).init)(jax.random.key(0), batch)
    return jax.tree.map(
        lambda x: getattr(x, "value", x), variables["params"], is_leaf=lambda x: hasattr(x, "value")
    )


def differences(config: DecoderConfig) -> tuple[float, float]:
    """How far apart losses, and gradients as a share of the largest of their array, are."""
    xla, fused = (dataclasses.replace(config, attention=name) for name in ("xla", "fused"))
    (loss, grads), (fused_loss, fused_grads) = (
        loss_and_gradients(each, parameters(config), packed_rows()) for each in (xla, fused)
    )
    shares = jax.tree.map(
        lambda a, b: float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))), fused_grads, grads
    )
    return abs(float(loss - fused_loss)), max(jax.tree.leaves(shares))


@pytest.mark.parametrize(
    "name",
    [
        "llama",
        "gemma",
        pytest.param("llama_rematerialized", marks=pytest.mark.slow),
        pytest.param("gemma_unscanned", marks=pytest.mark.slow),
    ],
)
def test_loss_and_gradients_of_packed_rows_are_those_of_xla(name):
    loss, gradients = differences(MODELS[name])
    assert loss < 1e-5 and gradients < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gemma", "llama, heads of 12"])
def test_bfloat16_is_as_near_to_float32_as_xla_is(name):
    """And gradients of matrices are within 1e-2 of those of xla, of the largest of their array.

    A norm's scale has a gradient that is summed over all tokens, of products that both round to
    bfloat16: each is up to 0.026 from that of float32, and they are up to 0.016 apart.
    """
    config = MODELS.get(name, dataclasses.replace(LLAMA, head_dim=12))
    xla, fused, truth = (
        dict(
            jax.tree.leaves_with_path(
                loss_and_gradients(each, parameters(config), packed_rows())[1]
            )
        )
        for each in (
            dataclasses.replace(config, dtype=dtype, attention=attention)
            for dtype, attention in BFLOAT16_AND_TRUTH
        )
    )

    def largest(a, b):
        return {
            path: float(jnp.abs(a[path] - b[path]).max() / jnp.abs(b[path]).max()) for path in b
        }

    def mean_distance(a):
        distances = [
            jnp.linalg.norm(a[path] - truth[path]) / jnp.linalg.norm(truth[path]) for path in a
        ]
        return float(np.mean(distances))

    apart = largest(fused, xla)
    matrices = [apart[path] for path in xla if path[-1].key in ("kernel", "embedding")]
    assert len(matrices) == 8 and max(matrices) < 1e-2
    assert mean_distance(fused) < 1.1 * mean_distance(xla)
    of_xla, of_fused = largest(xla, truth), largest(fused, truth)
    assert all(of_fused[path] < min(of_xla[path] + 1e-2, 0.03) for path in xla)


def test_a_window_hides_what_is_before_it():
    wide = dataclasses.replace(GEMMA, attention="fused", window=LENGTH)
    narrow = dataclasses.replace(wide, window=70)
    logits = [
        jax.jit(DecoderLM(each).apply)({"params": parameters(GEMMA)}, packed_rows())
        for each in (wide, narrow)
    ]
    far = np.abs(logits[0] - logits[1]).max(axis=-1)[0]
    assert far[:70].max() == 0 and far[150:200].max() > 1e-3


def test_prompts_are_read_by_the_kernel_and_continued_with_the_cache():
    rng = np.random.default_rng(1)
    tokens, lengths = rng.integers(1, 64, (2, 130)), np.array([130, 77])
    answers = []
    for attention in ("xla", "fused"):
        model = DecoderLM(dataclasses.replace(GEMMA, attention=attention))
        logits, cache = model.apply(
            {"params": parameters(GEMMA)}, tokens, lengths, 2, method="prefill"
        )
        following, _ = model.apply(
            {"params": parameters(GEMMA)},
            jnp.argmax(logits, axis=-1),
            jnp.int32(0),
            cache,
            method="decode_step",
        )
        answers.append(np.stack([logits, following]))
    np.testing.assert_allclose(answers[1], answers[0], atol=2e-5)


def test_cudnns_function_is_given_the_same_attention():
    """Its kernel needs a GPU; its arguments are tried with the function's own 'xla'."""
    rng = np.random.default_rng(2)
    query, keys, values = (
        jnp.asarray(rng.normal(size=(2, 96, heads, 8)), jnp.float32) for heads in (4, 2, 2)
    )
    segments = jnp.asarray(np.repeat([[1, 2, 0], [1, 1, 2]], 32, axis=1))
    for window in (None, 20):
        cudnn = fused_attention._by_cudnn(query, keys, values, segments, window, None, "xla")
        splash = fused_attention.fused_attention(query, keys, values, segments, window)
        kept = np.asarray(segments > 0)
        np.testing.assert_allclose(cudnn[kept], splash[kept], atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"positions": "relative"}, "relative position bias"),
        ({"prefix": "bidirectional"}, "bidirectional prefix"),
        ({"dropout_rate": 0.1}, "DROPOUT_RATE"),
    ],
)
def test_what_no_kernel_has_is_refused_and_left_to_xla(fields, reason):
    with pytest.raises(UserError, match=f"{reason}.*--gin.ATTENTION=xla"):
        dataclasses.replace(LLAMA, attention="fused", **fields)
    assert not dataclasses.replace(LLAMA, **fields).is_fused("tpu")


def test_auto_is_fused_on_a_tpu_only():
    assert [LLAMA.is_fused(platform) for platform in ("cpu", "gpu", "tpu")] == [False, False, True]
    with pytest.raises(UserError, match="soft cap"):
        dataclasses.replace(GEMMA, attention="fused").is_fused("gpu")
    with pytest.raises(UserError, match="which T5 has"):
        T5Config(64, 32, 4, 8, 48, 2, 2, attention="fused")


@pytest.mark.devices
def test_a_mesh_splits_rows_and_heads():
    config = dataclasses.replace(GEMMA, attention="fused")
    batch, params = packed_rows(), parameters(GEMMA)
    batch = {name: np.tile(rows, (2, 1)) for name, rows in batch.items()}
    apply = jax.jit(DecoderLM(config).apply)
    alone = apply({"params": params}, batch)
    with use_mesh(make_mesh({"data": 2, "fsdp": 2, "model": 2})):
        split = jax.jit(DecoderLM(config).apply)({"params": params}, batch)
        one_row = {name: rows[:1] for name, rows in batch.items()}
        undivided = jax.jit(DecoderLM(config).apply)({"params": params}, one_row)
    np.testing.assert_allclose(split, alone, atol=2e-5)
    np.testing.assert_allclose(undivided, alone[:1], atol=2e-5)


KERNELS = """HloModule kernels

ENTRY %main (q: bf16[2,8,2048,128], k: bf16[2,2,2048,128]) -> bf16[2,8,2048,128] {
  %q = bf16[2,8,2048,128]{3,2,1,0} parameter(0)
  %k = bf16[2,2,2048,128]{3,2,1,0} parameter(1)
  %plan = s8[1,4,3]{2,1,0} constant({...})
  %ids = s32[2,2048,128]{2,1,0} constant({...})
  %splash_mha_fwd_segmented_residuals.1 = (bf16[2,8,2048,128]{3,2,1,0}) custom-call(%plan, %plan, \
%q, %k, %k, %ids), custom_call_target="tpu_custom_call"
  %splash_mha_dq_segmented_no_residuals.1 = (bf16[2,8,2048,128]{3,2,1,0}) custom-call(%plan, \
%plan, %q, %k, %k, %ids), custom_call_target="tpu_custom_call"
  %other = (bf16[2,8,2048,128]{3,2,1,0}) custom-call(%q), custom_call_target="tpu_custom_call"
  ROOT %out = bf16[2,8,2048,128]{3,2,1,0} get-tuple-element(%other), index=0
}
"""


def test_precompile_counts_the_blocks_that_the_kernels_visit():
    """Four blocks of 512 queries see 1, 2, 3 and, with a window of three blocks, 3 of keys."""
    costs = read_costs(KERNELS, 1)
    pairs = 2 * 8 * 9 * 512 * 512
    assert costs.flops == 2 * (2 + 3) * pairs * 128
    assert costs.unknown_kernels == 1
    streamed = 2 * 2 * 8 * 9 * 512 * 128 * 2  # keys and values, for each visit of each head
    assert costs.memory_bytes >= 2 * streamed
