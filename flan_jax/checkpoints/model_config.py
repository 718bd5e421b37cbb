"""The configuration of a checkpoint's model: from its files, and from the shapes of its tensors."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.models.architectures import ARCHITECTURES

Shapes = Mapping[str, tuple[int, ...]]

# Of a published model whose files have no dropout rate; Raffel et al., 2020, section 3.1.2.
_DROPOUT_RATES = {"t5": 0.1, "decoder": 0.0}
_LAYER_COUNTS = ("num_layers", "num_encoder_layers", "num_decoder_layers")


def make_config(architecture: str, fields: Mapping[str, Any], path: object) -> Any:
    """Returns the `T5Config` or `DecoderConfig` with these fields, and defaults for the others.

    What gin binds has no effect on it, and no device is used.

    Args:
      architecture: 't5' or 'decoder'.
      fields: values by field; `vocab_size` is the number of rows of the embedding.
      path: the file that has them, for messages.

    Raises:
      UserError: for values that no model can have.
    """
    config_class = ARCHITECTURES[architecture].config
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(config_class)
        if field.default is not dataclasses.MISSING
    }
    defaults |= {"dropout_rate": _DROPOUT_RATES[architecture]}
    try:
        return config_class(**{**defaults, **fields, "dtype": "float32"})
    except UserError as error:
        raise UserError(
            f"{shown(path)}, or the gin file beside it, is not a model of this project: {error}"
        ) from error


def infer_config(shapes: Shapes, known: Mapping[str, Mapping[str, Any]], path: object) -> Any:
    """Returns the configuration of a checkpoint whose format has none.

    Args:
      shapes: of its tensors, by our names.
      known: fields by architecture, as a gin file beside it has them; they go before what the
        shapes show, and that goes before the defaults.
      path: the checkpoint, for messages.

    Raises:
      UserError: if the tensors are not those of a model here; if the number of heads is unknown
        (rotary positions leave no trace of it); for more layers than there are tensors.
    """
    architecture, sizes = infer_sizes(shapes)
    if architecture is None:
        raise UserError(
            f"{shown(path)} is neither a T5 nor a decoder-only model in T5X's names (its first "
            f"parameters are {', '.join(list(shapes)[:3]) or 'none'}); convert a checkpoint of one "
            "of these."
        )
    fields = {**sizes, **known.get(architecture, {})}
    if not {"num_heads", "head_dim"} <= fields.keys():
        raise UserError(
            f"{shown(path)} has no position table, so its number of heads is unknown: put the file "
            "model.gin (DecoderConfig.num_heads and the rest) beside it."
        )
    config = make_config(architecture, fields, path)
    for name in _LAYER_COUNTS:
        count = getattr(config, name, 0)
        if count > len(shapes):
            raise UserError(
                f"{shown(path)} has {len(shapes):,} tensors, which cannot be {name} {count:,}; put "
                "the right config.gin or model.gin beside it."
            )
    return config


def infer_sizes(shapes: Shapes) -> tuple[str | None, dict[str, Any]]:
    """Returns (architecture, the fields that the shapes of a tree show); (None, {}) for neither."""
    architecture = "t5" if any(name.startswith("encoder/") for name in shapes) else "decoder"
    prefix = "" if architecture == "t5" else "decoder/"
    table = shapes.get(f"{prefix}token_embedder/embedding")
    query = _first_ending(shapes, "attention/query/kernel")
    wide = _first_ending(shapes, "mlp/wo/kernel")
    if table is None or query is None or wide is None:
        return None, {}
    fields: dict[str, Any] = {
        "vocab_size": table[0],
        "emb_dim": table[1],
        "mlp_dim": wide[0],
        "logits_via_embedding": "decoder/logits_dense/kernel" not in shapes,
    }
    if _first_ending(shapes, "mlp/wi_0/kernel") is None:
        fields["mlp_activations"] = ("relu",)
    if architecture == "t5":
        fields["num_encoder_layers"] = _count_layers(shapes, "encoder")
        fields["num_decoder_layers"] = _count_layers(shapes, "decoder")
    else:
        fields["num_layers"] = _count_layers(shapes, "decoder")
    relative = shapes.get("decoder/relpos_bias/rel_embedding")
    if relative:
        fields["num_heads"], fields["relpos_buckets"] = relative
        fields["head_dim"] = query[1] // relative[0]
    return architecture, fields


def _first_ending(shapes: Shapes, ending: str) -> tuple[int, ...] | None:
    return next((shape for name, shape in shapes.items() if name.endswith(ending)), None)


def _count_layers(shapes: Shapes, stack: str) -> int:
    matches = (re.match(rf"{stack}/layers_(\d+)/", name) for name in shapes)
    return len({match[1] for match in matches if match})
