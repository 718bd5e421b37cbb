"""The model of an architecture: `t5` (encoder-decoder) or `decoder` (decoder-only), sized by
gin.
"""

from __future__ import annotations

from flax import linen as nn

from flan_jax.config.checks import check_bound
from flan_jax.data.layout import check_architecture

_GIVE_A_SIZE = "give a size: --gin_file=gin/size/{}.gin, for example"


def make_model(architecture: str, vocab_size: int) -> nn.Module:
    """The network of ARCHITECTURE with `vocab_size` rows in its embedding; `model.config` says the
    rest.

    Raises:
      UserError: for an unknown architecture, or a size that cannot work.
    """
    check_architecture(architecture)
    if architecture == "decoder":
        from flan_jax.models.decoder import DecoderConfig, DecoderLM

        check_bound(
            DecoderConfig, "DecoderConfig", ["vocab_size"], _GIVE_A_SIZE.format("decoder_tiny")
        )
        return DecoderLM(DecoderConfig(vocab_size=vocab_size))
    from flan_jax.models.t5 import T5, T5Config

    check_bound(T5Config, "T5Config", ["vocab_size"], _GIVE_A_SIZE.format("t5_tiny"))
    return T5(T5Config(vocab_size=vocab_size))
