"""Writes a row as an instruction: template, options style, instruction mode and exemplars.

Everything here is plain Python on strings and deterministic: what varies depends on a hash of the
row's id.
"""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from flan_jax.catalogue.clusters import CLUSTERS
from flan_jax.catalogue.records import FROM_ROW, Dataset, Template, placeholders
from flan_jax.errors import UserError
from flan_jax.storage.hashing import permutation, stable_hash

STYLES = ("fixed", "shuffled", "lettered", "none")
INSTRUCTIONS = ("template", "none", "dataset_name", "baseline")
# Value of SHOTS and OPTIONS_STYLE: another one for each row, by hash. As in the Flan Collection of
# 2022, half of the rows have exemplars, and half show their options, in one style or another.
MIXED = "mixed"
MIXED_SHOTS = (0, 0, 0, 1, 2, 5)
MIXED_STYLES = ("none", "none", "none", "fixed", "shuffled", "lettered")

_FIELD = re.compile(r"\{(\w+)\}")
_OPTIONS_LINE = re.compile(r"\n*\{options\}\n*")


@dataclasses.dataclass(frozen=True)
class Rendered:
    """One example as text.

    Attributes:
      inputs: what the model reads.
      targets: what it is trained to answer.
      options: the strings that rank classification scores, in the order shown; None for free text.
      answer: the right answer: one of `options`, or the dataset's own answer.
      label: index of the right option; None for free text.
      order: for each option shown, its index in the dataset's own order; None for free text.
    """

    inputs: str
    targets: str
    options: list[str] | None
    answer: str
    label: int | None
    order: list[int] | None = None


def choose_template(dataset: Dataset, row_id: str, seed: int, epoch: int) -> Template:
    """Returns the template of a training row in an epoch.

    It depends on a hash, not on the position of the row: over the epochs a row meets all templates.
    """
    return dataset.templates[stable_hash("template", row_id, seed, epoch) % len(dataset.templates)]


def shots_of(shots: int | str, row_id: str, seed: int) -> int:
    """Returns the number of exemplars of a row: `shots`, or one of MIXED_SHOTS for MIXED."""
    if shots != MIXED:
        return shots
    return MIXED_SHOTS[stable_hash("shots", row_id, seed) % len(MIXED_SHOTS)]


def style_of(options_style: str, row_id: str, seed: int) -> str:
    """Returns the options style of a row: the same, or one of MIXED_STYLES for MIXED."""
    if options_style != MIXED:
        return options_style
    return MIXED_STYLES[stable_hash("style", row_id, seed) % len(MIXED_STYLES)]


def render(
    dataset: Dataset,
    template: Template,
    row: Mapping[str, Any],
    *,
    row_id: str,
    options_style: str = "fixed",
    instructions: str = "template",
    exemplars: Sequence[Mapping[str, Any]] = (),
    seed: int = 0,
) -> Rendered:
    """Returns a row as text, written with a template.

    Args:
      dataset: the dataset of the row.
      template: one of its templates; only its kind matters where `instructions` is not 'template'.
      row: the fields of the row, as `read_row` returns them.
      row_id: names the row; decides the order of shuffled options.
      options_style: 'fixed' (a list), 'shuffled' (a list in an order that depends on the row),
        'lettered' ((A), (B), ...; the answer is the letter), 'none' (not shown, still ranked)
        or MIXED.
      instructions: 'template', 'none' (the text of the row alone) or 'dataset_name' (the same after
        the names of task and dataset), the three conditions of the paper's Figure 8; or
        'baseline', a text that a language model without tuning can continue, in the manner of
        Brown et al. 2020, Appendix G.
      exemplars: training rows to show first, each with its answer, in the same template; "Answer:"
        stands between input and answer, unless the template ends in a cue, such as "Translation:".
      seed: changes the shuffled orders.

    Raises:
      UserError: for an unknown style or mode.
    """
    options_style = style_of(options_style, row_id, seed)
    if options_style not in STYLES:
        raise UserError(f"unknown options style {options_style!r}; styles are {', '.join(STYLES)}.")
    if instructions not in INSTRUCTIONS:
        raise UserError(
            f"unknown instruction mode {instructions!r}; modes are {', '.join(INSTRUCTIONS)}."
        )
    text = _alone(dataset, template, row, row_id, options_style, instructions, seed)
    if not exemplars:
        return text
    options_shown = text.options is not None and options_style != "none"
    cue = _cue(template, instructions, options_shown)
    shots = [
        _alone(dataset, template, shot, f"{row_id}/shot{i}", options_style, instructions, seed)
        for i, shot in enumerate(exemplars)
    ]
    parts = [f"{shot.inputs}{cue} {shot.targets}" for shot in shots]
    return dataclasses.replace(text, inputs="\n\n".join([*parts, text.inputs + cue]))


def _alone(
    dataset: Dataset,
    template: Template,
    row: Mapping[str, Any],
    row_id: str,
    options_style: str,
    instructions: str,
    seed: int,
) -> Rendered:
    """A row without exemplars."""
    order = _order(row, row_id, options_style, seed)
    options, label = _options(row, order, options_style)
    answer_text = row["answer"] if options is None else row["options"][row["label"]]
    answer = answer_text if options is None else options[label]
    # An inverted template does not show the options, so a letter would have no meaning: it takes
    # the text of the option.
    in_template = answer_text if template.kind == "inverted" else answer
    values = {name: row[name] for name in dataset.fields} | {"answer": in_template}
    if instructions == "template":
        inputs = _fill(template.inputs, values, _options_block(row, order, options_style))
        targets = _fill(template.targets, values, None)
    elif instructions == "baseline":
        inputs = _baseline(dataset, template, values, row, order, options_style)
        targets = _fill(template.targets, values, None)
    else:
        inputs, targets = _plain(dataset, values, instructions), answer
    return Rendered(inputs, targets, options, answer, label, order)


def _cue(template: Template, instructions: str, options_shown: bool) -> str:
    """What stands between an input and its target in exemplars; '' after an input with a cue."""
    text = template.inputs
    if not options_shown:
        text = _OPTIONS_LINE.sub("\n\n", text).strip()
    has_cue = instructions == "baseline" or (instructions == "template" and text.endswith(":"))
    return "" if has_cue else "\nAnswer:"


def _order(row: Mapping[str, Any], row_id: str, options_style: str, seed: int) -> list[int] | None:
    """For each option shown, its index in the row; None for free text."""
    if "options" not in row:
        return None
    count = len(row["options"])
    if options_style == "shuffled":
        return permutation(count, "options", row_id, seed).tolist()
    return list(range(count))


def _options(
    row: Mapping[str, Any], order: list[int] | None, options_style: str
) -> tuple[list[str] | None, int | None]:
    """The options in the order shown, and the index of the right one; None, None for free text."""
    if order is None:
        return None, None
    label = order.index(row["label"])
    if options_style == "lettered":
        return [f"({_letter(i)})" for i in range(len(order))], label
    return [row["options"][i] for i in order], label


def _options_block(
    row: Mapping[str, Any], order: list[int] | None, options_style: str
) -> str | None:
    """The lines of the options; None where they are not shown."""
    if order is None or options_style == "none":
        return None
    lettered = options_style == "lettered"
    marks = [f"({_letter(i)})" if lettered else "-" for i in range(len(order))]
    lines = [f"{mark} {row['options'][i]}" for mark, i in zip(marks, order)]
    return "\n".join(["Options:", *lines])


def _letter(index: int) -> str:
    letters = string.ascii_uppercase
    return letters[index] if index < 26 else letters[index // 26 - 1] + letters[index % 26]


def _fill(text: str, values: Mapping[str, str], block: str | None) -> str:
    if block is None:
        text = _OPTIONS_LINE.sub("\n\n", text).strip()
    else:
        values = {**values, "options": block}
    return _FIELD.sub(lambda match: values[match.group(1)], text)


def _evidence(dataset: Dataset) -> tuple[str, ...]:
    return dataset.fields if dataset.evidence is None else dataset.evidence


def _plain(dataset: Dataset, values: Mapping[str, str], instructions: str) -> str:
    text = "\n".join(values[name] for name in _evidence(dataset))
    if instructions == "dataset_name":
        return f"[{CLUSTERS[dataset.cluster]}: {dataset.paper_dataset}] {text}"
    return text


def _baseline(
    dataset: Dataset,
    template: Template,
    values: Mapping[str, str],
    row: Mapping[str, Any],
    order: list[int] | None,
    options_style: str,
) -> str:
    """The given fields after their names, the classes as a question, the name of the target field.

    A single text with options of its row is left as it is: the options continue it.
    """
    fields = _evidence(dataset)
    continued = len(fields) == 1 and dataset.options == FROM_ROW and fields != ("question",)
    if template.kind == "inverted":
        fields = tuple(dict.fromkeys(placeholders(template.inputs)))
        target = placeholders(template.targets)[0]
    elif continued and options_style != "lettered":
        return values[fields[0]]
    else:
        others = (name for name in dataset.fields if name not in fields)
        target = next((name for name in others if values[name] == values["answer"]), "answer")
    lines = [f"{_label(name)}: {values[name]}" for name in fields]
    classes = isinstance(dataset.options, tuple) and template.kind == "forward"
    if options_style == "lettered":
        block = _options_block(row, order, options_style)
        lines += [block] if block else []
    elif classes and options_style != "none":
        *first, last = (row["options"][i] for i in order)
        lines.append(f"{', '.join(first)} or {last}?")
    return "\n".join([*lines, f"{_label(target)}:"])


def _label(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=\d)|_", " ", name).capitalize()
