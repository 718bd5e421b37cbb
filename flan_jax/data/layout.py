"""How examples lie in a packed row.

Inputs and targets are apart for an encoder-decoder, one after the other for a decoder-only model.

Feature names are those of SeqIO's feature converters. The inputs of each example begin with the ids
of a prompt, if the model has one. Shape letters: B batch, S source and T target length, L = S + T.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from flan_jax.data.shards import TrainShard
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest

Tokens = Sequence[np.ndarray]  # token ids of each example, integers of any size
ARCHITECTURES = ("t5", "decoder")


@dataclasses.dataclass(frozen=True)
class EncoderDecoderLayout:
    """Rows of an encoder-decoder: `input_length` tokens of inputs and `target_length` of targets.

    Segment ids count from 1, 0 is padding; decoder inputs are the targets shifted right within
    their segment, with `bos_id` (the model's `decoder_start_id`) first; loss weights are 1 on
    target tokens. The ids `prompt` are in front of the inputs of each example.
    """

    input_length: int
    target_length: int
    bos_id: int = 0
    prompt: range = range(0)

    features = (
        "encoder_input_tokens",
        "encoder_segment_ids",
        "encoder_positions",
        "decoder_input_tokens",
        "decoder_target_tokens",
        "decoder_segment_ids",
        "decoder_positions",
        "decoder_loss_weights",
    )

    @property
    def capacity(self) -> tuple[int, ...]:
        """Tokens that a row holds, (inputs, targets)."""
        return self.input_length, self.target_length

    def sizes(self, shard: TrainShard) -> np.ndarray:
        """Returns what each example takes of `capacity`: int64 [examples, 2]."""
        inputs = shard.inputs.lengths + len(self.prompt)
        return np.stack([inputs, shard.targets.lengths], axis=1)

    def shapes(self, batch_size: int) -> dict[str, tuple[int, int]]:
        """Returns the shape of each feature of a batch: [B, S] or [B, T]."""
        shapes = {}
        for name in self.features:
            is_input = name.startswith("encoder")
            shapes[name] = (batch_size, self.input_length if is_input else self.target_length)
        return shapes

    def batch(
        self,
        inputs: Tokens,
        targets: Tokens,
        counts: Sequence[int],
        trained: Tokens | None = None,
    ) -> dict[str, np.ndarray]:
        """Returns the features of B rows: row b holds the next `counts[b]` examples.

        Args:
          inputs: the tokens of each example's inputs.
          targets: the tokens of each example's targets.
          counts: B numbers.
          trained: for each token of the targets 1 if it has a loss, else 0; None: all have one.

        Returns:
          `features`, each int32 of its shape in `shapes(B)`.
        """
        inputs = _after(self.prompt, inputs)
        source = _lay(inputs, _lengths(inputs), counts, self.input_length)
        target = _lay(targets, _lengths(targets), counts, self.target_length)
        weights = np.minimum(target.segments, 1)
        if trained is not None:
            weights = _lay(trained, _lengths(targets), counts, self.target_length).tokens
        return {
            "encoder_input_tokens": source.tokens,
            "encoder_segment_ids": source.segments,
            "encoder_positions": source.positions,
            **target.decoder_features(self.bos_id),
            "decoder_loss_weights": weights,
        }


@dataclasses.dataclass(frozen=True)
class DecoderLayout:
    """Rows of a decoder-only model: an example is its inputs and then its targets.

    The loss is on the targets. `decoder_causal_attention` marks what may be seen both ways: the
    first position, which reads `bos_id`, and those that read the input tokens (as SeqIO's PrefixLM
    converter has it). With a prompt the first positions read the ids `prompt`, without a loss and
    seen both ways, and the one after them `bos_id`.
    """

    input_length: int
    target_length: int
    bos_id: int = 0
    prompt: range = range(0)

    features = (
        "decoder_input_tokens",
        "decoder_target_tokens",
        "decoder_segment_ids",
        "decoder_positions",
        "decoder_loss_weights",
        "decoder_causal_attention",
    )

    @property
    def capacity(self) -> tuple[int, ...]:
        """Tokens that a row holds: inputs and targets together."""
        return (self.input_length + self.target_length,)

    def sizes(self, shard: TrainShard) -> np.ndarray:
        """Returns what each example takes of `capacity`: int64 [examples, 1]."""
        return (len(self.prompt) + shard.inputs.lengths + shard.targets.lengths)[:, None]

    def shapes(self, batch_size: int) -> dict[str, tuple[int, int]]:
        """Returns the shape of each feature of a batch: [B, L]."""
        return dict.fromkeys(self.features, (batch_size, *self.capacity))

    def batch(
        self,
        inputs: Tokens,
        targets: Tokens,
        counts: Sequence[int],
        trained: Tokens | None = None,
    ) -> dict[str, np.ndarray]:
        """Returns the features of B rows, as `EncoderDecoderLayout.batch`."""
        first, *following = [*self.prompt, self.bos_id]
        inputs = _after(following, inputs)
        prefixes = _lengths(inputs)
        pieces = [piece for example in zip(inputs, targets) for piece in example]
        lengths = prefixes + _lengths(targets)
        laid = _lay(pieces, lengths, counts, *self.capacity)
        weights = laid.parted(prefixes, 0, 1)
        if trained is not None:
            untrained = [np.zeros(length, np.int32) for length in prefixes]
            pieces = [piece for example in zip(untrained, trained) for piece in example]
            weights = _lay(pieces, lengths, counts, *self.capacity).tokens
        features = laid.decoder_features(first)
        if self.prompt:  # nothing predicts its ids, which are beyond the logits
            unpredicted = np.full(len(prefixes), len(self.prompt))
            features["decoder_target_tokens"] = laid.tokens * laid.parted(unpredicted, 0, 1)
        return {
            **features,
            "decoder_loss_weights": weights,
            "decoder_causal_attention": laid.parted(prefixes + 1, 1, 0),
        }


Layout = EncoderDecoderLayout | DecoderLayout


def make_layout(
    architecture: str,
    input_length: int,
    target_length: int,
    bos_id: int,
    prompt: range = range(0),
) -> Layout:
    """Returns the layout of ARCHITECTURE.

    Args:
      architecture: 't5' or 'decoder'.
      input_length: S, most tokens of an example's inputs.
      target_length: T, most tokens of its targets.
      bos_id: what the decoder reads first.
      prompt: the ids in front of each example's inputs, which share its S tokens.

    Raises:
      UserError: for an unknown architecture.
    """
    check_architecture(architecture)
    layout = DecoderLayout if architecture == "decoder" else EncoderDecoderLayout
    return layout(input_length, target_length, bos_id, prompt)


def check_architecture(name: str) -> None:
    """Raises a UserError unless `name` is one of ARCHITECTURES."""
    if name not in ARCHITECTURES:
        near = did_you_mean(nearest(name, ARCHITECTURES), "; a file of gin/size sets it.")
        raise UserError(f"ARCHITECTURE {name!r} must be one of {', '.join(ARCHITECTURES)}{near}")


@dataclasses.dataclass
class _Laid:
    """Examples one after the other in B rows of L tokens, each row ending in padding.

    Attributes:
      tokens, segments, positions: int32 [B, L], zero in padding.
      is_padding: bool [runs]; a run is an example or the padding that ends a row.
      starts, lengths: int64 [runs], in the flat [B * L].
    """

    tokens: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    is_padding: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def parted(self, heads: np.ndarray, of_head: int, of_rest: int) -> np.ndarray:
        """Returns int32 [B, L]: `of_head` on each example's first `heads` tokens, then `of_rest`.

        Args:
          heads: int [examples].
          of_head: the first value.
          of_rest: the second value; padding has 0.
        """
        values = np.array([of_head, of_rest], np.int32) * ~self.is_padding[:, None]
        parts = np.zeros((len(self.lengths), 2), np.int64)
        parts[~self.is_padding, 0] = heads
        parts[:, 0] = np.minimum(parts[:, 0], self.lengths)
        parts[:, 1] = self.lengths - parts[:, 0]
        return np.repeat(values.reshape(-1), parts.reshape(-1)).reshape(self.tokens.shape)

    def decoder_features(self, bos_id: int) -> dict[str, np.ndarray]:
        """Returns the features of both layouts: targets, and targets shifted right, by segment."""
        shifted = np.empty(self.tokens.size, np.int32)
        shifted[1:] = self.tokens.reshape(-1)[:-1]
        begins = self.lengths > 0
        shifted[self.starts[begins]] = np.where(self.is_padding[begins], 0, bos_id)
        return {
            "decoder_input_tokens": shifted.reshape(self.tokens.shape),
            "decoder_target_tokens": self.tokens,
            "decoder_segment_ids": self.segments,
            "decoder_positions": self.positions,
        }


def _after(ids: Sequence[int], pieces: Tokens) -> Tokens:
    """Returns the pieces, each after these ids."""
    return [np.concatenate([ids, piece]).astype(np.int32) for piece in pieces] if ids else pieces


def _lengths(pieces: Tokens) -> np.ndarray:
    return np.fromiter(map(len, pieces), np.int64, len(pieces))


def _lay(pieces: Tokens, lengths: np.ndarray, counts: Sequence[int], row_length: int) -> _Laid:
    """Lays examples of these lengths into rows, `counts` of them in each.

    An example is one piece or two, the same number for all. A run of padding follows the examples
    of each row, so that every array is one `concatenate` or `repeat` over runs.
    """
    counts = np.asarray(counts, np.int64)
    rows, first = len(counts), np.concatenate([[0], np.cumsum(counts)])
    paddings = first[1:] + np.arange(rows)
    is_padding = np.zeros(len(lengths) + rows, bool)
    is_padding[paddings] = True
    runs = np.empty(len(is_padding), np.int64)
    runs[~is_padding] = lengths
    runs[paddings] = row_length - np.diff(np.concatenate([[0], np.cumsum(lengths)])[first])
    starts = np.cumsum(runs) - runs
    numbers = np.arange(1, len(runs) + 1) - np.repeat(first[:-1] + np.arange(rows), counts + 1)
    numbers[paddings] = 0

    zeros, per_example = np.zeros(row_length, np.int32), len(pieces) // max(len(lengths), 1)
    bounds, parts = (first * per_example).tolist(), []
    for begin, end, padding in zip(bounds, bounds[1:], runs[paddings].tolist()):
        parts += [*pieces[begin:end], zeros[:padding]]
    tokens = np.concatenate(parts, dtype=np.int32)
    segments = np.repeat(numbers.astype(np.int32), runs)
    positions = np.arange(rows * row_length, dtype=np.int32)
    positions -= np.repeat(starts.astype(np.int32), runs)
    positions *= segments > 0
    return _Laid(
        *(array.reshape(rows, row_length) for array in (tokens, segments, positions)),
        is_padding,
        starts,
        runs,
    )
