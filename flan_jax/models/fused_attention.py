"""Attention in one kernel, which keeps no scores: for rows of thousands of tokens.

`attention.Attention` holds all scores [B, H, L, S] in memory; a fused kernel computes them block by
block, and again in the backward pass (Dao et al., FlashAttention, 2022). On a TPU it is JAX's
splash attention in Pallas, which leaves out the blocks that no query sees; on a GPU cuDNN's,
through `jax.nn.dot_product_attention`; on a CPU the TPU's kernel interpreted, slow and for tests.
Shape letters: B batch, L length, H heads, K heads of keys and values, C head width.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec
from jaxtyping import Float, Integer

from flan_jax.models.array_types import Array

# A TPU's kernel works on blocks of so many queries and keys at most, in multiples of its lanes.
# Larger blocks move fewer bytes; with these, heads of 256 still fit the fast memory of a v5e.
_MOST_QUERIES, _MOST_KEYS, _LANES = 512, 512, 128


def platform() -> str:
    """Returns where the program that is being traced runs: 'cpu', 'tpu' or 'gpu'.

    It is that of the mesh, which may be of a slice that is not attached, else JAX's default.
    """
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    name = getattr(device, "platform", None) or jax.default_backend()
    return "gpu" if name in ("cuda", "rocm") else name


def fused_attention(
    query: Float[Array, "B L H C"],
    keys: Float[Array, "B L K C"],
    values: Float[Array, "B L K C"],
    segment_ids: Integer[Array, "B L"],
    window: int | None = None,
    softcap: float | None = None,
) -> Float[Array, "B L H C"]:
    """Returns what each query mixes of the values of its segment, up to its own place.

    Places with segment id 0, the padding, get numbers without a meaning. On a mesh, rows are split
    over `data` and `fsdp` and heads over `model`, as everywhere.

    Args:
      query: scaled already, in the compute dtype.
      keys: of the same row; K divides H.
      values: likewise.
      segment_ids: of packed rows.
      window: how many keys a query sees at most, its own included; None: all before.
      softcap: c: scores s become c tanh(s / c).
    """
    where = platform()
    if where == "gpu":
        kernel = functools.partial(_by_cudnn, window=window, softcap=softcap)
    else:
        kernel = functools.partial(
            _by_splash, window=window, softcap=softcap, interpret=where == "cpu"
        )
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return kernel(query, keys, values, segment_ids)
    rows, length, heads = nn.logical_to_mesh_axes(
        ("activation_batch", "activation_length", "activation_heads")
    )
    parts = math.prod(dict(mesh.shape)[axis] for axis in ("data", "fsdp"))
    if query.shape[0] % parts:  # as in the one row that parameters are made with
        rows = None
    by_head = PartitionSpec(rows, length, heads, None)
    split = jax.shard_map(
        kernel,
        in_specs=(by_head, by_head, by_head, PartitionSpec(rows, length)),
        out_specs=by_head,
        check_vma=False,
    )
    return split(query, keys, values, segment_ids)


def _by_splash(
    query: Float[Array, "B L H C"],
    keys: Float[Array, "B L K C"],
    values: Float[Array, "B L K C"],
    segment_ids: Integer[Array, "B L"],
    window: int | None,
    softcap: float | None,
    interpret: bool,
) -> Float[Array, "B L H C"]:
    """As `fused_attention`, on one device. The row is padded to a multiple of 128."""
    # Imported where it is used: most runs have no use for it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, heads = query.shape[1:3]
    padded = -(-length // _LANES) * _LANES
    query, keys, values, segment_ids = (
        jnp.pad(x, [(0, 0), (0, padded - length)] + [(0, 0)] * (x.ndim - 2))
        for x in (query, keys, values, segment_ids)
    )
    mask = masks.CausalMask((padded, padded))
    if window is not None and window < padded:
        mask = masks.LocalMask((padded, padded), (window - 1, 0), 0)
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(**_block_sizes(padded)),
        attn_logits_soft_cap=softcap,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    heads_first = (x.swapaxes(1, 2) for x in (query, keys, values))
    mixed = jax.vmap(kernel)(*heads_first, splash.SegmentIds(segment_ids, segment_ids))
    return mixed.swapaxes(1, 2)[:, :length]


def _block_sizes(length: int) -> dict[str, int]:
    """Returns the sizes of the blocks of the forward kernel and of the two backward ones."""
    queries, keys = (_largest_divisor(length, most) for most in (_MOST_QUERIES, _MOST_KEYS))
    phases = ("", "_dkv", "_dq")
    return {f"block_q{phase}": queries for phase in phases} | {
        f"block_kv{phase}": keys for phase in phases
    }


def _largest_divisor(length: int, most: int) -> int:
    """Returns the largest multiple of the lanes up to `most` that divides the length."""
    return max(size for size in range(_LANES, most + 1, _LANES) if length % size == 0)


def _by_cudnn(
    query: Float[Array, "B L H C"],
    keys: Float[Array, "B L K C"],
    values: Float[Array, "B L K C"],
    segment_ids: Integer[Array, "B L"],
    window: int | None,
    softcap: float | None,
    implementation: str = "cudnn",
) -> Float[Array, "B L H C"]:
    """As `fused_attention`, on one GPU; soft caps are refused where the model is made."""
    assert softcap is None
    same_segment = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    return jax.nn.dot_product_attention(
        query,
        keys,
        values,
        mask=same_segment,
        scale=1.0,
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),
        implementation=implementation,
    )
