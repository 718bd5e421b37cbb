"""The configuration of a decoder-only model, and its checks."""

import dataclasses

import gin

from flan_jax.config.settings import setting
from flan_jax.errors import UserError
from flan_jax.models.config_checks import (
    buckets_field,
    check_and_resolve,
    layer_count,
    no_type_check,
    shared_field,
)

# What the attention of a layer sees: everything before, or the last tokens only; with rotary
# positions or without.
GLOBAL, LOCAL, NO_POSITIONS = "global", "local", "no_positions"


@no_type_check
@gin.configurable(denylist=["vocab_size"])
@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Size and behavior of a decoder-only model: what files of `gin/size` set.

    `rope_scaling` is that of Llama 3.1, or another one of transformers by its `rope_type`, such as
    `{'rope_type': 'linear', 'factor': 4.0}`: see `rope_scaling`.

    Raises:
      UserError: for a value that cannot work.
    """

    vocab_size: int = shared_field("vocab_size")
    emb_dim: int = shared_field("emb_dim")
    num_heads: int = shared_field("num_heads")
    head_dim: int = shared_field("head_dim")
    mlp_dim: int = shared_field("mlp_dim")
    num_layers: int = layer_count("layers")
    num_kv_heads: int | None = setting(
        None, None, "heads of keys and values, K; None: as many as heads", least=1, below=2**16
    )
    positions: str = setting(
        None,
        "relative",
        "T5's bias, one table for all layers, or rotary positions",
        choices=("relative", "rotary"),
    )
    relpos_buckets: int = buckets_field(fewest=2)
    relpos_max_distance: int = shared_field("relpos_max_distance")
    rope_theta: float = setting(None, 10000.0, "base of rotary positions", least=1, below=1e12)
    rope_scaling: dict | None = setting(
        None,
        None,
        "of rotary positions: Llama 3.1's four numbers, or a rope_type (linear, dynamic, yarn or "
        "longrope) with its numbers",
    )
    mlp_activations: tuple[str, ...] = shared_field("mlp_activations")
    logits_via_embedding: bool = setting(
        None, True, "whether logits are products with the embedding"
    )
    scale_tied_logits: bool = setting(
        None, True, "whether such logits are divided by sqrt(D), as in T5X"
    )
    scale_queries: bool = setting(
        None,
        False,
        "whether attention scores are divided by sqrt(C), which T5 has in the query kernel's "
        "initial values",
    )
    query_scalar: float | None = setting(
        None,
        None,
        "whose root divides the scores with `scale_queries`; None: C",
        least=1e-6,
        below=1e9,
    )
    qkv_bias: bool = setting(None, False, "whether queries, keys and values have a bias")
    qk_norm: str = setting(
        None,
        "none",
        "RMSNorm of queries and keys: of each head, or over all heads together",
        choices=("none", "head", "all"),
    )
    layer_pattern: tuple[str, ...] = setting(
        None,
        (GLOBAL,),
        "attention of the layers, repeated over them: global; local, which sees a window; "
        "no_positions, which is global without rotary positions",
        choices=(GLOBAL, LOCAL, NO_POSITIONS),
    )
    window: int | None = setting(
        None, None, "tokens that a local layer sees, the token itself included", least=1
    )
    local_rope_theta: float | None = setting(
        None,
        None,
        "base of rotary positions in local layers, which are not scaled then; None: as in others",
        least=1,
        below=1e12,
    )
    attention_softcap: float | None = setting(
        None, None, "c: scores s become c tanh(s / c); None: they stay", least=1e-3, below=1e9
    )
    logits_softcap: float | None = setting(None, None, "the same of logits", least=1e-3, below=1e9)
    norms: str = setting(
        None,
        "before",
        "where a norm stands: before attention and feed-forward, after them, or around",
        choices=("before", "after", "around"),
    )
    norm_offset: bool = setting(
        None, False, "whether norms multiply by 1 + scale, with scales that begin at 0"
    )
    scale_embeddings: bool = setting(
        None, False, "whether the vectors of tokens are multiplied by sqrt(D)"
    )
    norm_epsilon: float = setting(
        None, 1e-6, "added to the mean square in RMSNorm", least=1e-12, below=1
    )
    prefix: str = setting(
        None,
        "causal",
        "bidirectional: the inputs of an example see each other both ways",
        choices=("causal", "bidirectional"),
    )
    dropout_rate: float = shared_field("dropout_rate")
    dtype: str = shared_field("dtype")
    scan_layers: bool = shared_field("scan_layers")
    remat: str = shared_field("remat")
    attention: str = shared_field("attention")

    def __post_init__(self):
        check_and_resolve(self)
        if self.rope_scaling is not None:
            from flan_jax.models.rope_scaling import checked_scaling

            scaling = checked_scaling(self.rope_scaling, self.head_dim)
            object.__setattr__(self, "rope_scaling", scaling)
        self._check_heads()
        self._check_layers()
        if self.attention == "fused" and (reason := self._not_fused()):
            raise UserError(f"ATTENTION is 'fused', but {reason}; type --gin.ATTENTION=xla.")

    def _not_fused(self) -> str | None:
        """Why no kernel computes this model's attention; None if one does."""
        if self.positions == "relative":
            return "the kernels add no relative position bias (positions='relative')"
        if self.prefix == "bidirectional":
            return "the kernels have no bidirectional prefix (prefix='bidirectional')"
        if self.dropout_rate:
            return "the kernels have no dropout of attention weights (DROPOUT_RATE)"
        return None

    def is_fused(self, platform: str) -> bool:
        """Returns whether attention over whole rows is a fused kernel on 'cpu', 'gpu' or 'tpu'.

        Raises:
          UserError: if it must be, and this platform's kernel lacks what the model needs.
        """
        if self.attention == "fused" and platform == "gpu" and self.attention_softcap is not None:
            raise UserError(
                "ATTENTION is 'fused', but cuDNN's kernel has no soft cap of scores "
                f"(attention_softcap={self.attention_softcap}); type --gin.ATTENTION=xla."
            )
        if self.attention == "auto":
            return platform == "tpu" and self._not_fused() is None
        return self.attention == "fused"

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The tokens that a layer of each of `kinds` sees; None: all before."""
        return tuple(self.window if kind == LOCAL else None for kind in self.kinds)

    def _check_heads(self):
        if self.kv_heads < 1 or self.num_heads % self.kv_heads:
            raise UserError(
                f"DecoderConfig.num_kv_heads is {self.kv_heads}, but must divide num_heads, which "
                f"is {self.num_heads}."
            )
        if self.positions == "rotary" and self.head_dim % 2:
            raise UserError(
                f"DecoderConfig.head_dim is {self.head_dim}, but rotary positions need an even one."
            )

    def _check_layers(self):
        kinds = set(self.layer_pattern)
        if not kinds or len(self.layer_pattern) > self.num_layers:
            raise UserError(
                f"DecoderConfig.layer_pattern has {len(self.layer_pattern)} entries, but must have "
                f"1 to num_layers, which is {self.num_layers}."
            )
        if (LOCAL in kinds) != (self.window is not None):
            raise UserError(
                f"DecoderConfig.window is {self.window} and layer_pattern {self.layer_pattern}; "
                "local layers need a window, and others have none."
            )
        if self.local_rope_theta is not None and LOCAL not in kinds:
            raise UserError("DecoderConfig.local_rope_theta has no effect without local layers.")
        if kinds != {GLOBAL} and self.positions != "rotary":
            raise UserError(
                f"DecoderConfig.layer_pattern is {self.layer_pattern}, but layers differ only with "
                "positions='rotary'."
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of layers that there are, in a fixed order."""
        return tuple(kind for kind in (GLOBAL, LOCAL, NO_POSITIONS) if kind in self.layer_pattern)

    @property
    def kind_of_layer(self) -> list[int]:
        """The index in `kinds` of each layer."""
        pattern = [self.kinds.index(kind) for kind in self.layer_pattern]
        return [pattern[i % len(pattern)] for i in range(self.num_layers)]

    @property
    def kv_heads(self) -> int:
        """The number of heads of keys and values, K."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads
