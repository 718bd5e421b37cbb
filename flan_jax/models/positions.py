"""Positions: T5's relative position bias, and rotary positions.

Shape letters: B batch, L length (of queries), S length of keys, H heads, C head width.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Float32, Integer

from flan_jax.models.array_types import Array
from flan_jax.models.rope_scaling import rotations

# Cosines and sines, by which `rotate` rotates heads.
Angles = tuple[Float32[Array, "B L half"], Float32[Array, "B L half"]]


def relative_buckets(
    distances: Integer[np.ndarray, "..."], bidirectional: bool, num_buckets: int, max_distance: int
) -> Integer[np.ndarray, "..."]:
    """Returns the int32 bucket of each distance (key position minus query position).

    Half of the buckets count single positions, the other half grow as the logarithm up to
    `max_distance`, beyond which all distances share the last one. In both directions each sign has
    its half of the buckets; causally, distances to the future count as 0. Raffel et al., Exploring
    the Limits of Transfer Learning, 2020, section 2.1.
    """
    buckets = np.zeros_like(distances)
    back = -distances
    if bidirectional:
        num_buckets //= 2
        buckets += (back < 0) * num_buckets
        back = np.abs(back)
    else:
        back = np.maximum(back, 0)
    exact = num_buckets // 2
    # float32 and the epsilon as in the reference: they decide the bucket of distances on a
    # boundary.
    ratio = back.astype(np.float32) / exact + np.finfo(np.float32).eps
    log_ratio = np.log(ratio) / np.log(max_distance / exact)
    far = np.minimum(exact + (log_ratio * (num_buckets - exact)).astype(np.int32), num_buckets - 1)
    return (buckets + np.where(back < exact, back, far)).astype(np.int32)


class RelativePositionBias(nn.Module):
    """Learned attention bias for each head and bucket of distance.

    One table [H, buckets] serves all layers of a stack.
    """

    num_heads: int
    num_buckets: int
    max_distance: int
    bidirectional: bool

    def setup(self) -> None:
        """Makes the table."""
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        init = nn.with_logical_partitioning(init, ("heads", "relpos_buckets"))
        shape = (self.num_heads, self.num_buckets)
        self.rel_embedding = self.param("rel_embedding", init, shape, jnp.float32)

    def _bucket_of_distance(self, num_keys: int) -> Integer[Array, " distances"]:
        """Returns the bucket of each distance -(num_keys - 1) .. num_keys - 1."""
        distances = np.arange(-(num_keys - 1), num_keys)
        return jnp.asarray(
            relative_buckets(distances, self.bidirectional, self.num_buckets, self.max_distance)
        )

    def __call__(
        self, query_positions: Integer[Array, " L"], num_keys: int
    ) -> Float32[Array, "1 H L {num_keys}"]:
        """Returns the bias of queries at positions (all < S) to the keys 0..S-1."""
        distances = jnp.arange(num_keys)[None, :] - query_positions[:, None]
        buckets = self._bucket_of_distance(num_keys)[distances + (num_keys - 1)]
        # A contraction, because the gradient of a gather is a slow scatter.
        one_hot = jax.nn.one_hot(buckets, self.num_buckets, dtype=jnp.float32)
        return jnp.einsum("hn,qkn->hqk", self.rel_embedding, one_hot)[None]

    def between(
        self,
        query_positions: Integer[Array, "B L"],
        key_positions: Integer[Array, "B S"],
        most: int,
    ) -> Float32[Array, "B H L S"]:
        """Returns the bias between positions, all < `most`.

        For rows in which positions are not the places in the row. It is as large as the scores, and
        a gather: not to train with.
        """
        distances = key_positions[:, None, :] - query_positions[:, :, None]
        buckets = self._bucket_of_distance(most)[distances + (most - 1)]
        return jnp.moveaxis(jnp.take(self.rel_embedding, buckets, axis=1), 0, 1)


def rotary_angles(
    positions: Integer[Any, "B L"],
    head_dim: int,
    theta: float,
    scaling: Mapping[str, Any] | None = None,
) -> Angles:
    """Returns the cosines and sines, float32 [B, L, C/2], by which `rotate` rotates heads.

    Su et al., RoFormer, 2021.

    Args:
      positions: integers; see `rope_scaling.rotations`.
      head_dim: C.
      theta: the base of the frequencies.
      scaling: a `DecoderConfig.rope_scaling`.
    """
    frequencies, factor = rotations(positions, head_dim, theta, scaling)
    angles = positions[..., None].astype(jnp.float32) * frequencies.astype(jnp.float32)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return (cos, sin) if factor == 1.0 else (cos * factor, sin * factor)


def rotate(x: Float[Array, "B L H C"], angles: Angles) -> Float[Array, "B L H C"]:
    """Returns heads rotated by `angles`; as in Hugging Face, dimensions i and i + C/2 pair."""
    cos, sin = (part[:, :, None, :] for part in angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
