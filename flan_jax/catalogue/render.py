"""A row, written as an instruction: template, options style, instruction mode and exemplars.

Everything here is plain Python on strings; nothing is random but what a hash of the row's id
decides.
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
    """The template of a training row in an epoch: by hash, never by position, so that each row
    meets them all.
    """
    return dataset.templates[stable_hash("template", row_id, seed, epoch) % len(dataset.templates)]


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
    """Writes a row (as `read_row` gives it) with a template.

    Args:
      dataset: what the row belongs to.
      template: one of its templates; only its kind matters where `instructions` is not 'template'.
      row: fields of the row.
      row_id: names the row; decides the order of shuffled options.
      options_style: 'fixed' (a list), 'shuffled' (a list in an order of the row's own), 'lettered'
        ((A), (B), ...; the answer is the letter), 'none' (not shown, still ranked).
      instructions: 'template', 'none' (the row's text alone) or 'dataset_name' (the same after the
        names of task and dataset), the three conditions of the paper's Figure 8; or 'baseline', a
        text that a language model without any tuning goes on from, in the manner of Brown et al.
        2020, Appendix G.
      exemplars: rows of the training side to show first, each with its answer, in the same
        template; "Answer:" stands between the two, unless the template ends in a cue of its own,
        such as "Translation:".
      seed: changes the shuffled orders.

    Raises:
      UserError: for an unknown style or mode.
    """
    if options_style not in STYLES:
        raise UserError(f"unknown options style {options_style!r}; styles are {', '.join(STYLES)}.")
    if instructions not in INSTRUCTIONS:
        raise UserError(
            f"unknown instruction mode {instructions!r}; modes are {', '.join(INSTRUCTIONS)}."
        )
    order = _order(row, row_id, options_style, seed)
    options, label = _options(row, order, options_style)
    text_of_answer = row["answer"] if options is None else row["options"][row["label"]]
    answer = text_of_answer if options is None else options[label]
    # An inverted template does not show the options, so that a letter would say nothing: it takes
    # the option's text.
    in_template = text_of_answer if template.kind == "inverted" else answer
    values = {name: row[name] for name in dataset.fields} | {"answer": in_template}
    if instructions == "template":
        inputs = _fill(template.inputs, values, _options_block(row, order, options_style))
        targets = _fill(template.targets, values, None)
    elif instructions == "baseline":
        inputs, targets = (
            _baseline(dataset, template, values, row, order, options_style),
            _fill(template.targets, values, None),
        )
    else:
        inputs, targets = _plain(dataset, values, instructions), answer
    if exemplars:
        cue = _cue(
            template, instructions, options_shown=options is not None and options_style != "none"
        )
        shots = [
            render(
                dataset,
                template,
                shot,
                row_id=f"{row_id}/shot{i}",
                options_style=options_style,
                instructions=instructions,
                seed=seed,
            )
            for i, shot in enumerate(exemplars)
        ]
        inputs = "\n\n".join(
            [*(f"{shot.inputs}{cue} {shot.targets}" for shot in shots), inputs + cue]
        )
    return Rendered(inputs, targets, options, answer, label, order)


def _cue(template: Template, instructions: str, options_shown: bool) -> str:
    """What stands between an input and its target where exemplars are shown; '' where the input
    ends in its own cue.
    """
    own_text = (
        template.inputs if options_shown else _OPTIONS_LINE.sub("\n\n", template.inputs).strip()
    )
    has_cue = instructions == "baseline" or (instructions == "template" and own_text.endswith(":"))
    return "" if has_cue else "\nAnswer:"


def _order(row, row_id, options_style, seed) -> list[int] | None:
    if "options" not in row:
        return None
    count = len(row["options"])
    if options_style == "shuffled":
        return permutation(count, "options", row_id, seed).tolist()
    return list(range(count))


def _options(row, order, options_style) -> tuple[list[str] | None, int | None]:
    if order is None:
        return None, None
    label = order.index(row["label"])
    if options_style == "lettered":
        return [f"({_letter(i)})" for i in range(len(order))], label
    return [row["options"][i] for i in order], label


def _options_block(row, order, options_style) -> str | None:
    if order is None or options_style == "none":
        return None
    marks = [f"({_letter(i)})" if options_style == "lettered" else "-" for i in range(len(order))]
    return "\n".join(
        ["Options:", *(f"{mark} {row['options'][i]}" for mark, i in zip(marks, order))]
    )


def _letter(index: int) -> str:
    letters = string.ascii_uppercase
    return letters[index] if index < 26 else letters[index // 26 - 1] + letters[index % 26]


def _fill(text: str, values: Mapping[str, str], block: str | None) -> str:
    if block is None:
        text = _OPTIONS_LINE.sub("\n\n", text).strip()
    else:
        values = {**values, "options": block}
    return _FIELD.sub(lambda match: values[match.group(1)], text)


def _plain(dataset: Dataset, values: Mapping[str, str], instructions: str) -> str:
    evidence = dataset.fields if dataset.evidence is None else dataset.evidence
    text = "\n".join(values[name] for name in evidence)
    if instructions == "dataset_name":
        return f"[{CLUSTERS[dataset.cluster]}: {dataset.paper_dataset}] {text}"
    return text


def _baseline(
    dataset: Dataset, template: Template, values: Mapping[str, str], row, order, options_style: str
) -> str:
    """What is known after the names of its fields, the classes as a question, and the name of what
    is asked for.

    A single text whose options come from the row is left as it is: they go on with it.
    """
    fields = tuple(dataset.fields if dataset.evidence is None else dataset.evidence)
    asked = next(
        (
            name
            for name in dataset.fields
            if name not in fields and values[name] == values["answer"]
        ),
        "answer",
    )
    if template.kind == "inverted":
        fields, asked = (
            dict.fromkeys(placeholders(template.inputs)),
            placeholders(template.targets)[0],
        )
    elif (
        len(fields) == 1
        and dataset.options == FROM_ROW
        and fields != ("question",)
        and options_style != "lettered"
    ):
        return values[fields[0]]
    lines = [f"{_label(name)}: {values[name]}" for name in fields]
    if options_style == "lettered":
        lines += [block] if (block := _options_block(row, order, options_style)) else []
    elif (
        isinstance(dataset.options, tuple)
        and options_style != "none"
        and template.kind == "forward"
    ):
        *others, last = (row["options"][i] for i in order)
        lines.append(f"{', '.join(others)} or {last}?")
    return "\n".join([*lines, f"{_label(asked)}:"])


def _label(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=\d)|_", " ", name).capitalize()
