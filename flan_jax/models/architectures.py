"""The architectures: `t5` (encoder-decoder) and `decoder` (decoder-only), sized by gin."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from flan_jax.config.checks import check_choice, check_required
from flan_jax.models.decoder_config import DecoderConfig
from flan_jax.models.t5_config import T5Config

if TYPE_CHECKING:
    from flax import linen as nn


class Architecture(NamedTuple):
    """What the rest of the project needs of an architecture.

    Attributes:
      config: the dataclass of its sizes and behavior, which gin configures.
      network: returns the network of such a configuration; it imports JAX.
      example_size: a file of gin/size, suggested where a run has no size.
    """

    config: type
    network: Callable[[Any], Any]
    example_size: str


def _t5(config: T5Config) -> Any:
    from flan_jax.models.t5 import T5

    return T5(config)


def _decoder(config: DecoderConfig) -> Any:
    from flan_jax.models.decoder import DecoderLM

    return DecoderLM(config)


ARCHITECTURES = {
    "t5": Architecture(T5Config, _t5, "t5_tiny"),
    "decoder": Architecture(DecoderConfig, _decoder, "decoder_tiny"),
}

# Fields of a configuration that do not say what a model computes: how it is run, and the
# vocabulary's size, which a run's vocabulary gives.
_RUN_FIELDS = ("vocab_size", "dropout_rate", "dtype", "scan_layers", "remat", "attention")


def make_model(architecture: str, vocab_size: int) -> nn.Module:
    """Returns the network of ARCHITECTURE, its size bound by gin; `model.config` has all fields.

    Args:
      architecture: one of `ARCHITECTURES`.
      vocab_size: the number of rows of the embedding.

    Raises:
      UserError: for an unknown architecture, or a size that cannot work.
    """
    check_choice("ARCHITECTURE", architecture, ARCHITECTURES)
    record = ARCHITECTURES[architecture]
    advice = f"give a size: --gin_file=gin/size/{record.example_size}.gin, for example"
    check_required(record.config, record.config.__name__, ["vocab_size"], advice)
    return record.network(record.config(vocab_size=vocab_size))


def model_of(config: Any) -> nn.Module:
    """Returns the network of a `T5Config` or a `DecoderConfig`."""
    return ARCHITECTURES[architecture_of(config)].network(config)


def architecture_of(config: Any) -> str:
    """Returns the name of the architecture of a `T5Config` or a `DecoderConfig`."""
    for name, record in ARCHITECTURES.items():
        if isinstance(config, record.config):
            return name
    raise TypeError(f"{type(config).__name__} is not the configuration of an architecture")


def model_fields(architecture: str) -> dict[str, Any]:
    """Returns the fields that say what a model computes, with their defaults.

    A field without a default has `dataclasses.MISSING`. How a model is run (dtype, dropout, remat,
    scan) and the size of its vocabulary are not among them.
    """
    fields = dataclasses.fields(ARCHITECTURES[architecture].config)
    return {field.name: field.default for field in fields if field.name not in _RUN_FIELDS}
