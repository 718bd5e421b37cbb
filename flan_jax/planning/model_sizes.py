"""The sizes of a model that estimates of memory and time need, without making the model."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class ModelSizes:
    """Parameters, widths and counts of a model; `rows` are those of its embedding."""

    parameters: float
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_dim: int
    gates: int
    rows: int
    layers: int

    @classmethod
    def from_config(cls, c: Any) -> ModelSizes:
        """Returns the sizes of a `T5Config` or `DecoderConfig`."""
        kv_heads = getattr(c, "kv_heads", c.num_heads)
        layers = (
            c.num_layers
            if hasattr(c, "num_layers")
            else c.num_encoder_layers + c.num_decoder_layers
        )
        cross = (
            0
            if hasattr(c, "num_layers")
            else c.num_decoder_layers * 4 * c.emb_dim * c.num_heads * c.head_dim
        )
        gates = len(c.mlp_activations)
        layer = (
            2 * c.emb_dim * c.head_dim * (c.num_heads + kv_heads)
            + (gates + 1) * c.emb_dim * c.mlp_dim
        )
        tables = c.vocab_size * c.emb_dim * (1 if c.logits_via_embedding else 2)
        return cls(
            layers * layer + cross + tables,
            c.emb_dim,
            c.num_heads,
            kv_heads,
            c.head_dim,
            c.mlp_dim,
            gates,
            c.vocab_size,
            layers,
        )

    def divides(self, fsdp: int, model: int) -> bool:
        """Returns whether every parameter divides; see `partitioning.state_shardings`."""
        split = (self.heads, self.kv_heads, self.mlp_dim, self.rows)
        return self.width % fsdp == 0 and all(size % model == 0 for size in split)
