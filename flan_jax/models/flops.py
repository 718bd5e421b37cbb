"""The FLOPs that a training step needs, from the sizes of the model: what MFU is a share of."""

from __future__ import annotations

from typing import Any

from flan_jax.models.decoder_config import LOCAL


def model_flops(
    config: Any, batch_size: int, input_length: int, target_length: int, is_frozen: bool = False
) -> float:
    """Returns the FLOPs of a training step: forward once, backward twice, nothing computed again.

    Two for each multiplication with a parameter, on every position of the packed rows (padding
    too), and the two products of attention over whole rows, or over windows; no norms, no softmax,
    no look-ups. For a decoder alone this is 6 N D (Kaplan et al., Scaling Laws, 2020, section 2.1)
    and 12 L H C more per layer and token.

    Args:
      config: a `T5Config` or a `DecoderConfig`.
      batch_size: rows, B.
      input_length: tokens of inputs in a row, S.
      target_length: tokens of targets in a row, T.
      is_frozen: whether the parameters do not train, so that their gradients are not computed: two
        thirds for each multiplication with one. What is added to them is not counted.
    """
    passes = _passes(is_frozen)
    c, source, target = config, batch_size * input_length, batch_size * target_length
    heads, gates = c.num_heads * c.head_dim, len(c.mlp_activations)
    feed_forward = 2 * (gates + 1) * c.emb_dim * c.mlp_dim
    logits = 2 * c.emb_dim * c.vocab_size
    if hasattr(c, "num_layers"):
        length = input_length + target_length
        projections = 2 * c.emb_dim * (2 * heads + 2 * c.kv_heads * c.head_dim)
        matrices = c.num_layers * (projections + feed_forward) + logits
        spans = [c.window if c.kinds[kind] == LOCAL else length for kind in c.kind_of_layer]
        attention = sum(4 * min(span, length) * heads for span in spans)
        return (source + target) * (passes * matrices + 3.0 * attention)
    encoder = 8 * c.emb_dim * heads + feed_forward
    # Self-attention, and the queries and the output of the attention to the encoder.
    decoder = 12 * c.emb_dim * heads + feed_forward
    encoded = 4 * c.emb_dim * heads
    matrices = source * (c.num_encoder_layers * encoder + c.num_decoder_layers * encoded)
    matrices += target * (c.num_decoder_layers * decoder + logits)
    attention = source * c.num_encoder_layers * 4 * input_length * heads
    attention += target * c.num_decoder_layers * 4 * (input_length + target_length) * heads
    return passes * matrices + 3.0 * attention


def logits_flops(config: Any, is_frozen: bool = False) -> float:
    """Returns the part of `model_flops` that the logits of one position have."""
    return _passes(is_frozen) * 2 * config.emb_dim * config.vocab_size


def _passes(is_frozen: bool) -> float:
    """Returns the products for each product with a parameter; of attention there are always 3."""
    return 2.0 if is_frozen else 3.0
