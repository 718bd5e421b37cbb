"""The records of the catalogue: datasets, their templates and their copies on the hub.

A `Dataset` says where its rows come from, how a raw row becomes named text fields, what the answer
options are, and in which `Template`s it is written as an instruction. `registry.register` adds it
to the catalogue, after the checks of `record_checks`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest

# Value of `Dataset.options` when every row brings its own list.
FROM_ROW = "from row"
# The paper takes at most this many training rows of a dataset (section 2.1) ...
TRAIN_CAP = 30_000
# ... and draws from it at a rate proportional to its rows, but no more than this many (section
# 2.4).
RATE_CAP = 3_000
# Templates of each dataset in the paper (section 2.1), inverted ones included.
_PAPERS_TEMPLATES = 10

_FIELD = re.compile(r"\{(\w*)\}")
# The attributes of a `Dataset` that hold several things; a list may be given for each.
_TUPLES = ("fields", "options", "templates", "metrics", "evidence", "inverted_metrics")


class Drop(NamedTuple):
    """What a row function returns for a row that cannot be used; counted and logged by reason."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Template:
    """One way to write a row as an instruction.

    Attributes:
      id: names the template within its dataset, in results and on the command line.
      inputs: text with `{field}` placeholders; `{options}` stands on a line of its own.
      targets: the same for what the model answers.
      kind: 'forward' (answers the dataset's task) or 'inverted' (the other way around: produces
        one of its inputs); 'text' for files of texts without inputs, which train whole.
    """

    id: str
    inputs: str
    targets: str = "{answer}"
    kind: str = "forward"

    @property
    def shows_options(self) -> bool:
        """Returns whether the list of options is part of the input."""
        return "options" in placeholders(self.inputs)


@dataclasses.dataclass(frozen=True)
class Hub:
    """A copy of a dataset on the Hugging Face hub, and how to read it as the rows of TFDS.

    Attributes:
      id: the repository, e.g. 'facebook/anli'.
      config: the folder of its parquet files, e.g. 'plain_text'.
      splits: our raw split -> split on the hub, where the two have different names.
      rename: field as the row function reads it -> field on the hub, where the two have different
        names.
      classes: field -> names of its classes in the order in which the row function numbers them,
        where the hub has another order; the files must have the names.
      row: row of the hub, renamed -> row as the row function reads it; for what renaming cannot do.
      assumed: whether configuration, splits and fields are assumed, in a copy that is not by the
        authors of the dataset. All others were compared with the dataset's
        `dataset_infos.json` in github.com/huggingface/datasets as of 1 September 2022.
    """

    id: str
    config: str = "default"
    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rename: Mapping[str, str] = dataclasses.field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    row: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    assumed: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """One configuration of a dataset: its rows, its fields, its options and its templates.

    Attributes:
      name: configuration name, e.g. 'anli_r1'.
      paper_dataset: the dataset of the paper's Figure 3 that it belongs to, e.g. 'ANLI (R1-R3)';
        its name if none.
      cluster: one of `clusters.CLUSTERS`.
      tfds: 'builder/config:version' of TensorFlow Datasets, or None.
      hub: its copy on the Hugging Face hub in parquet or JSON files, or None.
      splits: our split ('train', 'validation', 'test') -> slice of a raw split, e.g.
        'train[:-200]'.
      fields: names of the text fields that `row` produces, besides the answer and the options.
      row: raw row -> dict of `fields`; plus `label` (index of the right option) where there are
        options, and `options` (list of str) where they are FROM_ROW; else `answer` (str). May add
        `references` (list of str), `group` (str) and `value` (float) for metrics. Returns
        `Drop(reason)` for a row that cannot be used.
      options: the fixed answer options, FROM_ROW, or None for free text.
      templates: ten ways or more to write a row, at most three of them inverted.
      metrics: names in `flan_jax.metrics`, the first one is reported in tables.
      license: of the data, as its authors state it: an SPDX expression, with 'LicenseRef-...' for
        terms of its own and 'NOASSERTION' where none are stated.
      commercial: whether the license allows commercial use; None if that is not known.
      license_evidence: where the license is stated, or why none is known.
      rows: published number of rows of our splits, where known; of 'train' the paper's count, in
        tens: less its validation rows, in most records before the limit of 30,000.
      evidence: the fields without which the answer cannot be found; None means all of `fields`.
      inverted_metrics: metrics of the inverted templates, where these are a task of their own that
        is evaluated too, such as translation into English; empty where inverted templates only
        train.
      shares_training_with: name of a configuration that has the same training rows and trains in
        its place.
      manual: the steps to download the data by hand, where its builder cannot download them.
      train_cap: at most this many training rows are used.
    """

    name: str
    cluster: str
    splits: Mapping[str, str]
    fields: tuple[str, ...]
    row: Callable[[dict[str, Any]], dict[str, Any] | Drop]
    options: tuple[str, ...] | str | None
    templates: tuple[Template, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    paper_dataset: str = ""
    license: str = "NOASSERTION"
    commercial: bool | None = None
    license_evidence: str = ""
    tfds: str | None = None
    hub: Hub | None = None
    rows: Mapping[str, int] = dataclasses.field(default_factory=dict)
    evidence: tuple[str, ...] | None = None
    inverted_metrics: tuple[str, ...] = ()
    shares_training_with: str | None = None
    manual: str | None = None
    train_cap: int = TRAIN_CAP

    def __post_init__(self):
        object.__setattr__(self, "paper_dataset", self.paper_dataset or self.name)
        for name in _TUPLES:
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)

    def template(self, template_id: str) -> Template:
        """Returns the template of that id.

        Raises:
          UserError: if there is none; it suggests the nearest.
        """
        for template in self.templates:
            if template.id == template_id:
                return template
        ids = [t.id for t in self.templates]
        hint = did_you_mean(nearest(template_id, ids, cutoff=0.3))
        raise UserError(
            f"{self.name} has no template {template_id!r}{hint} Its templates are {', '.join(ids)}."
        )

    def forward(self) -> tuple[Template, ...]:
        """Returns the templates that answer the task of the dataset."""
        return tuple(t for t in self.templates if t.kind == "forward")

    def first_templates(self, count: int | None) -> tuple[Template, ...]:
        """Returns the first `count` templates, or all of them for None.

        The inverted ones count among the first ten, as in the paper's code: with count=10, a
        dataset of ten forward templates keeps its inverted ones and loses some forward ones.
        """
        inverted = [t for t in self.templates if t.kind == "inverted"]
        forward = self.forward()
        first_forward = max(_PAPERS_TEMPLATES - len(inverted), 0)
        chosen = [*forward[:first_forward], *inverted, *forward[first_forward:]][:count]
        return tuple(t for t in self.templates if t in chosen)

    def inverted(self) -> tuple[Template, ...]:
        """Returns the inverted templates that are evaluated; none without `inverted_metrics`."""
        if not self.inverted_metrics:
            return ()
        return tuple(t for t in self.templates if t.kind == "inverted")


def in_words(commercial: bool | None) -> str:
    """Returns 'yes', 'no' or 'unknown' for a value of `Dataset.commercial`."""
    return {True: "yes", False: "no", None: "unknown"}[commercial]


def placeholders(text: str) -> tuple[str, ...]:
    """Returns the field names of a template text, in order."""
    return tuple(_FIELD.findall(text))
