"""The checks that a dataset passes before anyone can train on it.

A template is refused that names a field its dataset does not produce, lacks the options of a
classification task, or cannot be answered from its input. Each failure is one clear message that
names the dataset, the template and what to change.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from flan_jax.catalogue.clusters import check_cluster
from flan_jax.catalogue.records import FROM_ROW, Dataset, Hub, Template, placeholders
from flan_jax.config.checks import check_number, quoted
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest, shown
from flan_jax.metrics import check_metric


def check_record(dataset: Dataset) -> None:
    """Checks everything of a record but its templates' texts.

    Raises:
      UserError: for the first field that is wrong.
    """
    where = f"dataset {quoted(dataset.name)}"
    if not isinstance(dataset.name, str) or not re.fullmatch(r"[a-z0-9_]{1,100}", dataset.name):
        raise UserError(
            f"{where}: a name has lower-case letters, digits and '_' only, and at most 100 of them."
        )
    check_cluster(dataset.cluster)
    _check_kinds(where, dataset)
    _check_splits(where, dataset)
    _check_fields(where, dataset)
    _check_options(where, dataset.options)
    _check_tfds(where, dataset.tfds)
    if dataset.hub is not None:
        _check_hub(where, dataset)
    _check_metrics(where, dataset)
    _check_template_ids(where, dataset)


def _check_splits(where: str, dataset: Dataset) -> None:
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


def _check_fields(where: str, dataset: Dataset) -> None:
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


def _check_tfds(where: str, tfds: Any) -> None:
    if tfds is None or (isinstance(tfds, str) and re.fullmatch(r"[\w/.-]+:[\w.]+", tfds)):
        return
    raise UserError(
        f"{where}: tfds is 'builder/config:version', such as 'glue/rte:2.0.0', not {quoted(tfds)}."
    )


def _check_metrics(where: str, dataset: Dataset) -> None:
    if not dataset.metrics:
        raise UserError(f"{where} has no metric; 'accuracy' is the usual one for options.")
    try:
        for name in dataset.metrics:
            check_metric(name, dataset.options)
        for name in dataset.inverted_metrics:
            check_metric(name, None)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _check_template_ids(where: str, dataset: Dataset) -> None:
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
    """Checks the Python type of each attribute."""
    for name in ("fields", "templates", "metrics", "evidence", "inverted_metrics"):
        _check_tuple(where, name, getattr(dataset, name))
    for name in ("paper_dataset", "license", "manual", "shares_training_with"):
        value = getattr(dataset, name)
        optional = name in ("manual", "shares_training_with")
        if not (isinstance(value, str) or (optional and value is None)):
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
        _check_template_texts(where, dataset, template)


def _check_tuple(where: str, name: str, value: Any) -> None:
    if value is None and name == "evidence":
        return
    kind = Template if name == "templates" else str
    if isinstance(value, tuple) and all(isinstance(item, kind) for item in value):
        return
    what = "Template(...)" if kind is Template else "names"
    raise UserError(
        f"{where}: {name} is a tuple of {what}, not {quoted(value)}; a tuple of one has a comma: "
        "(x,)."
    )


def _check_template_texts(where: str, dataset: Dataset, template: Template) -> None:
    for name in ("id", "inputs", "targets", "kind"):
        value = getattr(template, name)
        if not isinstance(value, str):
            raise UserError(f"{where}: {name} of a template is text, not {quoted(value)}.")
    for text in (template.inputs, template.targets):
        _check_characters(f"template {dataset.name}/{shown(template.id)}", text)


def _maps_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(text, str) for text in (*value.keys(), *value.values())
    )


def _check_characters(where: str, text: str) -> None:
    """Refuses control characters, and lone surrogates, which cannot be written as UTF-8."""
    if text.replace("\n", "").isprintable():
        return
    wrong = next(
        (c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs")), None
    )
    if wrong is not None:
        raise UserError(
            f"{where} has the character {wrong!r}, which a text may not have; remove it."
        )


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


def _check_hub(where: str, dataset: Dataset) -> None:
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


def check_template(dataset: Dataset, template: Template) -> None:
    """Checks that a template can be filled with a row of its dataset, and answered.

    Raises:
      UserError: for the first fault.
    """
    where = f"template {dataset.name}/{template.id}"
    if template.kind not in ("forward", "inverted"):
        raise UserError(
            f"{where} is of kind {quoted(template.kind)}; kinds are 'forward' and 'inverted'."
        )
    _check_placeholders(where, dataset, template)
    in_inputs, in_targets = set(placeholders(template.inputs)), set(placeholders(template.targets))
    if not in_targets or "options" in in_targets:
        raise UserError(
            f"{where} has targets {quoted(template.targets)}; they must name a field of the row to "
            "be learned."
        )
    if in_targets & in_inputs:
        raise UserError(
            f"{where} gives its target away: {{{min(in_targets & in_inputs)}}} is in the inputs "
            "and the targets."
        )
    if template.kind == "forward":
        _check_forward(where, dataset, template, in_inputs)
    elif not in_inputs - {"answer"}:
        raise UserError(
            f"{where} cannot be answered from its input: it shows no field of the row but the "
            f"answer."
        )
    elif "options" in in_inputs or in_targets == {"answer"}:
        raise UserError(
            f"{where} is inverted, so it must not show the options, nor have the answer as target."
        )


def _check_placeholders(where: str, dataset: Dataset, template: Template) -> None:
    names = (*dataset.fields, "answer", *(("options",) if dataset.options else ()))
    for text in (template.inputs, template.targets):
        _check_layout(where, text)
        for name in placeholders(text):
            if name not in names:
                hint = did_you_mean(nearest(name, names))
                raise UserError(
                    f"{where} names the field {name!r}, which {dataset.name} does not "
                    f"produce{hint} It has {', '.join(names)}."
                )


def _check_forward(where: str, dataset: Dataset, template: Template, in_inputs: set[str]) -> None:
    if template.targets != "{answer}":
        raise UserError(
            f"{where} is forward, so its targets must be '{{answer}}', not "
            f"{quoted(template.targets)}."
        )
    if dataset.options and "options" not in in_inputs:
        raise UserError(
            f"{where} lacks the options of a classification task: put {{options}} on a line of "
            f"its own."
        )
    evidence: Iterable[str] = dataset.fields if dataset.evidence is None else dataset.evidence
    for name in evidence:
        if name not in in_inputs:
            raise UserError(
                f"{where} cannot be answered from its input: it does not show {{{name}}}."
            )


def _check_layout(where: str, text: str) -> None:
    if text != text.strip():
        raise UserError(f"{where} begins or ends with white space; remove it.")
    if re.search(r"[ \t]+\n|\n[ \t]+|[ \t]{2}|\n{3}", text):
        raise UserError(
            f"{where} has a blank beside a line break, two blanks or three line breaks in a row."
        )
    if "options" in placeholders(text) and not re.search(r"(^|\n)\{options\}(\n|$)", text):
        raise UserError(f"{where}: {{options}} must stand on a line of its own.")
