"""Rendered text to token ids that fit: long rows lose text from their longest field.

So the question at the end of an input, and its options, stay whole as long as they fit.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax.catalogue.records import Dataset, Template, placeholders
from flan_jax.catalogue.render import MIXED, Rendered, render, shots_of
from flan_jax.data.chat.dialogues import DialogueEncoder
from flan_jax.data.exemplars import ExemplarPool
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.errors import UserError

# What `Encoder.counts` counts.
INPUTS_TRUNCATED = "inputs truncated"
INSTRUCTIONS_TRUNCATED = "instructions truncated"
TARGETS_TRUNCATED = "targets truncated"
EXEMPLARS_LEFT_OUT = "exemplars that did not fit"


@dataclasses.dataclass(frozen=True)
class Rendering:
    """How rows become token ids; part of the cache's key.

    Attributes:
      input_length, target_length: most tokens of an example, EOS included.
      options_style, instructions: see `render.render`.
      seed: decides template choice, shuffled options and exemplars.
      shots: exemplars before each row, as many of them as fit beside it; or `render.MIXED`.
      loss_on: which messages of a dialogue are trained.
    """

    input_length: int = 1024
    target_length: int = 256
    options_style: str = "fixed"
    instructions: str = "template"
    seed: int = 0
    shots: int | str = 0
    loss_on: str = "assistant"


@dataclasses.dataclass
class Encoded:
    """Token ids of one example beside its text.

    Attributes:
      inputs: int32 ids that end in the vocabulary's `input_end`.
      targets: int32 ids that end in EOS.
      options: int32 ids of each option with EOS, or None.
      text: what they are the ids of.
      trained: for each of the targets 1 if it has a loss, else 0; None if all have one.
    """

    inputs: np.ndarray
    targets: np.ndarray
    options: list[np.ndarray] | None
    text: Rendered
    trained: np.ndarray | None = None


def undecidable(
    vocabulary: Vocabulary, rendering: Rendering
) -> Callable[[Mapping[str, Any]], str | None]:
    """Returns a function of a row: why it cannot be decided, or None.

    The right option may have the tokens of another one, where the vocabulary lacks characters or
    folds them, and where targets are truncated. Of equal options the first would always win.
    """
    most = sys.maxsize if rendering.options_style == "lettered" else rendering.target_length - 1

    @functools.lru_cache(4096)
    def tokens(option: str) -> list[int]:
        return vocabulary.encode_target(option)[:most]

    def reason(row: Mapping[str, Any]) -> str | None:
        options = row.get("options")
        if not options:
            return None
        right = tokens(options[row["label"]])
        others = (option for i, option in enumerate(options) if i != row["label"])
        if any(tokens(option) == right for option in others):
            return "the right option and another are the same tokens"
        return None

    return reason


class Encoder:
    """Renders and encodes rows.

    Attributes:
      counts: how many inputs and targets were truncated, how many exemplars left out.

    Args:
      vocabulary: text to ids.
      rendering: how.
      pool: where exemplars are drawn from; needed if `rendering.shots` is not 0.
    """

    def __init__(
        self, vocabulary: Vocabulary, rendering: Rendering, pool: ExemplarPool | None = None
    ):
        self.vocabulary = vocabulary
        self.rendering = rendering
        self.pool = pool
        self.counts: collections.Counter[str] = collections.Counter()

    def encode(
        self,
        dataset: Dataset,
        template: Template,
        row: dict[str, Any],
        row_id: str,
        with_options: bool = False,
    ) -> Encoded:
        """Returns one row in one template, within the lengths.

        Args:
          dataset: a record of the catalogue.
          template: one of its templates.
          row: the fields of the row.
          row_id: decides what is shuffled and drawn.
          with_options: whether the options are encoded, too.
        """
        text = self._render(dataset, template, row, row_id)
        shots = shots_of(self.rendering.shots, row_id, self.rendering.seed)
        ids = self.vocabulary.encode_input(text.inputs)
        if len(ids) > self.rendering.input_length:
            self.counts[INPUTS_TRUNCATED] += 1
            text, ids = self._truncate(dataset, template, row, row_id, text, ids)
            if shots:
                self.counts[EXEMPLARS_LEFT_OUT] += shots
        elif shots:
            text, ids = self._with_exemplars(dataset, template, row, row_id, text, ids, shots)
        options = None
        if with_options and text.options:
            options = [self._target(option) for option in text.options]
        return Encoded(np.asarray(ids, np.int32), self._target(text.targets), options, text)

    def examples(
        self, dataset: Dataset, template: Template, row: dict[str, Any], row_id: str
    ) -> list[Encoded]:
        """Returns the training examples of a row in one template.

        They are one, the parts of a text, or a dialogue or its turns.

        A text without an input (a template of kind 'text') is trained whole, in as many examples
        as it takes; the last one ends in EOS. See `encode` for the arguments.
        """
        if template.kind == "dialogue":
            return self._dialogue(row)
        if template.kind != "text":
            return [self.encode(dataset, template, row, row_id)]
        text, length = row["answer"], self.rendering.target_length
        # an encoder reads at least the end of an empty input
        most = self.rendering.input_length
        inputs = np.asarray(self.vocabulary.encode_input("")[:most] if most else [], np.int32)
        ids = np.asarray([*self.vocabulary.encode(text), self.vocabulary.eos_id], np.int32)
        parts = np.split(ids, range(length, len(ids), length))
        return [Encoded(inputs, part, None, Rendered("", text, None, text, None)) for part in parts]

    def _dialogue(self, row: dict[str, Any]) -> list[Encoded]:
        rendering = self.rendering
        lengths = rendering.input_length, rendering.target_length
        encoder = DialogueEncoder(self.vocabulary, *lengths, rendering.loss_on, self.counts)
        text = Rendered(row["inputs"], row["answer"], None, row["answer"], None)
        return [
            Encoded(example.inputs, example.targets, None, text, example.trained)
            for example in encoder.encode(row["messages"], row.get("tools"))
        ]

    def _render(
        self,
        dataset: Dataset,
        template: Template,
        row: dict[str, Any],
        row_id: str,
        exemplars: Sequence[dict[str, Any]] = (),
    ) -> Rendered:
        return render(
            dataset,
            template,
            row,
            row_id=row_id,
            options_style=self.rendering.options_style,
            instructions=self.rendering.instructions,
            exemplars=exemplars,
            seed=self.rendering.seed,
        )

    def _with_exemplars(
        self,
        dataset: Dataset,
        template: Template,
        row: dict[str, Any],
        row_id: str,
        text: Rendered,
        ids: list[int],
        count: int,
    ) -> tuple[Rendered, list[int]]:
        """Puts those of the row's exemplars before it, in the order drawn, that fit beside it."""
        shown: list[dict[str, Any]] = []
        for exemplar in self.pool.draw(row, row_id, count, self.rendering.shots == MIXED):
            longer = self._render(dataset, template, row, row_id, [*shown, exemplar])
            longer_ids = self.vocabulary.encode_input(longer.inputs)
            if len(longer_ids) <= self.rendering.input_length:
                shown.append(exemplar)
                text, ids = longer, longer_ids
        if len(shown) < count:
            self.counts[EXEMPLARS_LEFT_OUT] += count - len(shown)
        return text, ids

    def _target(self, text: str) -> np.ndarray:
        ids = self.vocabulary.encode_target(text)
        if len(ids) >= self.rendering.target_length:
            self.counts[TARGETS_TRUNCATED] += 1
            ids = ids[: self.rendering.target_length - 1]
        return np.asarray([*ids, self.vocabulary.eos_id], np.int32)

    def _truncate(
        self,
        dataset: Dataset,
        template: Template,
        row: dict[str, Any],
        row_id: str,
        text: Rendered,
        ids: list[int],
    ) -> tuple[Rendered, list[int]]:
        """Removes the end of the longest field shown, as often as it takes.

        What is still too long with all fields empty is an instruction, and loses its end.

        Raises:
          UserError: if the chat template, or EOS, leaves no room for a text.
        """
        limit = self.rendering.input_length
        begin, end = self.vocabulary.input_begin, self.vocabulary.input_end
        room = limit - len(begin) - len(end)
        if room <= 0:
            raise UserError(
                f"what is around each input, such as the chat template, has {limit - room} tokens, "
                f"but 'inputs' of TASK_FEATURE_LENGTHS is {limit}; give it more, or set "
                "CHAT_TEMPLATE=None."
            )
        shown = set(placeholders(template.inputs))
        fields = [
            n for n in dataset.fields if n in shown or self.rendering.instructions != "template"
        ]
        row = dict(row)
        while len(ids) > limit and any(row[n] for n in fields):
            name = max(fields, key=lambda n: len(row[n]))
            characters_per_token = len(text.inputs) / len(ids)
            # 8 characters more than needed, so that one time is mostly enough
            keep = len(row[name]) - int((len(ids) - limit) * characters_per_token) - 8
            row[name] = _begin_of(row[name], keep)
            text = self._render(dataset, template, row, row_id)
            ids = self.vocabulary.encode_input(text.inputs)
        if len(ids) > limit:
            self.counts[INSTRUCTIONS_TRUNCATED] += 1
            ids = self.vocabulary.encode(text.inputs)[:room]
            text = dataclasses.replace(text, inputs=self.vocabulary.decode(ids))
            ids = [*begin, *ids, *end]
        return text, ids


# The longest piece without a blank that is taken for a word, which is not cut.
_WORD = 60


def _begin_of(text: str, length: int) -> str:
    """At most so many characters of the beginning of a text, up to the end of a word if it has any.

    Chinese, Japanese and Thai have no blanks between words, and encoded data has none at all.
    """
    begin = text[: max(length, 0)]
    words = begin.rsplit(" ", 1)[0]
    return (words if len(begin) - len(words) <= _WORD else begin).rstrip()
