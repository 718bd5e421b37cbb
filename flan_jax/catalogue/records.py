"""The records of the catalogue, and the checks that a dataset passes before anyone can train on it.

A `Dataset` says where its rows come from, how a raw row becomes named text fields, what the answer
options are, and in which `Template`s it is written as an instruction. `register` refuses, with one
sentence that says which and why, a template that names a field its dataset does not produce, lacks
the options of a classification task, repeats another one, or cannot be answered from its input.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from flan_jax.catalogue.clusters import CLUSTERS, check_cluster
from flan_jax.catalogue.fingerprint import code_of, source_of
from flan_jax.config.checks import check_number, quoted
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest, shown
from flan_jax.metrics import check_metric

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
    """What a dataset's row function returns for a row that cannot be used; counted and printed by
    reason.
    """

    reason: str


@dataclasses.dataclass(frozen=True)
class Template:
    """One way to write a row as an instruction.

    Attributes:
      id: names the template within its dataset, in results and on the command line.
      inputs: text with `{field}` placeholders; `{options}` stands on a line of its own.
      targets: the same for what the model answers.
      kind: 'forward' (answers the dataset's task) or 'inverted' (turned around: produces one of its
        inputs).
    """

    id: str
    inputs: str
    targets: str = "{answer}"
    kind: str = "forward"

    @property
    def shows_options(self) -> bool:
        """Whether the list of options is part of the input."""
        return "options" in placeholders(self.inputs)


@dataclasses.dataclass(frozen=True)
class Hub:
    """Where a dataset lies on the Hugging Face hub, and how its rows become those that the row
    function reads.

    Attributes:
      id: the repository, e.g. 'facebook/anli'.
      config: the folder of its parquet files, e.g. 'plain_text'.
      splits: our raw split -> split on the hub, where the two have different names.
      rename: field as the row function reads it -> field on the hub, where the two have different
        names.
      classes: field -> names of its classes in the order in which the row function counts them,
        where the hub counts them in another; the files must carry the names.
      row: row of the hub, renamed -> row as the row function reads it; for what renaming cannot do.
      assumed: whether configuration, splits and fields are only assumed: of a copy by somebody who
        is not among the dataset's authors. All others were compared with the dataset's
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
      licence: of the data, as its authors state it: an SPDX expression, with 'LicenseRef-...' for
        terms of its own and 'NOASSERTION' where none are stated.
      commercial: whether the licence allows commercial use; None if that is not known.
      licence_evidence: where the licence is stated, or why none is known.
      rows: published number of rows of our splits, where known; of 'train' the paper's count, in
        tens: less the rows that it validates on, in most records before a cut to the first 30,000.
      evidence: the fields without which the answer cannot be found; None means all of `fields`.
      inverted_metrics: metrics of the inverted templates, where these are a task of their own that
        is evaluated too, such as translation into English; empty where inverted templates only
        train.
      shares_training_with: name of a configuration that has the same training rows and trains in
        its place.
      manual: the steps to download the data by hand, where its builder cannot.
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
    licence: str = "NOASSERTION"
    commercial: bool | None = None
    licence_evidence: str = ""
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
        """The template of that id, or a UserError that suggests the nearest."""
        for template in self.templates:
            if template.id == template_id:
                return template
        ids = [t.id for t in self.templates]
        hint = did_you_mean(nearest(template_id, ids, cutoff=0.3))
        raise UserError(
            f"{self.name} has no template {template_id!r}{hint} Its templates are {', '.join(ids)}."
        )

    def forward(self) -> tuple[Template, ...]:
        """The templates that answer the dataset's own task."""
        return tuple(t for t in self.templates if t.kind == "forward")

    def first_templates(self, count: int | None) -> tuple[Template, ...]:
        """The first `count` templates, or all of them for None.

        The inverted ones count as standing within the first ten, as they do in the paper's code: a
        dataset that has ten forward templates keeps its inverted ones with ten templates.
        """
        inverted = [t for t in self.templates if t.kind == "inverted"]
        forward, room = self.forward(), max(_PAPERS_TEMPLATES - len(inverted), 0)
        chosen = [*forward[:room], *inverted, *forward[room:]][:count]
        return tuple(t for t in self.templates if t in chosen)

    def inverted(self) -> tuple[Template, ...]:
        """The templates that are evaluated as the dataset's other task; empty without
        `inverted_metrics`.
        """
        return (
            tuple(t for t in self.templates if t.kind == "inverted")
            if self.inverted_metrics
            else ()
        )


def in_words(commercial: bool | None) -> str:
    """'yes', 'no' or 'unknown' of `Dataset.commercial`."""
    return {True: "yes", False: "no", None: "unknown"}[commercial]


def placeholders(text: str) -> tuple[str, ...]:
    """The field names of a template text, in order."""
    return tuple(_FIELD.findall(text))


def fingerprint(template: Template) -> str:
    """Inputs and targets without case, white space, punctuation and field names: equal means a
    repetition.
    """
    text = _FIELD.sub("\x00", template.inputs) + "\x01" + _FIELD.sub("\x00", template.targets)
    drop = string.punctuation + string.whitespace + "’‘“”–—…¿¡"
    return text.lower().translate({ord(c): None for c in drop})


class Catalogue:
    """All registered datasets, by name. The process has one, `CATALOGUE`; tests make their own."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}
        self._seen: dict[str, tuple[Dataset, Template]] = {}

    def register(self, dataset: Dataset) -> Dataset:
        """Checks a dataset and adds it; returns it.

        Raises:
          UserError: names the dataset, the template and what is wrong with it.
        """
        if not isinstance(dataset, Dataset):
            raise UserError(f"what is registered must be a Dataset(...), not {quoted(dataset)}.")
        _check_record(dataset)
        if dataset.name in self._datasets:
            raise UserError(
                f"dataset {dataset.name!r} is registered twice; give one of them another name."
            )
        new: dict[str, tuple[Dataset, Template]] = {}
        for template in dataset.templates:
            _check_template(dataset, template)
            key = fingerprint(template)
            other, twin = new.get(key) or self._seen.get(key) or (None, None)
            if other is not None and (
                other is dataset or other.paper_dataset != dataset.paper_dataset
            ):
                raise UserError(
                    f"template {dataset.name}/{template.id} repeats {other.name}/{twin.id} up to "
                    "case, punctuation and field names; write it differently or delete it."
                )
            new[key] = (dataset, template)
        self._seen.update(new)
        self._datasets[dataset.name] = dataset
        return dataset

    def __getitem__(self, name: str) -> Dataset:
        if name in self._datasets:
            return self._datasets[name]
        own = [one.name for one in self._datasets.values() if one.cluster == name]
        if own:
            raise UserError(
                f"{name!r} is a cluster and no dataset; its datasets are {', '.join(own)}."
            )
        near = nearest(name, [*CLUSTERS, *self._datasets], cutoff=0.4)
        hint = did_you_mean(near, "; `flan-jax tasks list` shows those there are.")
        raise UserError(f"unknown dataset {name!r}{hint}")

    def __iter__(self):
        return iter(self._datasets.values())

    def __contains__(self, name: str) -> bool:
        return name in self._datasets

    def __len__(self) -> int:
        return len(self._datasets)

    def cluster(self, name: str) -> list[Dataset]:
        """The datasets of a cluster, in order of registration."""
        check_cluster(name)
        return [d for d in self if d.cluster == name]


CATALOGUE = Catalogue()


def register(*datasets: Dataset) -> None:
    """Adds datasets to the process's catalogue, with the checks of `Catalogue.register`."""
    for dataset in datasets:
        CATALOGUE.register(dataset)


def source_of_row(dataset: Dataset) -> str:
    """The Python text that decides what becomes of a row; part of the cache's key.

    It is that of `source_of` the row function, of one that is built in (`dict`) its name; of a
    functools.partial, also the arguments.

    Raises:
      UserError: if the function is in no file.
    """
    function, given = dataset.row, []
    while isinstance(function, functools.partial):
        given.append(
            code_of([function.args, function.keywords], f"the row function of {dataset.name}")
        )
        function = function.func
    if getattr(function, "__module__", None) == "builtins":
        return function.__qualname__ + (json.dumps(given) if given else "")
    try:
        return source_of(function) + (json.dumps(given) if given else "")
    except (OSError, TypeError) as error:  # what inspect raises for code that was typed in
        raise UserError(
            f"the row function of {dataset.name} is in no file, so that nobody can say whether "
            "cached rows are its own; define it in a module."
        ) from error


def _check_record(dataset: Dataset) -> None:
    where = f"dataset {quoted(dataset.name)}"
    if not isinstance(dataset.name, str) or not re.fullmatch(r"[a-z0-9_]{1,100}", dataset.name):
        raise UserError(
            f"{where}: a name has lower-case letters, digits and '_' only, and at most 100 of them."
        )
    check_cluster(dataset.cluster)
    _check_kinds(where, dataset)
    if not dataset.templates:
        raise UserError(f"{where} has no template; give it at least one.")
    if not dataset.splits:
        raise UserError(f"{where} has no splits; give at least 'train' or 'test'.")
    unknown = set(dataset.splits) - {"train", "validation", "test"}
    if unknown:
        raise UserError(
            f"{where} has split {quoted(min(unknown))}; splits are 'train', 'validation' and "
            f"'test'."
        )
    odd = [name for name in dataset.fields if not re.fullmatch(r"\w+", name)]
    if odd:
        raise UserError(
            f"{where}: the name of field {quoted(odd[0])} must have letters, digits and '_' only."
        )
    reserved = {"answer", "options"} & set(dataset.fields)
    if reserved:
        raise UserError(
            f"{where}: field {min(reserved)!r} is reserved; give the field another name."
        )
    missing = set(dataset.evidence or ()) - set(dataset.fields)
    if missing:
        raise UserError(
            f"{where}: evidence {min(missing)!r} is not one of its fields "
            f"({', '.join(dataset.fields)})."
        )
    _check_options(where, dataset.options)
    tfds = dataset.tfds
    if tfds is not None and not (isinstance(tfds, str) and re.fullmatch(r"[\w/.-]+:[\w.]+", tfds)):
        raise UserError(
            f"{where}: tfds is 'builder/config:version', such as 'glue/rte:2.0.0', not "
            f"{quoted(tfds)}."
        )
    if dataset.hub is not None:
        _check_hub(dataset)
    if not dataset.metrics:
        raise UserError(f"{where} has no metric; 'accuracy' is the usual one for options.")
    try:
        for metric, options in [
            *((name, dataset.options) for name in dataset.metrics),
            *((name, None) for name in dataset.inverted_metrics),
        ]:
            check_metric(metric, options)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    ids = [t.id for t in dataset.templates]
    for template_id in ids:
        if not re.fullmatch(r"[a-z0-9_]+", template_id):
            raise UserError(
                f"template {dataset.name}/{shown(template_id)}: an id has lower-case letters, "
                "digits and '_' only."
            )
        if ids.count(template_id) > 1:
            raise UserError(f"{where} has two templates called {template_id!r}; rename one.")
    if sum(t.kind == "inverted" for t in dataset.templates) > 3:
        raise UserError(
            f"{where} has more than three inverted templates; the paper allows up to three."
        )


def _check_kinds(where: str, dataset: Dataset) -> None:
    for name in ("fields", "templates", "metrics", "evidence", "inverted_metrics"):
        value, kind = getattr(dataset, name), Template if name == "templates" else str
        if not (
            value is None
            and name == "evidence"
            or isinstance(value, tuple)
            and all(isinstance(item, kind) for item in value)
        ):
            what = "Template(...)" if kind is Template else "names"
            raise UserError(
                f"{where}: {name} is a tuple of {what}, not {quoted(value)}; a tuple of one has a "
                "comma: (x,)."
            )
    for name in ("paper_dataset", "licence", "manual", "shares_training_with"):
        value = getattr(dataset, name)
        if not isinstance(value, str) and not (
            value is None and name in ("manual", "shares_training_with")
        ):
            raise UserError(f"{where}: {name} is text, not {quoted(value)}.")
        _check_characters(f"{where}: {name}", value or "")
    if not _maps_texts(dataset.splits):
        raise UserError(
            f"{where}: splits is a dict such as {{'train': 'train', 'test': 'test'}}, not "
            f"{quoted(dataset.splits)}."
        )
    if not isinstance(dataset.rows, Mapping) or not all(
        type(count) is int for count in dataset.rows.values()
    ):
        raise UserError(
            f"{where}: rows is a dict of numbers of rows, such as {{'train': 2490}}, not "
            f"{quoted(dataset.rows)}."
        )
    if not isinstance(dataset.commercial, bool | None):
        raise UserError(
            f"{where}: commercial is True, False or None (not known), not "
            f"{quoted(dataset.commercial)}."
        )
    if not callable(dataset.row):
        raise UserError(
            f"{where}: row is a function that reads a raw row, not {quoted(dataset.row)}."
        )
    check_number(f"train_cap of {where}", dataset.train_cap, whole=True, least=1)
    for template in dataset.templates:
        for name in ("id", "inputs", "targets", "kind"):
            if not isinstance(getattr(template, name), str):
                raise UserError(
                    f"{where}: {name} of a template is text, not {quoted(getattr(template, name))}."
                )
        for text in (template.inputs, template.targets):
            _check_characters(f"template {dataset.name}/{shown(template.id)}", text)


def _maps_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(text, str) for text in (*value.keys(), *value.values())
    )


def _check_characters(where: str, text: str) -> None:
    """Raises a UserError for control characters, and for half of a character, which cannot be
    written as UTF-8.
    """
    if text.replace("\n", "").isprintable():
        return
    wrong = next(
        (c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs")), None
    )
    if wrong is not None:
        raise UserError(f"{where} has the character {wrong!r}, which no text holds; take it out.")


def _check_options(where: str, options: tuple[str, ...] | str | None) -> None:
    if options is None or (isinstance(options, str) and options == FROM_ROW):
        return
    if not isinstance(options, tuple) or not all(isinstance(option, str) for option in options):
        raise UserError(
            f"{where}: options are a tuple of strings, FROM_ROW or None, not {quoted(options)}."
        )
    for option in options:
        _check_characters(f"{where}: option {quoted(option)}", option)
    texts = {option.strip() for option in options}
    if len(options) < 2 or len(texts) < len(options) or "" in texts:
        raise UserError(
            f"{where}: options are two texts or more, none empty and no two the same, not "
            f"{quoted(options)}; None is for free text."
        )


def _check_hub(dataset: Dataset) -> None:
    where = f"dataset {dataset.name!r}"
    hub = dataset.hub
    if (
        not isinstance(hub, Hub)
        or not isinstance(hub.id, str)
        or not re.fullmatch(r"[\w.-]+/[\w.-]+", hub.id)
    ):
        raise UserError(f"{where}: hub is a Hub('owner/name', ...), not {quoted(hub)}.")
    if not (
        isinstance(hub.config, str)
        and _maps_texts(hub.splits)
        and _maps_texts(hub.rename)
        and isinstance(hub.classes, Mapping)
        and (hub.row is None or callable(hub.row))
    ):
        raise UserError(
            f"{where}: in a Hub, config is text, splits and rename are dicts of texts, classes is "
            f"a dict, and row is a function or None; it has {quoted(hub)}."
        )
    raw_splits = {spec.split("[")[0] for spec in dataset.splits.values()}
    unknown = set(dataset.hub.splits) - raw_splits
    if unknown:
        raise UserError(
            f"{where}: its Hub renames the split {min(unknown)!r}, which is not one of its raw "
            f"splits ({', '.join(sorted(raw_splits))})."
        )


def _check_template(dataset: Dataset, template: Template) -> None:
    where = f"template {dataset.name}/{template.id}"
    if template.kind not in ("forward", "inverted"):
        raise UserError(
            f"{where} is of kind {quoted(template.kind)}; kinds are 'forward' and 'inverted'."
        )
    known = (*dataset.fields, "answer", *(("options",) if dataset.options else ()))
    for text in (template.inputs, template.targets):
        _check_layout(where, text)
        for name in placeholders(text):
            if name not in known:
                hint = did_you_mean(nearest(name, known))
                raise UserError(
                    f"{where} names the field {name!r}, which {dataset.name} does not "
                    f"produce{hint} It has {', '.join(known)}."
                )
    asked, given = set(placeholders(template.targets)), set(placeholders(template.inputs))
    if not asked or "options" in asked:
        raise UserError(
            f"{where} has targets {quoted(template.targets)}; they must name a field of the row to "
            "be learnt."
        )
    if asked & given:
        raise UserError(
            f"{where} gives its target away: {{{min(asked & given)}}} is in the inputs and the "
            f"targets."
        )
    if template.kind == "forward":
        _check_forward(where, dataset, template, given)
    elif not given - {"answer"}:
        raise UserError(
            f"{where} cannot be answered from its input: it shows no field of the row but the "
            f"answer."
        )
    elif "options" in given or asked == {"answer"}:
        raise UserError(
            f"{where} is inverted, so it must not show the options, nor ask for the answer."
        )


def _check_forward(where: str, dataset: Dataset, template: Template, given: set[str]) -> None:
    if template.targets != "{answer}":
        raise UserError(
            f"{where} is forward, so its targets must be '{{answer}}', not "
            f"{quoted(template.targets)}."
        )
    if dataset.options and "options" not in given:
        raise UserError(
            f"{where} lacks the options of a classification task: put {{options}} on a line of "
            f"its own."
        )
    evidence: Iterable[str] = dataset.fields if dataset.evidence is None else dataset.evidence
    for name in evidence:
        if name not in given:
            raise UserError(
                f"{where} cannot be answered from its input: it does not show {{{name}}}."
            )


def _check_layout(where: str, text: str) -> None:
    if text != text.strip():
        raise UserError(f"{where} begins or ends with white space; take it out.")
    if re.search(r"[ \t]+\n|\n[ \t]+|[ \t]{2}|\n{3}", text):
        raise UserError(
            f"{where} has a blank beside a line break, two blanks or three line breaks in a row."
        )
    if "options" in placeholders(text) and not re.search(r"(^|\n)\{options\}(\n|$)", text):
        raise UserError(f"{where}: {{options}} must stand on a line of its own.")
