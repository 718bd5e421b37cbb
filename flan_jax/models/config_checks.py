"""What both models' configurations settle alike when they are made: numbers, choices, and what
'auto' is here.
"""

from __future__ import annotations

import jax

from flan_jax.config.checks import Bounds, check_choice, check_fields, quoted
from flan_jax.errors import UserError
from flan_jax.models import layers

_DTYPES = ("auto", "bfloat16", "float32")
# Sizes beyond these are slips: the largest published models have widths of some 10,000 and some 100
# layers.
_BOUNDS: dict[str, Bounds] = {
    **dict.fromkeys(("emb_dim", "mlp_dim"), (1, 2**20)),
    **dict.fromkeys(("num_heads", "num_kv_heads", "head_dim", "relpos_buckets"), (1, 2**16)),
    **dict.fromkeys(("num_layers", "num_encoder_layers", "num_decoder_layers"), (1, 2**12)),
    "vocab_size": (1, 2**24),
    "relpos_max_distance": (1, None),
    "dropout_rate": (0, 1),
    "rope_theta": (1, 1e12),
    "norm_epsilon": (1e-12, 1),
}


def settle(config, fewest_buckets: int) -> None:
    """Puts the dtype that 'auto' is here into a model's configuration, and makes a tuple of its
    activations.

    `fewest_buckets` of positions are enough for it: 2, or 4 where an encoder looks both ways.

    Raises:
      UserError: for a value that cannot work.
    """
    owner = type(config).__name__
    check_fields(
        config,
        owner,
        {
            **_BOUNDS,
            "relpos_buckets": (fewest_buckets, 2**16),
            "decoder_start_id": (0, config.vocab_size),
        },
    )
    if config.dtype == "float16":
        raise UserError(
            f"{owner}.dtype is 'float16', but T5 gives NaN in float16; type "
            f"--gin.{owner}.dtype=bfloat16."
        )
    check_choice(f"{owner}.dtype", config.dtype, _DTYPES)
    check_choice(f"{owner}.remat", config.remat, layers.REMATS)
    _check_buckets(config, owner)
    known = sorted(layers.ACTIVATIONS)
    activations = config.mlp_activations
    if not isinstance(activations, (tuple, list)) or not activations:
        raise UserError(
            f"{owner}.mlp_activations is {quoted(activations)}, but must be a list of one or more "
            f"of {', '.join(known)}."
        )
    for activation in activations:
        check_choice(f"{owner}.mlp_activations", activation, known)
    object.__setattr__(config, "mlp_activations", tuple(activations))
    if config.dtype == "auto":
        object.__setattr__(
            config, "dtype", "float32" if jax.default_backend() == "cpu" else "bfloat16"
        )


def _check_buckets(config, owner: str) -> None:
    """Half of the buckets count single positions, and the others need distances that are beyond
    these.
    """
    buckets, most = config.relpos_buckets, config.relpos_max_distance
    if most <= buckets // 2:
        raise UserError(
            f"{owner}.relpos_max_distance is {most}, but must be more than half of relpos_buckets, "
            f"which is {buckets}."
        )
