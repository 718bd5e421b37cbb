"""The settings that both models' configurations declare, and the checks they share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from flan_jax.config.checks import check_fields
from flan_jax.config.settings import REQUIRED, setting
from flan_jax.errors import UserError

# What `layers.ACTIVATIONS` and `layers.REMATS` have: a configuration is checked without JAX.
ACTIVATIONS = ("gelu", "linear", "relu", "silu")
REMATS = ("none", "full", "dots")

# Sizes beyond these bounds are slips: the largest published models have widths of some 10,000 and
# some 100 layers.
_SHARED: dict[str, Callable[[], Any]] = {
    "vocab_size": partial(
        setting, None, REQUIRED, "rows of the embedding, V", least=1, below=2**24
    ),
    "emb_dim": partial(setting, None, REQUIRED, "width of the model, D", least=1, below=2**20),
    "num_heads": partial(setting, None, REQUIRED, "attention heads, H", least=1, below=2**16),
    "head_dim": partial(setting, None, REQUIRED, "width of a head, C", least=1, below=2**16),
    "mlp_dim": partial(
        setting, None, REQUIRED, "width of the feed-forward layers, F", least=1, below=2**20
    ),
    "mlp_activations": partial(
        setting,
        None,
        ("gelu", "linear"),
        "what the feed-forward layers multiply, one activation each",
        choices=ACTIVATIONS,
    ),
    "relpos_max_distance": partial(
        setting, None, 128, "from this distance on, positions share a bucket", least=1
    ),
    "dropout_rate": partial(
        setting, "DROPOUT_RATE", 0.0, "of the model while it trains", least=0, below=1
    ),
    "dtype": partial(
        setting,
        None,
        "auto",
        "of the computation; 'auto': float32 on a CPU, else bfloat16; parameters, softmax and "
        "logits are float32 in any case",
        choices=("auto", "bfloat16", "float32"),
    ),
    "scan_layers": partial(
        setting,
        None,
        True,
        "True: scans over a stack of layers, so that compile time does not grow with depth",
    ),
    "remat": partial(
        setting,
        None,
        "none",
        "what the backward pass computes again: 'full' all but each layer's input, 'dots' all but "
        "the matrix products with parameters; 'auto' as little as fits the memory of a training "
        "run's devices by estimate, which the log says",
        choices=(*REMATS, "auto"),
    ),
    "attention": partial(
        setting,
        "ATTENTION",
        "auto",
        "over whole rows: 'xla' keeps all scores in memory, 'fused' none, in a kernel (decoders "
        "with rotary positions); 'auto': fused on a TPU where the kernel has what the model needs, "
        "else xla. On a CPU the kernel is interpreted, slowly, for tests",
        choices=("auto", "xla", "fused"),
    ),
}


def shared_field(name: str) -> Any:
    """Returns a field that both models' configurations declare alike."""
    return _SHARED[name]()


def layer_count(what: str) -> Any:
    """Returns the field for a number of layers, described by `what`."""
    return setting(None, REQUIRED, what, least=1, below=2**12)


def buckets_field(fewest: int) -> Any:
    """Returns the field `relpos_buckets`; an encoder, which looks both ways, needs 4 buckets."""
    return setting(
        None, 32, "buckets of relative positions in T5's bias", least=fewest, below=2**16
    )


def no_type_check(config_class: type) -> type:
    """Returns the class as it is: its own checks, not beartype's, report a value of a wrong type.

    Under pytest jaxtyping's import hook leaves a class alone whose decorator has this name; that of
    `typing` would hide the types of the fields from the settings' own checks.
    """
    return config_class


def check_and_resolve(config: Any) -> None:
    """Checks a model's configuration, and sets `dtype` to what 'auto' is here.

    Raises:
      UserError: for a value that cannot work.
    """
    owner = type(config).__name__
    if config.dtype == "float16":
        raise UserError(
            f"{owner}.dtype is 'float16', but T5 gives NaN in float16; type "
            f"--gin.{owner}.dtype=bfloat16."
        )
    check_fields(config, owner)
    _check_buckets(config, owner)
    if config.dtype == "auto":
        import jax

        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        object.__setattr__(config, "dtype", dtype)


def _check_buckets(config: Any, owner: str) -> None:
    """Half of the buckets count single positions; the others need distances beyond these."""
    buckets, most = config.relpos_buckets, config.relpos_max_distance
    if most <= buckets // 2:
        raise UserError(
            f"{owner}.relpos_max_distance is {most}, but must be more than half of relpos_buckets, "
            f"which is {buckets}."
        )
