"""Scalings of rotary positions, which let a model read more tokens than it was trained with.

Each is that of `transformers` by the same name. Two of them depend on how long an example is; here
that is the example's own length, in packed rows too. Shape letters: B batch, L length, C head
width.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jaxtyping import Float, Integer

from flan_jax.config.checks import check_number, quoted
from flan_jax.errors import UserError
from flan_jax.models.array_types import Array

# The number of positions that a model was first trained with.
CONTEXT = "original_max_position_embeddings"
# Radians per position [C/2], or of each token [B, L, C/2], and the factor of queries and keys.
Rotations = tuple[Float[Array | np.ndarray, "..."], float]


class _Names(NamedTuple):
    """What a kind of scaling must have, and what it may have."""

    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()


# Llama 3.1's has no `rope_type`.
_KINDS = {
    "llama3": _Names(("factor", "high_freq_factor", "low_freq_factor", CONTEXT)),
    "linear": _Names(("factor",)),
    "dynamic": _Names(("factor", CONTEXT)),
    "yarn": _Names(
        ("factor", CONTEXT),
        ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
    "longrope": _Names(("factor", "short_factor", "long_factor", CONTEXT), ("attention_factor",)),
}
_LISTS = ("short_factor", "long_factor")


def checked_scaling(scaling: Any, head_dim: int) -> FrozenDict:
    """Returns a `DecoderConfig.rope_scaling`, with lists as tuples so that it can be hashed.

    Raises:
      UserError: for a kind that does not exist, and for numbers that it does not have.
    """
    kind = scaling.get("rope_type", "llama3") if isinstance(scaling, Mapping) else None
    names = set(scaling) - {"rope_type"} if isinstance(kind, str) and kind in _KINDS else set()
    known = _KINDS[kind] if names else _Names(())
    if not names or not set(known.needed) <= names <= {*known.needed, *known.optional}:
        kinds = "; ".join(f"{name!r}: {', '.join(of.needed)}" for name, of in _KINDS.items())
        raise UserError(
            "DecoderConfig.rope_scaling must be None or a dict with a rope_type (none for "
            f"'llama3') and exactly its numbers ({kinds}), not {quoted(scaling)}."
        )
    for name in names - {"truncate", *_LISTS}:
        check_number(f"DecoderConfig.rope_scaling[{name!r}]", scaling[name], least=1e-3, below=1e9)
    for name in names & set(_LISTS):
        _check_list(name, scaling[name], head_dim // 2)
    if kind == "llama3" and not scaling["low_freq_factor"] < scaling["high_freq_factor"]:
        raise UserError(
            "DecoderConfig.rope_scaling must have a low_freq_factor below its high_freq_factor, "
            f"not {scaling['low_freq_factor']} and {scaling['high_freq_factor']}."
        )
    if (kind == "dynamic" and head_dim < 4) or scaling.get(CONTEXT, 2) <= 1:
        raise UserError(
            f"DecoderConfig.rope_scaling of type {kind!r} needs a head_dim of 4 or more, not "
            f"{head_dim}, and a {CONTEXT} above 1, not {scaling.get(CONTEXT)}."
        )
    return FrozenDict({name: tuple(x) if name in _LISTS else x for name, x in scaling.items()})


def _check_list(name: str, factors: Any, count: int) -> None:
    name = f"DecoderConfig.rope_scaling[{name!r}]"
    if not isinstance(factors, list | tuple) or len(factors) != count:
        raise UserError(f"{name} must be a list of head_dim / 2 = {count} numbers.")
    for i, factor in enumerate(factors):
        check_number(f"{name}[{i}]", factor, least=1e-3, below=1e9)


def rotations(
    positions: Integer[Array, "B L"],
    head_dim: int,
    theta: float,
    scaling: Mapping[str, Any] | None = None,
) -> Rotations:
    """Returns radians per position, and the factor of queries and keys.

    The first is float64 [C/2]; where it depends on the length of an example, float32 [B, L, C/2].

    Args:
      positions: integers that begin at 0 in each example of a row; or one token of each row, whose
        example ends there.
      head_dim: C.
      theta: the base of the frequencies.
      scaling: a `DecoderConfig.rope_scaling`.
    """
    frequencies = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    if scaling is None:
        return frequencies, 1.0
    kind = scaling.get("rope_type", "llama3")
    if kind == "linear":
        return frequencies / scaling["factor"], 1.0
    if kind == "yarn":
        kept = 1.0 - _yarn_ramp(head_dim, theta, scaling)
        return _slowed(frequencies, kept, scaling), _yarn_attention(scaling)
    if kind == "dynamic":
        return _dynamic(frequencies, _example_lengths(positions), scaling), 1.0
    if kind == "longrope":
        return _longrope(frequencies, _example_lengths(positions), scaling)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling[CONTEXT] * frequencies / (2 * np.pi)
    return _slowed(frequencies, np.clip((turns - low) / (high - low), 0.0, 1.0), scaling), 1.0


def _slowed(
    frequencies: Float[np.ndarray, " half"],
    kept: Float[np.ndarray, " half"],
    scaling: Mapping[str, Any],
) -> Float[np.ndarray, " half"]:
    """The frequencies where `kept` is 1, a `factor` slower where it is 0, and between.

    Llama 3.1 keeps what rotates fast within the original context.
    """
    return frequencies * (kept + (1.0 - kept) / scaling["factor"])


def _example_lengths(positions: Integer[Any, "B L"]) -> Integer[Array, "B L"]:
    """The length of the example that each token is in: its largest position, and one."""
    positions = jnp.asarray(positions)
    examples = jnp.cumsum(positions == 0, axis=1)
    largest = partial(jax.ops.segment_max, num_segments=positions.shape[1] + 1)
    return jnp.take_along_axis(jax.vmap(largest)(positions, examples), examples, axis=1) + 1


def _dynamic(
    frequencies: Float[np.ndarray, " half"],
    lengths: Integer[Array, "B L"],
    scaling: Mapping[str, Any],
) -> Float[Array, "B L half"]:
    """A base that grows with the length of an example, once it is beyond the context (NTK)."""
    beyond = jnp.maximum(lengths / scaling[CONTEXT] - 1.0, 0.0)
    growth = jnp.log1p(scaling["factor"] * beyond)[..., None]
    half = len(frequencies)
    # base ** (C / (C - 2)), to the power of each frequency.
    exponents = np.arange(half) / (half - 1)
    return frequencies.astype(np.float32) * jnp.exp(-growth * exponents.astype(np.float32))


def _longrope(
    frequencies: Float[np.ndarray, " half"],
    lengths: Integer[Array, "B L"],
    scaling: Mapping[str, Any],
) -> Rotations:
    """A divisor of each frequency for examples within the context, and one for longer ones.

    Ding et al., LongRoPE, 2024. The factor of queries and keys does not depend on the length.
    """
    short, long = (
        (frequencies / np.array(scaling[name])).astype(np.float32)
        for name in ("short_factor", "long_factor")
    )
    attention = scaling.get("attention_factor")
    if attention is None:
        extension = np.log(max(scaling["factor"], 1.0)) / np.log(scaling[CONTEXT])
        attention = float(np.sqrt(1.0 + extension))
    return jnp.where(lengths[..., None] > scaling[CONTEXT], long, short), attention


def _yarn_ramp(
    head_dim: int, theta: float, scaling: Mapping[str, Any]
) -> Float[np.ndarray, " half"]:
    """From 0 at frequencies that stay to 1 at those that are divided by the factor, [C/2].

    Peng et al., YaRN, 2023, section 3.
    """
    context = scaling[CONTEXT]

    def index_of(turns: float) -> float:
        """The index of the frequency that rotates so often in the original context."""
        return head_dim * np.log(context / (turns * 2 * np.pi)) / (2 * np.log(theta))

    low, high = (
        index_of(scaling.get(name, turns))
        for name, turns in (("beta_fast", 32.0), ("beta_slow", 1.0))
    )
    if scaling.get("truncate", True):
        low, high = np.floor(low), np.ceil(high)
    low, high = max(low, 0.0), min(high, head_dim - 1.0)
    width = high - low if high != low else 1e-3
    return np.clip((np.arange(head_dim // 2) - low) / width, 0.0, 1.0)


def _yarn_attention(scaling: Mapping[str, Any]) -> float:
    """The factor of queries and keys, whose square is that of the scores."""
    if "attention_factor" in scaling:
        return scaling["attention_factor"]

    def of_scale(weight: float) -> float:
        return 1.0 if scaling["factor"] <= 1 else 0.1 * weight * np.log(scaling["factor"]) + 1.0

    if "mscale" in scaling and "mscale_all_dim" in scaling:
        return float(of_scale(scaling["mscale"]) / of_scale(scaling["mscale_all_dim"]))
    return float(of_scale(1.0))
