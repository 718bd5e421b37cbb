"""The configuration of a T5 1.1, and its checks."""

import dataclasses

import gin

from flan_jax.config.checks import check_number, setting_name
from flan_jax.config.settings import setting
from flan_jax.errors import UserError
from flan_jax.models.config_checks import (
    buckets_field,
    check_and_resolve,
    layer_count,
    no_type_check,
    shared_field,
)


@no_type_check
@gin.configurable(denylist=["vocab_size"])
@dataclasses.dataclass(frozen=True)
class T5Config:
    """Size and behavior of a T5: what `gin/size/t5_*.gin` sets.

    Raises:
      UserError: for a value that cannot work.
    """

    vocab_size: int = shared_field("vocab_size")
    emb_dim: int = shared_field("emb_dim")
    num_heads: int = shared_field("num_heads")
    head_dim: int = shared_field("head_dim")
    mlp_dim: int = shared_field("mlp_dim")
    num_encoder_layers: int = layer_count("layers of the encoder")
    num_decoder_layers: int = layer_count("layers of the decoder")
    dropout_rate: float = shared_field("dropout_rate")
    mlp_activations: tuple[str, ...] = shared_field("mlp_activations")
    logits_via_embedding: bool = setting(
        None, False, "whether logits are products with the embedding, as in T5 1.0"
    )
    dtype: str = shared_field("dtype")
    relpos_buckets: int = buckets_field(fewest=4)
    relpos_max_distance: int = shared_field("relpos_max_distance")
    decoder_start_id: int = setting("DECODER_START_ID", 0, "", least=0)
    scan_layers: bool = shared_field("scan_layers")
    remat: str = shared_field("remat")
    attention: str = shared_field("attention")

    def __post_init__(self):
        check_and_resolve(self)
        if self.attention == "fused":
            raise UserError(
                "ATTENTION is 'fused', but the kernels add no relative position bias, which T5 "
                "has; type --gin.ATTENTION=xla."
            )
        check_number(
            setting_name("T5Config", "decoder_start_id"),
            self.decoder_start_id,
            whole=True,
            least=0,
            below=self.vocab_size,
        )

    def is_fused(self, platform: str) -> bool:
        """Returns whether attention is a fused kernel: never, see `DecoderConfig.is_fused`."""
        del platform
        return False
