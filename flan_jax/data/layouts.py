"""How examples lie in a packed row: inputs and targets apart for an encoder-decoder, one after the other for a decoder.

Feature names are those of SeqIO's feature converters. Shape letters: B batch, S source and T target length, L = S + T.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from flan_jax.data.cache import TrainShard
from flan_jax.errors import UserError

Example = tuple[np.ndarray, np.ndarray]  # token ids of inputs and targets, int32
ARCHITECTURES = ("t5", "decoder")


@dataclasses.dataclass(frozen=True)
class EncoderDecoderLayout:
    """Rows of an encoder-decoder: `input_length` tokens of inputs and `target_length` of targets.

    Segment ids count from 1, 0 is padding; decoder inputs are the targets shifted right within their segment, with
    `bos_id` first; loss weights are 1 on target tokens.
    """

    input_length: int
    target_length: int
    bos_id: int = 0

    features = ("encoder_input_tokens", "encoder_segment_ids", "encoder_positions", "decoder_input_tokens",
                "decoder_target_tokens", "decoder_segment_ids", "decoder_positions", "decoder_loss_weights")

    @property
    def capacity(self) -> tuple[int, ...]:
        """Tokens that a row holds, (inputs, targets)."""
        return self.input_length, self.target_length

    def sizes(self, shard: TrainShard) -> np.ndarray:
        """What each example takes of `capacity`: int64 [examples, 2]."""
        return np.stack([shard.inputs.lengths, shard.targets.lengths], axis=1)

    def shapes(self, batch_size: int) -> dict[str, tuple[int, int]]:
        """Shape of each feature of a batch: [B, S] or [B, T]."""
        return {name: (batch_size, self.input_length if name.startswith("encoder") else self.target_length)
                for name in self.features}

    def fill(self, row: dict[str, np.ndarray], examples: Iterable[Example]) -> None:
        """Writes examples into one row of zeros, features [S] and [T]."""
        source, target = 0, 0
        for segment, (inputs, targets) in enumerate(examples, 1):
            here = slice(source, source + len(inputs))
            row["encoder_input_tokens"][here] = inputs
            row["encoder_segment_ids"][here] = segment
            row["encoder_positions"][here] = np.arange(len(inputs))
            here = slice(target, target + len(targets))
            _fill_decoder(row, here, targets, segment, self.bos_id)
            row["decoder_loss_weights"][here] = 1
            source, target = source + len(inputs), target + len(targets)


@dataclasses.dataclass(frozen=True)
class DecoderLayout:
    """Rows of a decoder-only model: each example is its inputs and then its targets, the loss is on the targets.

    `decoder_causal_attention` marks what may be seen both ways: the first position, which reads `bos_id`, and those
    that read the input tokens (as SeqIO's PrefixLM converter has it).
    """

    input_length: int
    target_length: int
    bos_id: int = 0

    features = ("decoder_input_tokens", "decoder_target_tokens", "decoder_segment_ids", "decoder_positions",
                "decoder_loss_weights", "decoder_causal_attention")

    @property
    def capacity(self) -> tuple[int, ...]:
        """Tokens that a row holds: inputs and targets together."""
        return (self.input_length + self.target_length,)

    def sizes(self, shard: TrainShard) -> np.ndarray:
        """What each example takes of `capacity`: int64 [examples, 1]."""
        return (shard.inputs.lengths + shard.targets.lengths)[:, None]

    def shapes(self, batch_size: int) -> dict[str, tuple[int, int]]:
        """Shape of each feature of a batch: [B, L]."""
        return dict.fromkeys(self.features, (batch_size, *self.capacity))

    def fill(self, row: dict[str, np.ndarray], examples: Iterable[Example]) -> None:
        """Writes examples into one row of zeros, features [L]."""
        begin = 0
        for segment, (inputs, targets) in enumerate(examples, 1):
            here = slice(begin, begin + len(inputs) + len(targets))
            _fill_decoder(row, here, np.concatenate([inputs, targets]), segment, self.bos_id)
            row["decoder_loss_weights"][begin + len(inputs):here.stop] = 1
            row["decoder_causal_attention"][begin:begin + len(inputs) + 1] = 1
            begin = here.stop


Layout = EncoderDecoderLayout | DecoderLayout


def make_layout(architecture: str, input_length: int, target_length: int, bos_id: int) -> Layout:
    """The layout of ARCHITECTURE.

    Raises:
      UserError: for an unknown architecture.
    """
    check_architecture(architecture)
    layout = DecoderLayout if architecture == "decoder" else EncoderDecoderLayout
    return layout(input_length, target_length, bos_id)


def check_architecture(name: str) -> None:
    """Raises a UserError unless `name` is one of ARCHITECTURES."""
    if name not in ARCHITECTURES:
        raise UserError(f"ARCHITECTURE {name!r} must be one of {', '.join(ARCHITECTURES)}; a file of gin/size sets it.")


def _fill_decoder(row: dict[str, np.ndarray], here: slice, tokens: np.ndarray, segment: int, bos_id: int) -> None:
    row["decoder_target_tokens"][here] = tokens
    row["decoder_input_tokens"][here] = [bos_id, *tokens[:-1]]
    row["decoder_segment_ids"][here] = segment
    row["decoder_positions"][here] = np.arange(len(tokens))
