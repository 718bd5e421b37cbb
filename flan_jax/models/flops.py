"""The FLOPs that a training step needs, from the sizes of the model: what MFU is a share of."""

from __future__ import annotations

from typing import Any


def model_flops(config: Any, batch_size: int, input_length: int, target_length: int) -> float:
    """Returns the FLOPs of a training step: forward once, backward twice, nothing computed again.

    Two for each multiplication with a parameter, on every position of the packed rows (padding
    too), and the two products of attention over whole rows; no norms, no softmax, no look-ups. For
    a decoder alone this is 6 N D (Kaplan et al., Scaling Laws, 2020, section 2.1) and 12 L H C more
    per layer and token.

    Args:
      config: a `T5Config` or a `DecoderConfig`.
      batch_size: rows, B.
      input_length: tokens of inputs in a row, S.
      target_length: tokens of targets in a row, T.
    """
    c, source, target = config, batch_size * input_length, batch_size * target_length
    heads, gates = c.num_heads * c.head_dim, len(c.mlp_activations)
    feed_forward = 2 * (gates + 1) * c.emb_dim * c.mlp_dim
    logits = 2 * c.emb_dim * c.vocab_size
    if hasattr(c, "num_layers"):
        length = input_length + target_length
        projections = 2 * c.emb_dim * (2 * heads + 2 * c.kv_heads * c.head_dim)
        layer = projections + feed_forward + 4 * length * heads
        return 3.0 * (source + target) * (c.num_layers * layer + logits)
    encoder = 8 * c.emb_dim * heads + feed_forward + 4 * input_length * heads
    # Self-attention, and the queries and the output of the attention to the encoder.
    decoder = 12 * c.emb_dim * heads + feed_forward + 4 * (input_length + target_length) * heads
    encoded = 4 * c.emb_dim * heads
    return 3.0 * (
        source * (c.num_encoder_layers * encoder + c.num_decoder_layers * encoded)
        + target * (c.num_decoder_layers * decoder + logits)
    )
